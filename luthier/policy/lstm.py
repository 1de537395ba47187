"""A recurrent policy: one state decides architecture and optimizer in turn (Pham et al. 2018; Adam, Lorraine 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.checks import checked, maybe, real, whole
from luthier.policy.decide import Params
from luthier.policy.heads import Head, logistic
from luthier.policy.policy import Policy
from luthier.seeds import Seeds
from luthier.space import Space

WIDEST_START = 0.1  # weights are uniform within this, as in ENAS


class LSTM(Policy):
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
        dtype: Floating-point type of parameters and decisions.

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
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(space, names, dtype)
        self.hidden = checked("hidden", hidden, whole(1), where="LSTM")
        self.tanh_constant = checked("tanh_constant", tanh_constant, maybe(real(above=0)), where="LSTM")
        self.temperature = checked("temperature", temperature, real(above=0), where="LSTM")

    def init(self, key: int) -> Params:
        """Small random weights, keyed; a Gaussian starts nearly uniform."""
        rng = Seeds(key).rng(0, "policy")

        def small(*shape: int) -> Tensor:
            return torch.as_tensor(rng.uniform(-WIDEST_START, WIDEST_START, shape), dtype=self.dtype)

        h = self.hidden
        params = {"start": small(h), "input": small(h, 4 * h), "state": small(h, 4 * h), "bias": small(4 * h)}
        for head in self.plan.heads:
            params[f"head {head.label}"] = small(h, len(head.start))
            params[f"start {head.label}"] = torch.tensor(head.start, dtype=self.dtype)
            params[f"embedding {head.label}"] = small(2 if head.gaussian else len(head.codes), h)
        return params

    def network(self, params: Params, rows: Tensor) -> _Recurrent:
        """Return the LSTM under ``params``."""
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
        if not head.gaussian and self.constant is not None:
            raw = self.constant * torch.tanh(raw / self.temperature)
        return raw, _State(h, c, memory.x)

    def remember(self, head: Head, memory: _State, action: Tensor, code: Tensor) -> _State:
        if head.gaussian:
            row = torch.stack((torch.ones_like(code), 2 * code - 1), -1)
        else:  # a product instead of a look-up: the tables of a stack differ
            row = (action.unsqueeze(-1) == torch.arange(len(head.codes), device=action.device)).to(code.dtype)
        return memory._replace(x=product(row, self.params[f"embedding {head.label}"]))

    def keep(self, active: Tensor, new: _State, old: _State) -> _State:
        return _State(*(torch.where(active.unsqueeze(-1), a, b) for a, b in zip(new, old, strict=True)))
