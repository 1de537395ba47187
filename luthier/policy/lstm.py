"""A recurrent policy: one state decides architecture and optimizer in turn (Pham et al. 2018; Adam, Lorraine 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.policy import Decisions, Params
from luthier.policy.decide import best, judging, plan_of, run, sampling, shares, spread
from luthier.policy.heads import Head, logistic
from luthier.seeds import Seeds
from luthier.space import Config, Space

WIDEST_START = 0.1  # weights are uniform within this, as in ENAS


class LSTM:
    """One multi-task LSTM: its state gives each decision in turn, and is fed the embedding of what was decided.

    Decisions come in the order of the space. So whatever is decided later, an optimizer's learning rate after the
    layers of the network, knows what was decided before it: the policy can represent how they interact, which a
    factorised one cannot. Inactive names are skipped, and leave no trace in the state.

    Args:
        space: The space.
        names: The names to decide; by default all.
        hidden: Width of the state.
        tanh_constant: C of C tanh(logit / T): no option is ever more than e^2C times as probable as another. None:
            the logits as they are.
        temperature: T.
        continuous: As in :class:`luthier.policy.factorised.Factorised`.
        bins: As there.
        dtype: Of parameters and decisions.

    Raises:
        MethodError: If a name or a setting cannot be.

    References:
        Pham, Guan, Zoph, Le and Dean, "Efficient neural architecture search via parameter sharing", ICML 2018.
        Adam and Lorraine, "More efficient stochastic hyperparameter optimization", section 3.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str] | None = None,
        *,
        hidden: int = 64,
        tanh_constant: float | None = 2.5,
        temperature: float = 5.0,
        continuous: Literal["gaussian", "bins"] = "gaussian",
        bins: int = 32,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
            raise MethodError(f"hidden={hidden!r} cannot be", where="policy", remedy="Give a whole number, as 64.")
        for name, value in (("tanh_constant", tanh_constant), ("temperature", temperature)):
            if value is not None and not value > 0:
                raise MethodError(f"{name}={value!r} is not above 0", where="policy", remedy="Give a positive number.")
        self.plan = plan_of(space, names, continuous, bins)
        self.hidden, self.tanh_constant, self.temperature, self.dtype = hidden, tanh_constant, temperature, dtype

    @property
    def space(self) -> Space:
        """The space of the names that are decided."""
        return self.plan.space

    @property
    def columns(self) -> int:
        """Numbers of a decision."""
        return self.plan.columns

    def init(self, key: int) -> Params:
        """Small random weights, keyed; a Gaussian starts nearly uniform."""
        rng = Seeds(key).rng(0, "policy")

        def small(*shape: int) -> Tensor:
            return torch.as_tensor(rng.uniform(-WIDEST_START, WIDEST_START, shape), dtype=self.dtype)

        h = self.hidden
        params = {"start": small(h), "input": small(h, 4 * h), "state": small(h, 4 * h), "bias": small(4 * h)}
        for head in self.plan.heads:
            params[f"head {head.label}"] = small(h, head.outputs)
            params[f"start {head.label}"] = torch.tensor(head.start, dtype=self.dtype)
            params[f"embedding {head.label}"] = small(2 if head.kind == "gaussian" else head.size, h)
        return params

    def sample(self, params: Params, noise: Tensor) -> Decisions:
        """One decision a row of ``noise``, (count, columns) in (0, 1)."""
        return run(self.plan, self._network(params, noise), sampling(noise, False))

    def rsample(self, params: Params, noise: Tensor) -> Decisions:
        """The same decisions, with the pathwise gradient of the real numbers, also through the state."""
        return run(self.plan, self._network(params, noise), sampling(noise, True))

    def evaluate(self, params: Params, actions: Tensor, *, pathwise: bool = False) -> Decisions:
        """The decisions with the given actions; with ``pathwise``, what :meth:`rsample` would say of them."""
        return run(self.plan, self._network(params, actions), judging(actions, pathwise))

    def mode(self, params: Params) -> Decisions:
        """The most probable decision of each name in turn, one row."""
        return best(self.plan, self._network(params, params["start"][..., None, :1]))

    def spread(self, params: Params, actions: Tensor) -> Tensor:
        """The deviation of each real number as a part of its domain's range, (count, columns); 0 of all else."""
        return spread(self.plan, self._network(params, actions), actions)

    def actions(self, configs: Sequence[Config]) -> Tensor:
        """The actions that stand for configurations, (count, columns)."""
        return self.plan.actions(configs, self.dtype)

    def configs(self, decisions: Decisions) -> list[Config]:
        """The configuration of each row."""
        return self.plan.configs(decisions)

    def values(self, decisions: Decisions) -> dict[str, Tensor]:
        """The Floats of each row in their own units."""
        return self.plan.values(decisions)

    def probabilities(self, params: Params, noise: Tensor) -> dict[str, Mapping[str, object]]:
        """What each name is decided by, averaged over samples."""
        return shares(self.plan, self._network(params, noise), noise)

    def _network(self, params: Params, rows: Tensor) -> _Recurrent:
        return _Recurrent(params, rows.shape[:-1], self.tanh_constant, self.temperature)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """(…, count, a) times (…, a, b), one member after the other: a product of a whole stack is rounded otherwise."""
    if matrix.ndim == 2:
        return rows @ matrix
    return torch.stack([product(r, m) for r, m in zip(rows.unbind(0), matrix.unbind(0), strict=True)])


class _State(NamedTuple):
    """(…, count, hidden) each."""

    h: Tensor
    c: Tensor
    x: Tensor  # the embedding of the last decision


class _Recurrent:
    """The LSTM under given parameters, for (…, count) decisions at once."""

    def __init__(self, params: Params, shape: torch.Size, constant: float | None, temperature: float) -> None:
        self.params, self.shape, self.constant, self.temperature = params, shape, constant, temperature

    def start(self) -> _State:
        x = self.params["start"].unsqueeze(-2).expand(*self.shape, -1)
        return _State(torch.zeros_like(x), torch.zeros_like(x), x)

    def outputs(self, head: Head, memory: _State) -> tuple[Tensor, _State]:
        params = self.params
        gates = product(memory.x, params["input"]) + product(memory.h, params["state"]) + params["bias"].unsqueeze(-2)
        i, f, g, o = gates.chunk(4, -1)
        c = logistic(f) * memory.c + logistic(i) * torch.tanh(g)
        h = logistic(o) * torch.tanh(c)
        raw = product(h, params[f"head {head.label}"]) + params[f"start {head.label}"].unsqueeze(-2)
        if head.kind != "gaussian" and self.constant is not None:
            raw = self.constant * torch.tanh(raw / self.temperature)
        return raw, _State(h, c, memory.x)

    def remember(self, head: Head, memory: _State, action: Tensor, code: Tensor) -> _State:
        if head.kind == "gaussian":
            row = torch.stack((torch.ones_like(code), 2 * code - 1), -1)
        else:  # a product instead of a look-up: the tables of a stack differ
            row = (action.unsqueeze(-1) == torch.arange(head.size, device=action.device)).to(code.dtype)
        return memory._replace(x=product(row, self.params[f"embedding {head.label}"]))

    def keep(self, active: Tensor, new: _State, old: _State) -> _State:
        return _State(*(torch.where(active.unsqueeze(-1), a, b) for a, b in zip(new, old, strict=True)))
