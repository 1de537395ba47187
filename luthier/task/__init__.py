"""Tasks to tune, at three levels: function, Trainable, TorchTask; each can be used wherever a lower one can.

May import: space, data, stack, optim, response, nn, losses, metrics.
"""

from __future__ import annotations

import dis
import inspect
import numbers
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeGuard, final, runtime_checkable

from luthier.errors import MethodError, TaskError
from luthier.space import Config, Space
from luthier.task.call import Pruned, Trial, short
from luthier.task.file import FILES, load_file

if TYPE_CHECKING:
    from luthier.task.torch_task import TorchTask  # imports torch, which functions do without

__all__ = [
    "AnyTask",
    "FunctionTask",
    "Level",
    "Pruned",
    "Task",
    "Trainable",
    "TrainableTask",
    "Trial",
    "as_task",
    "epoch_steps",
    "is_torch",
    "level",
    "load_task",
    "require_level",
    "source_of",
]

Level = Literal["function", "trainable", "torch"]
LEVELS: tuple[Level, ...] = ("function", "trainable", "torch")
_NAMES = {"function": "a function", "trainable": "a Trainable", "torch": "a TorchTask"}
_ACCEPTED = (
    "Give a function f(config) or f(config, trial), an object with init, advance and evaluate (a Trainable), "
    "or a lt.TorchTask."
)


@runtime_checkable
class Trainable(Protocol):
    """A training in pieces, over any state: what population methods and early stopping need.

    Three more methods and three attributes are used where they exist:

    - ``save(state) -> blob`` and ``load(blob) -> state``. Without them the state itself is kept, and must then be
      made of dicts, lists and tuples of tensors, NumPy arrays, numbers, strings, bytes, True, False and None.
    - ``epoch_steps(config) -> int``: steps of one pass over the data, for budgets in epochs.
    - ``space``: the search space, where it is not given beside the task.
    - ``report_every``: steps between two reports (by default an epoch, else only the end).

    Examples:
        >>> import luthier as lt
        >>> class Decay(lt.Trainable):
        ...     space = lt.Space(rate=lt.Float(0.0, 0.5))
        ...
        ...     def init(self, config, key):
        ...         return 1.0
        ...
        ...     def advance(self, state, config, steps):
        ...         return state * (1 - config["rate"]) ** steps, {}
        ...
        ...     def evaluate(self, state):
        ...         return {"loss": state}
        >>> study = lt.tune(Decay(), "pbt", trials=4, steps=20, progress=False)
        >>> study.best.value < 0.01
        True
    """

    def init(self, config: Config, key: int) -> Any:
        """The state before the first step. ``key``, in [0, 2**62), seeds all randomness of this training."""
        ...

    def advance(self, state: Any, config: Config, steps: int) -> tuple[Any, Mapping[str, Any]]:
        """The state ``steps`` further on (it may be changed in place), and metrics of the way, which may be empty."""
        ...

    def evaluate(self, state: Any) -> Mapping[str, Any]:
        """Metrics of the state, which stays as it is: they hold every objective that ``advance`` leaves out."""
        ...


@final
class FunctionTask:
    """A function with its search space.

    Args:
        function: ``f(config)`` or ``f(config, trial)``, to a number or a dict of numbers.
        space: The search space.

    Raises:
        TaskError: If it does not take one or two arguments.

    Examples:
        >>> from luthier.space import Float
        >>> FunctionTask(lambda config: config["x"] ** 2, Space(x=Float(-1, 1))).takes_trial
        False
    """

    def __init__(self, function: Callable[..., Any], space: Space) -> None:
        self.function, self.space = function, _checked_space(space, function)
        self.takes_trial = _takes_trial(function, space)

    def __call__(self, config: Config, trial: Trial) -> Any:
        """The function's value at ``config``."""
        return self.function(config, trial) if self.takes_trial else self.function(config)

    def __repr__(self) -> str:
        return f"FunctionTask({_name(self.function)})"


@final
class TrainableTask:
    """A :class:`Trainable` with its search space, its optional parts found once.

    Args:
        trainable: An object with ``init``, ``advance`` and ``evaluate``.
        space: The search space.
    """

    def __init__(self, trainable: Trainable, space: Space) -> None:
        self.trainable, self.space = trainable, _checked_space(space, trainable)
        every = getattr(trainable, "report_every", None)
        if every is not None and (not isinstance(every, numbers.Integral) or every < 1):
            raise TaskError(
                f"report_every={every!r} is not a positive integer",
                where=_name(trainable),
                remedy="It counts steps between two reports; leave it out to report once an epoch.",
            )
        if hasattr(trainable, "save") != hasattr(trainable, "load"):
            raise TaskError(
                "it has one of save and load, not both", where=_name(trainable), remedy="Write both, or neither."
            )

    def report_steps(self, config: Config) -> int | None:
        """Steps between two reports, or None where there is only the end."""
        every = getattr(self.trainable, "report_every", None)
        if every is None and hasattr(self.trainable, "epoch_steps"):
            return epoch_steps(self, config)
        return every

    def __repr__(self) -> str:
        return f"TrainableTask({_name(self.trainable)})"


Task: TypeAlias = "FunctionTask | TrainableTask | TorchTask"
AnyTask: TypeAlias = "Task | Trainable | Callable[..., Any] | str | Path"
"""Anything that a user may give as a task: also a Trainable, a function, or the path of a file that defines one."""

_LOADED: dict[tuple[str, str], Task] = {}  # (file, name) -> the task loaded from it in this process


def as_task(given: Any, space: Space | None = None) -> Task:
    """Make a task of whatever the user gave.

    Args:
        given: A TorchTask, a Trainable, a function, or a task already.
        space: The search space, for one that does not carry its own.

    Returns:
        The TorchTask or task itself, or the function or Trainable joined with its space.

    Raises:
        TaskError: If it is none of these, has no space, or has another one than ``space``.

    Examples:
        >>> from luthier.space import Float
        >>> as_task(lambda config: config["x"] ** 2, Space(x=Float(-1, 1)))
        FunctionTask(<lambda>)
    """
    _check_not_a_class(given)
    is_task = isinstance(given, FunctionTask | TrainableTask) or is_torch(given)
    _check_suggestions(given)
    own = getattr(given, "space", None)
    if own is not None and space is not None and own != space:
        raise TaskError(
            f"{_name(given)} has a space of its own, {own!r}, which differs from space={space!r}",
            where="task",
            remedy="Give the space in one place only.",
        )
    chosen = space if own is None else own
    if is_task:
        return given  # type: ignore[return-value]  # a TorchTask, told by what it can do
    if isinstance(given, Trainable):
        return TrainableTask(given, chosen)  # type: ignore[arg-type]  # a missing space is reported there
    if callable(given):
        return FunctionTask(given, chosen)  # type: ignore[arg-type]
    has = [name for name in ("init", "advance", "evaluate") if callable(getattr(given, name, None))]
    lacks = [name for name in ("init", "advance", "evaluate") if name not in has]
    close = f", which has {' and '.join(has)} but not {' and '.join(lacks)}" if has else ""
    raise TaskError(f"{short(given)} ({type(given).__name__}) was given{close}", where="task", remedy=_ACCEPTED)


def load_task(path: str | Path, name: str = "task") -> Task:
    """The task that a Python file defines: ``task``, or a function ``objective`` beside ``space``.

    The file is imported once in a process, and each call gives the same object.

    Args:
        path: The file.
        name: The name in it. A function or Trainable of this name takes the file's ``space`` where it has none.

    Raises:
        TaskError: If the file is absent, does not import, or defines no such task.
    """
    module = load_file(path)
    key = (str(FILES[module.__name__]), name)
    if key not in _LOADED:
        found = vars(module).get(name)
        if found is None and name == "task":
            found = vars(module).get("objective")
        if found is None:
            raise TaskError(f"it defines no {name!r}", where=str(path), remedy=_candidates(module))
        has_own = getattr(found, "space", None) is not None
        try:
            _LOADED[key] = as_task(found, None if has_own else vars(module).get("space"))
        except TaskError as error:
            raise TaskError(error.what, where=f"{path}: {error.where}", remedy=error.remedy) from None
    return _LOADED[key]


def source_of(task: object) -> tuple[str, str] | None:
    """(file, name) of a task that :func:`load_task` gave, so that another process can load it; else None."""
    return next((key for key, loaded in _LOADED.items() if loaded is task), None)


def _candidates(module: ModuleType) -> str:
    """Suggest what the user may have meant, among the names that the file itself defines."""
    found = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", module.__name__) in (module.__name__, "luthier.task.torch_task")
        and (
            is_torch(value) or isinstance(value, Trainable | FunctionTask | TrainableTask) or inspect.isfunction(value)
        )
    ]
    if not found:
        return "Define task = lt.TorchTask(…) in it, or a function objective(config) and space = lt.Space(…)."
    return f"It defines {', '.join(found)}: give that name, or write task = {found[0]} in the file."


def is_torch(given: Any) -> TypeGuard[TorchTask]:
    """Return True for a TorchTask, recognised by what it can do, so that torch need not be imported to ask."""
    return not inspect.isclass(given) and hasattr(given, "program") and hasattr(given, "static")


def level(task: Task) -> Level:
    """Return the task's level, one of the three."""
    if isinstance(task, FunctionTask):
        return "function"
    return "trainable" if isinstance(task, TrainableTask) else "torch"


def require_level(task: Task, needed: Level, what: str) -> None:
    """Refuse a method that asks for more than the task can do.

    Args:
        task: The task.
        needed: The lowest level that will do.
        what: The reason that it is needed, as a clause: ``"PBT continues trainings"``.

    Raises:
        MethodError: If the task is at a lower level.
    """
    if LEVELS.index(level(task)) < LEVELS.index(needed):
        higher = " or ".join(_NAMES[name] for name in LEVELS[LEVELS.index(needed) :])
        raise MethodError(
            f"{what}, and {task!r} is {_NAMES[level(task)]}",
            where="method",
            remedy=f"It needs {higher}; a function is called once and cannot be continued or looked into.",
        )


def epoch_steps(task: Task, config: Config) -> int:
    """Training steps of one epoch under ``config``; 1 for a function and for a Trainable that does not say.

    Raises:
        TaskError: If the task's own ``epoch_steps`` gives something else than a positive integer.
    """
    owner = task.trainable if isinstance(task, TrainableTask) else task
    if not hasattr(owner, "epoch_steps"):
        return 1
    steps = owner.epoch_steps(task.space.given(config))  # type: ignore[union-attr]
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 1:
        raise TaskError(
            f"epoch_steps({config}) gave {steps!r}", where=_name(owner), remedy="It must give a positive integer."
        )
    return int(steps)


def _checked_space(space: Any, owner: Any) -> Space:
    if not isinstance(space, Space):
        raise TaskError(
            "there is no search space" if space is None else f"space={short(space)} is not a Space",
            where=f"task {_name(owner)}",
            remedy="Give space=lt.Space(lr=lt.Float(1e-4, 1.0, log=True), …).",
        )
    return space


def _check_not_a_class(given: Any) -> None:
    """Raise a TaskError for a class: an object of it may be a task."""
    if inspect.isclass(given):
        steps = callable(getattr(given, "step", None)) and not hasattr(given, "advance")
        remedy = "Write init(config, key), advance(state, config, steps) and evaluate(state), and give an object of it."
        raise TaskError(
            f"the class {given.__name__} was given",
            where="task",
            remedy=remedy if steps else f"Give an object: {given.__name__}(…).",
        )


def _check_suggestions(function: Any) -> None:
    """Raise a TaskError where a function asks an argument for values, ``trial.suggest_float(…)``."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for before, after in pairwise(dis.get_instructions(code)):
        asked = str(after.argval)
        if before.opname.startswith("LOAD_FAST") and before.argval in code.co_varnames[: code.co_argcount]:
            if after.opname in ("LOAD_METHOD", "LOAD_ATTR") and asked.startswith("suggest_"):
                raise TaskError(
                    f"it calls {before.argval}.{asked}, and is given a configuration whose values are chosen already",
                    where=f"task {_name(function)}",
                    remedy='Declare the space, space=lt.Space(x=lt.Float(-10, 10)), and read config["x"]: '
                    "docs/from_optuna.md has each of Optuna's words.",
                )


def _takes_trial(function: Callable[..., Any], space: Space) -> bool:
    """Return True if ``function`` is f(config, trial) rather than f(config)."""
    where = f"task {_name(function)}"
    if inspect.iscoroutinefunction(function):
        raise TaskError("it is an async function", where=where, remedy="Give a plain one: asyncio.run(…) inside it.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not tell: they get the configuration
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    takes_one = positional or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    called = len(required) <= 2 and len(required) <= len(positional) and takes_one  # it can be, with one or two things
    clash = next((name for name in required if name in space.names), None)
    if called and clash is not None and clash == required[0] and required[1:] in ([], ["trial"]):
        raise TaskError(
            f"it takes ({', '.join(str(p) for p in parameters)}), and {clash} is a hyperparameter: a function is given "
            "the whole configuration, a dict",
            where=where,
            remedy=f'Call the argument config, f(config) or f(config, trial), and read config["{clash}"] inside.',
        )
    if not called or clash is not None:
        raise TaskError(
            f"it takes ({', '.join(str(p) for p in parameters)})",
            where=where,
            remedy='Write f(config) or f(config, trial), and read config["name"] inside.',
        )
    return len(required) == 2 or any(p.name == "trial" for p in positional[1:2])


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", None) or type(thing).__name__
