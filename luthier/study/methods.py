"""The table of tuning methods: the class, the paper and the example of each name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

from luthier.optional import optional

MethodName = Literal[
    "random",
    "grid",
    "gp",
    "diverse",
    "gflownet",
    "tpe",
    "cmaes",
    "nsga2",
    "genetic",
    "pbt",
    "pb2",
    "hyperband",
    "asha",
    "freeze_thaw",
    "median",
    "hypergradient",
    "hypernet",
    "bilevel",
    "enas",
]
"""The names of the table, for type checkers; a test holds the two against each other."""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        name: Name for ``tune(task, method=name)`` and ``luthier tune --method name``.
        path: ``"module:class"``, imported when the method is first used.
        kind: ``"between"`` (a proposer: decides between trainings) or ``"during"`` (an adapter: moves
            hyperparameters while the weights move).
        summary: One line for the table of ``luthier methods``.
        paper: The source, author and year.
        file: The file that defines it.
        example: A short script that uses it; empty when there is none.
        several: ``"module:class"`` of what it is where there are several objectives; empty where it is the same.

    Examples:
        >>> import luthier as lt
        >>> lt.METHODS["pbt"].kind, lt.METHODS["hypergradient"].kind
        ('between', 'during')
    """

    name: str
    path: str
    kind: Literal["between", "during"]
    summary: str
    paper: str
    file: str
    example: str = ""
    several: str = ""

    def load(self, objectives: int = 1) -> type:
        """The class itself, for so many objectives.

        Raises:
            MethodError: If it needs a package that is not installed.
        """
        module, _, name = (self.several if self.several and objectives > 1 else self.path).partition(":")
        return getattr(importlib.import_module(module), name)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "random",
            "luthier.propose.random:Random",
            "between",
            "independent draws from the space",
            "Bergstra and Bengio 2012",
            "luthier/propose/random.py",
            "examples/fashion_mnist.py",
        ),
        Method(
            "grid",
            "luthier.propose.grid:Grid",
            "between",
            "every point of a regular grid, log-spaced where the space is",
            "classical",
            "luthier/propose/grid.py",
            "examples/grid.py",
        ),
        Method(
            "gp",
            "luthier.propose.gp:GaussianProcess",
            "between",
            "a Gaussian process and expected improvement, for 20 to 300 trials",
            "Jones et al. 1998; Snoek et al. 2012",
            "luthier/propose/gp.py",
            "examples/gp.py",
            "luthier.interop.botorch:HypervolumeImprovement",
        ),
        Method(
            "diverse",
            "luthier.propose.diverse:Diverse",
            "between",
            "several good configurations that differ: a Gaussian process, and the improvement expected of the set",
            "after Maus et al. 2023",
            "luthier/propose/diverse.py",
            "examples/diverse.py",
        ),
        Method(
            "gflownet",
            "luthier.propose.gflownet:GFlowNet",
            "between",
            "batches of different good configurations; any study becomes a sampler of good ones",
            "after LaBash and Sepulveda 2024, by default without its two networks",
            "luthier/propose/gflownet.py",
            "examples/gflownet.py",
        ),
        Method(
            "tpe",
            "luthier.interop.optuna.proposers:TPE",
            "between",
            "densities of the good and of the other results, by Optuna",
            "Bergstra et al. 2011",
            "luthier/interop/optuna/proposers.py",
            "examples/tpe.py",
        ),
        Method(
            "cmaes",
            "luthier.interop.cmaes:CMAES",
            "between",
            "a normal distribution that follows the better half, for numbers",
            "Hansen and Ostermeier 2001",
            "luthier/interop/cmaes.py",
        ),
        Method(
            "nsga2",
            "luthier.interop.optuna.proposers:NSGA2",
            "between",
            "a genetic algorithm for several objectives, by Optuna",
            "Deb et al. 2002",
            "luthier/interop/optuna/proposers.py",
        ),
        Method(
            "genetic",
            "luthier.propose.genetic:Genetic",
            "between",
            "generations by selection, crossover and mutation; weights may be inherited",
            "Evolving Hyperparameters (see docs/genetic.md)",
            "luthier/propose/genetic.py",
            "examples/genetic.py",
        ),
        Method(
            "pbt",
            "luthier.propose.pbt:PBT",
            "between",
            "members train side by side, the poor ones copy the good ones and vary them: a schedule",
            "Jaderberg et al. 2017",
            "luthier/propose/pbt.py",
            "examples/pbt.py",
        ),
        Method(
            "pb2",
            "luthier.propose.pb2:PB2",
            "between",
            "population based training whose moves come from a Gaussian process of what helped lately",
            "Parker-Holder et al. 2020",
            "luthier/propose/pb2.py",
            "examples/pb2.py",
        ),
        Method(
            "hyperband",
            "luthier.propose.hyperband:Hyperband",
            "between",
            "many short trainings, of which the best are continued, in rounds",
            "Li et al. 2018",
            "luthier/propose/hyperband.py",
            "examples/hyperband.py",
        ),
        Method(
            "asha",
            "luthier.propose.asha:ASHA",
            "between",
            "many short trainings, of which the best are continued, without waiting",
            "Li et al. 2020",
            "luthier/propose/asha.py",
        ),
        Method(
            "freeze_thaw",
            "luthier.propose.freeze_thaw:FreezeThaw",
            "between",
            "a Gaussian process of learning curves: goes on with what promises most at its end",
            "Swersky et al. 2014",
            "luthier/propose/freeze_thaw.py",
        ),
        Method(
            "median",
            "luthier.propose.median:Median",
            "between",
            "stops what was always worse than the median so far, functions too",
            "Golovin et al. 2017",
            "luthier/propose/median.py",
        ),
        Method(
            "hypergradient",
            "luthier.adapt.hypergradient:Hypergradient",
            "during",
            "the learning rate follows its own gradient while the weights train",
            "Baydin et al. 2018",
            "luthier/adapt/hypergradient.py",
            "examples/hypergradient.py",
        ),
        Method(
            "hypernet",
            "luthier.adapt.hypernet:Hypernet",
            "during",
            "a hypernetwork learns how the weights respond to a few hyperparameters, which follow it",
            "Lorraine and Duvenaud 2018; MacKay et al. 2019",
            "luthier/adapt/hypernet.py",
            "examples/hypernet.py",
        ),
        Method(
            "bilevel",
            "luthier.adapt.bilevel:Bilevel",
            "during",
            "regularisation follows the gradient of the validation loss, thousands of numbers at once",
            "Pedregosa 2016; Lorraine et al. 2020",
            "luthier/adapt/bilevel.py",
            "examples/bilevel.py",
        ),
        Method(
            "enas",
            "luthier.adapt.enas:Enas",
            "during",
            "a controller decides architecture and optimizer over shared weights; the best are trained from scratch",
            "Pham et al. 2018; Adam and Lorraine 2018",
            "luthier/adapt/enas.py",
            "examples/enas.py",
        ),
    )
}


# Ours: what other tools call it, in lower case.
ELSEWHERE = {
    "tpe": "tpesampler optuna optunasearch hyperopt hyperoptsearch bohb tunebohb",
    "gp": "gpsampler bayes bayesian bayesopt bayesoptsearch botorch botorchsampler bo ax axsearch skopt smac hebo",
    "random": "randomsampler randomsearch random_search basicvariantgenerator rs",
    "grid": "gridsampler grid_search gridsearch bruteforcesampler",
    "cmaes": "cmaessampler cma cma-es nevergrad nevergradsearch",
    "nsga2": "nsgaiisampler nsgaiiisampler nsga nsgaii",
    "genetic": "evolution evolutionary ga de",
    "asha": "ashascheduler asynchyperband asynchyperbandscheduler successivehalvingpruner sha halving",
    "hyperband": "hyperbandscheduler hyperbandpruner",
    "median": "medianpruner medianstoppingrule medianstopping percentilepruner",
    "pbt": "populationbasedtraining",
}


def starter(adapter: Any) -> Any:
    """Return the class of the proposer that comes with an adapter alone: the one that it names, or random search.

    It may name ``"derive"``, a method of the table, or its own as ``"module:class"``.
    """
    named = optional(adapter, "proposer")
    path = "luthier.propose.derive:Derive" if named == "derive" else METHODS[named].path if named in METHODS else named
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def parts_of(name: str, objectives: int = 1, alone: bool = True) -> list[Any]:
    """The class of a method and, where it adapts and is given alone, that of the proposer that comes with it."""
    kind = METHODS[name].load(objectives)
    return [kind, starter(kind)] if alone and METHODS[name].kind == "during" else [kind]


def settable(kind: Any) -> list[Any]:
    """The fields of a method's class that a user sets: what bind() adds is hidden from the repr."""
    return [field for field in dataclasses.fields(kind) if field.init and field.repr]


def settings_of(name: str, alone: bool = True) -> dict[str, tuple[str, str]]:
    """The settings of a method: for each its default as text, and what its docstring says of it.

    Args:
        name: The method.
        alone: True for those of the proposer that comes with an adapter, too.

    Examples:
        >>> settings_of("pbt")["rounds"][0]
        '10'
    """
    found: dict[str, tuple[str, str]] = {}
    for kind in parts_of(name, alone=alone):
        told = _arguments(inspect.getdoc(kind) or "")
        for field in settable(kind):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            shown = "" if default is dataclasses.MISSING else repr(default)
            found[field.name] = (shown, told.get(field.name, ""))
    return found


def _arguments(doc: str) -> dict[str, str]:
    """Return the entries under Args in a docstring, by name."""
    _, _, rest = doc.partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        if entry := re.match(r" {4}(\w+)(?: \(.*?\))?: (.*)", line):
            name, found[entry[1]] = entry[1], entry[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
        else:
            name = ""
    return found
