"""A controller of architecture and optimizer over shared weights (Pham et al. 2018; Adam and Lorraine 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.adapt.children import ChildTraining, Response, Verdict, judge, part_of, put_back, ruined
from luthier.adapt.common_weights import CommonWeights
from luthier.adapt.controller import SITE, decided, defaults, finite, hyper_of, norm_of, policy_of, row, sample, shown
from luthier.adapt.draw import Draw
from luthier.adapt.plain import Plain
from luthier.checks import one_of, real, require, whole
from luthier.errors import MethodError
from luthier.optim import SGD, Adam
from luthier.optim.common import Tensors
from luthier.policy import Decisions, Policy
from luthier.policy.collapse import collapsed
from luthier.policy.outer import by_code
from luthier.policy.reinforce import Reinforce
from luthier.space import Config
from luthier.stack import Noise
from luthier.task.program import Batch, Program, State

TOLD_EVERY = 10  # steps between two looks at the controller


@dataclass(frozen=True)
class Enas:
    """Trains one set of weights under decisions that a controller samples, and the controller by what they lead to.

    The controller decides names of the space: options of :class:`luthier.nn.Choose`, widths, the family of a
    :class:`luthier.optim.Switch` and its settings, rates of dropout. At each step it samples some children; each in
    turn trains its own part of the shared weights for a few minibatches, and gets a reward: minus a validation loss.
    With ``shared``, a child whose optimizer is decided trains a copy under its own, by which it is judged, and the
    shared weights move under one that is safe for all. Then the controller moves once, by REINFORCE with these
    rewards. The outer gradient is the sum of a direct and a response part (Adam and Lorraine, eq. 2), and both are
    reported. The direct part judges the weights as the child finds them: it knows nothing of learning rates. The
    response part counts what the child's own training makes of them:

    ============== ====================================================================================================
    ``"none"``     nothing, as in ENAS
    ``"unrolled"`` L_V(w') - L_V(w) for the weights w' after its steps; derivatives go back through the steps
    ``"identity"`` the same; derivatives take the gradients of the steps as constants: no second derivatives
    ``"implicit"`` ∇L_V · (w* - w), w* by one Newton step of the training loss, with conjugate gradients
    ============== ====================================================================================================

    Except under ``"none"``, real numbers are learnt by their derivative through the same weights (pathwise) and not by
    score. Under ``"implicit"`` what the optimizer alone reads, such as a learning rate, is differentiated as under
    ``"identity"``, for it has no implicit response.

    Weights, momentum and moments that are not in a child do not move in its steps, and Adam's bias correction counts
    the updates of each weight. Names that ``model(config)`` itself reads cannot change during a training: the proposer
    decides them. What is measured is that of the controller's most probable child, under names such as
    ``shared_loss``; given to ``tune`` alone, this adapter comes with :class:`luthier.propose.Derive`, which draws and
    ranks children when the search has ended, and trains the best from scratch.

    Args:
        response: Row of the table above.
        decide: The names that are decided; by default all that can be. Others stay as the proposer has set them.
        policy: ``"lstm"``, where each decision knows those before it, or ``"factorised"``.
        learner: Learner of the controller; None leaves it as it starts: uniform sampling, a random search over shared
            weights.
        samples: Number of children in one step of the controller.
        steps: Number of minibatches on which each of them trains. The search is rounded down to whole steps of the
            controller, ``samples`` times ``steps`` minibatches.
        warmup: Epochs before the controller moves.
        shared: Optimizer of the shared weights where the controller decides settings of the task's; both read the same
            minibatches, at about twice the cost of a step. None: the child's own trains the shared weights themselves.
        guard: Largest rise of the loss of a child's first minibatch by the steps of the shared weights. Those that
            exceed it are undone: one child must not ruin the weights of all. The controller still learns from it.
        iterations: Number of iterations of conjugate gradients, under ``"implicit"``.
        damping: Added to the Hessian, under ``"implicit"``.

    Raises:
        MethodError: If a setting makes no sense.

    Examples:
        >>> Enas("unrolled", samples=8).window
        40

    References:
        Pham, Guan, Zoph, Le and Dean, "Efficient neural architecture search via parameter sharing", ICML 2018.
        Adam and Lorraine, "More efficient stochastic hyperparameter optimization", equation 2.
    """

    response: Response = "none"
    decide: Sequence[str] | None = None
    policy: Literal["lstm", "factorised"] = "lstm"
    learner: Reinforce | None = field(default_factory=Reinforce)
    samples: int = 4
    steps: int = 5
    warmup: float = 1.0
    shared: SGD | Adam | None = None
    guard: float = 0.1
    iterations: int = 5
    damping: float = 0.1

    needs_valid: ClassVar[bool] = True
    traceable: ClassVar[bool] = False  # it runs the modules that were decided for, and no others
    shares_weights: ClassVar[bool] = True
    proposer: ClassVar[str] = "derive"
    earlier: ClassVar[Any] = ({"shared": None},)

    def __post_init__(self) -> None:
        if self.decide is not None:
            object.__setattr__(self, "decide", tuple([self.decide] if isinstance(self.decide, str) else self.decide))
        rules = {"samples": whole(2), "steps": whole(1), "iterations": whole(1), "policy": one_of("lstm", "factorised")}
        rules |= {name: real(0) for name in ("warmup", "guard", "damping")}
        require(self, "Enas", response=one_of("none", "identity", "unrolled", "implicit"), **rules)
        if self.shared is not None and not (isinstance(self.shared, SGD | Adam) and self.shared.lr):
            raise MethodError(
                f"shared must be lt.optim.SGD(lr=…), lt.optim.Adam(lr=…) or None, got {self.shared!r}",
                where="Enas",
                remedy="Give shared=lt.optim.Adam(lr=1e-3), with a learning rate: it is not searched.",
            )

    @property
    def window(self) -> int:
        """Minibatches of one step of the controller."""
        return self.samples * self.steps

    def phase(self, tag: Mapping[str, Any]) -> Any:
        """Return the adapter that trains a job: the search, a child drawn from it, or plain training from scratch."""
        phases = {"search": self, "draw": Draw(self.policy, self.decide, self._pathwise), "train": Plain()}
        return phases[tag.get("phase", "search")]

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """A fresh search, or the continuation of one.

        Raises:
            MethodError: If a name cannot be decided during a training, or there is none.
        """
        policy = policy_of(self.policy, self.decide, task)
        full = {**defaults(task.task.space), **config}
        state = task.init(full, key, parent, overwrite)
        if "enas" not in state["own"]:
            learner = (self.learner or Reinforce()).init(policy.init(key))
            told = self._told(task, policy, learner, Noise(state["key"], state["t"], SITE))
            own = pytree.tree_map(lambda tensor: tensor.to(task.device)[None], {"enas": learner, "told": told})
            state = {**state, "own": {**state["own"], **own}}
        common = self._common(task, policy)
        return state if common is None else common.begun(state)

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """One step of the controller, for one member after the other: their networks differ.

        Metrics, each (members,): ``train_loss``; ``reward`` and its parts ``reward_direct`` and ``reward_response``;
        ``entropy`` of the controller; ``undone``, the share of children that the guard stopped. At every tenth step
        anew: ``gradient_direct`` and ``gradient_response``, norms of what the parts contribute to the controller's
        gradient; ``collapsed``, 1 where one decision is all that is left; ``policy.…``, what names are decided by.
        """
        assert valid is not None, "needs_valid"
        results = []
        for i in range(len(state["t"])):
            member = pytree.tree_map(lambda tensor, i=i: tensor[i : i + 1], state)
            results.append(self._one(task, member, [row(task, b, i) for b in batches], row(task, valid, i)))
        return pytree.tree_map(lambda *tensors: torch.cat(tensors), *results)

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """The most probable decisions, (members,) each; of a choice of modules or optimizers its position, int64."""
        return decided(state)

    def _one(self, task: Program, state: State, batches: list[Batch], valid: Batch) -> tuple[State, dict[str, Tensor]]:
        """The step of a stack of one."""
        policy = policy_of(self.policy, self.decide, task)
        learner = pytree.tree_map(lambda tensor: tensor[0], state["own"]["enas"])
        noise = Noise(state["key"], state["t"], SITE)
        decisions, common = sample(policy, learner["params"], noise, self.samples), self._common(task, policy)
        values = policy.values(decisions)
        verdicts, undone = [], 0
        for i, config in enumerate(policy.configs(decisions)):
            hyper = hyper_of(task, policy, state, config)
            floats = {name: hyper[name] for name in values if name in hyper} if self._pathwise else {}
            mine = batches[i * self.steps : (i + 1) * self.steps]
            problem = ChildTraining(task, part_of(task, state, hyper), floats, mine, valid)
            after, verdict = judge(problem, self.response, self._settings, trains=common is None)
            if common is not None:
                problem, after, verdict = common.train(state, problem, verdict)
            if ruined(problem, after, verdict.losses, self.guard):
                verdict, undone = verdict._replace(losses=verdict.losses[:1]), undone + 1
                state = {**state, "t": state["t"] + self.steps}
            else:
                state = put_back(state, after) if common is None else common.put_back(state, after)
            verdicts.append(verdict)
        rewards, pathwise = self._rewards(verdicts, decisions, values)
        after, facts = self._learn(task, policy, learner, decisions, rewards, pathwise, state)
        (config,) = policy.configs(finite(policy.mode(after["params"])))
        hyper = {**state["hyper"], **task.hyper(config)}
        told = {name: tensor[0] for name, tensor in state["own"]["told"].items()}
        if int(state["t"][0]) // self.window % TOLD_EVERY == 0:
            parts = {part: (x, pathwise if part == "response" else None) for part, x in rewards.items()}
            norms = {f"gradient_{part}": norm_of(policy, learner, decisions.actions, *x) for part, x in parts.items()}
            told = self._told(task, policy, after, noise, norms)
        own = pytree.tree_map(lambda tensor: tensor[None], {"enas": after, "told": told})
        metrics = {
            "train_loss": _mean_of_finite(torch.stack([verdict.losses.mean() for verdict in verdicts])),
            "undone": torch.tensor(undone / self.samples),
            **facts,
        }
        metrics = {name: x.to(task.task.dtype)[None] for name, x in metrics.items()}
        return {**state, "hyper": hyper, "own": {**state["own"], **own}}, {**metrics, **own["told"]}

    def _told(self, task: Program, policy: Policy, learner: Any, noise: Noise, norms: Tensors | None = None) -> Tensors:
        """Return the facts reported about the controller from time to time, () each."""
        known = all(bool(x.isfinite().all()) for x in learner["params"].values())
        gone = known and collapsed(policy, learner["params"]).collapsed
        told = norms or dict.fromkeys(("gradient_direct", "gradient_response"), torch.zeros(()))
        params = learner["params"] if known else policy.init(0)  # of a member that has diverged nothing is known
        told = {**told, "collapsed": torch.tensor(float(gone)), **shown(policy, params, noise)}
        return {name: torch.as_tensor(x, dtype=task.task.dtype) for name, x in told.items()}

    def _rewards(
        self, verdicts: list[Verdict], decisions: Decisions, values: Tensors
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The rewards of the children, (samples,), in their parts, and their derivative by the codes.

        One that is not finite counts as the worst of the others: a decision that ruins the weights must lose by it.
        """
        parts = {"direct": [v.direct for v in verdicts], "response": [v.response for v in verdicts]}
        rewards = {part: torch.stack(numbers).double() for part, numbers in parts.items()}
        total = rewards["direct"] + rewards["response"]
        known = total.isfinite()
        if bool(known.any()):
            worst = total[known].argmin()
            rewards = {part: torch.where(known, x, x[known][worst]) for part, x in rewards.items()}
        if not self._pathwise:
            return rewards, None
        slopes = {
            name: torch.stack([v.slopes.get(name, torch.zeros(1))[0] for v in verdicts]).to(value.dtype).view_as(value)
            for name, value in values.items()
        }
        return rewards, by_code(decisions, values, slopes) if slopes else torch.zeros_like(decisions.codes)

    def _learn(
        self,
        task: Program,
        policy: Policy,
        learner: Any,
        decisions: Decisions,
        rewards: dict[str, Tensor],
        pathwise: Tensor | None,
        state: State,
    ) -> tuple[Any, dict[str, Any]]:
        """The controller after its step, and facts."""
        rule = self.learner or Reinforce()
        actions, total = decisions.actions.detach(), rewards["direct"] + rewards["response"]
        after, facts = rule.update(policy, learner, actions, total, pathwise=pathwise)
        warm = float(state["t"][0]) / task.epoch_steps > self.warmup
        if not warm:  # the baseline learns from the beginning, the controller does not
            after = {**learner, **{name: after[name] for name in ("baseline", "variance", "weight")}}
        means = {f"reward_{part}": x.mean() for part, x in rewards.items()}
        return (after if self.learner else learner), {"reward": facts["reward"], "entropy": facts["entropy"], **means}

    def _common(self, task: Program, policy: Policy) -> CommonWeights | None:
        """The training of the shared weights, where it is not that of the children themselves."""
        if self.shared is None or not set(policy.space) & set(task.optimizer.reads):
            return None
        return CommonWeights.of(task, self.shared)

    @property
    def _pathwise(self) -> bool:
        return self.response != "none"

    @property
    def _settings(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "damping": self.damping} if self.response == "implicit" else {}


def _mean_of_finite(losses: Tensor) -> Tensor:
    """The mean over the children whose loss is a number: the others were undone. NaN where there is none."""
    return losses[losses.isfinite()].mean()
