"""The weights of a network at any value of its hyperparameters, from a hypernetwork that was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from luthier.adapt import draws
from luthier.adapt.samples import repeated
from luthier.adapt.structures import size
from luthier.errors import MethodError
from luthier.optim.common import Tensors

if TYPE_CHECKING:
    from luthier.space import Config
    from luthier.task.program import Program, State

AT_ONCE = 64  # configurations whose networks are evaluated as one stack


@final
class BestResponse:
    """Result of :meth:`luthier.Study.response`: a trained hypernetwork, to be asked for any configuration.

    A configuration names the hyperparameters that the hypernetwork knows; those left out are as they were at the end of
    the training. Other names of the space may be there, and change nothing.

    Attributes:
        structure: Structure of the hypernetwork, a row of `luthier.adapt.structures`; the choice that ``"auto"`` made.
        config: The configuration at the end of the training.
        names: The hyperparameters to which the weights respond.
        numbers: Parameter count of the hypernetwork, including that of the network itself.

    Examples:
        >>> import luthier as lt
        >>> from luthier.testing.adapters import digits_task
        >>> task = digits_task(space=lt.Space(dropout=lt.Float(0.0, 0.6)), optimizer=lt.optim.Adam(lr=3e-3))
        >>> study = lt.tune(task, method="hypernet", epochs=2, progress=False)
        >>> response = study.response()
        >>> response
        BestResponse(linear, 7,060 numbers, of dropout)
        >>> response.weights({"dropout": 0.1})["1.weight"].shape
        torch.Size([32, 64])
        >>> 0 < response.loss({"dropout": 0.1}) < 2.3
        True
    """

    def __init__(
        self,
        program: Program,
        config: Config,
        state: State,
        domains: draws.Domains,
        structure: str,
        weights: Callable[[Tensor], Tensors],
    ) -> None:
        self.structure, self.names = structure, tuple(domains)
        self.config = {**config, **{name: state["hyper"][name][0].tolist() for name in domains}}
        own = state["own"]["hypernet"]
        self.numbers = size({**own.get("base", state["params"]), **own["response"]})
        self._program, self._state, self._domains, self._weights = program, state, domains, weights

    def __repr__(self) -> str:
        return f"BestResponse({self.structure}, {self.numbers:,} numbers, of {', '.join(self.names)})"

    def weights(self, config: Mapping[str, Any]) -> Tensors:
        """The weights by name at ``config``, as of ``named_parameters()``.

        Raises:
            ConfigError: If a value is outside its domain.
            MethodError: If a name is unknown.
        """
        return {name: tensor[0] for name, tensor in self._stack([config])["params"].items()}

    def model(self, config: Mapping[str, Any]) -> nn.Module:
        """The user's module with the weights at ``config``, in evaluation mode."""
        return self._program.module(self.config, self._stack([config]))

    def loss(self, config: Mapping[str, Any], split: str = "valid") -> float:
        """The mean loss at ``config`` over ``"train"``, ``"valid"`` or ``"test"``, as a study measures it."""
        return self.losses([config], split)[0]

    def losses(self, configs: Sequence[Mapping[str, Any]], split: str = "valid") -> list[float]:
        """:meth:`loss` of many configurations."""
        found = []
        for i in range(0, len(configs), AT_ONCE):
            found += self._program.evaluate(self._stack(configs[i : i + AT_ONCE]), split)["loss"].tolist()
        return found

    @torch.no_grad()
    def _stack(self, configs: Sequence[Mapping[str, Any]]) -> State:
        """The networks of some configurations, as members."""
        full = [self._completed(config) for config in configs]
        hyper = self._state["hyper"]
        asked = {
            name: torch.tensor([each[name] for each in full], dtype=hyper[name].dtype, device=hyper[name].device)
            for name in self.names
        }
        points = draws.free(self._domains, asked)
        state: State = {part: repeated(self._state[part], len(full)) for part in ("buffers", "hyper")}
        state |= repeated({part: self._state[part] for part in ("t", "key")}, len(full))
        return {**state, "params": self._weights(points.unsqueeze(0)), "hyper": {**state["hyper"], **asked}}

    def _completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        domains = self._program.task.space.domains
        unknown = [name for name in config if name not in domains]
        if unknown:
            raise MethodError(
                f"there is no hyperparameter {unknown[0]!r}",
                where="BestResponse",
                remedy=f"The weights respond to {', '.join(self.names)}.",
            )
        return {name: domains[name].check(config.get(name, self.config[name]), name) for name in self.names}
