"""The first configurations, built before any trial begins, so that what can never work is an error of the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.errors import HiddenStateError, LuthierError, MethodError, TaskError
from luthier.execute import Local
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.study.resolve import Resolved
from luthier.study.starting import begun_by
from luthier.task import FunctionTask, Task, TrainableTask
from luthier.task.call import describe
from luthier.text import warn

TRIES = 4  # failures after which the task is blamed and not a configuration
DRAWS = 256  # configurations among which one is looked for that an adapter can move
LOOKS = 16  # configurations tried to find one under which a name is read


def check_first(
    task: Task, method: Resolved, executor: Any, seed: int = 0, start: Sequence[Config] = ()
) -> Config | None:
    """Build a first training: of a Trainable its ``init``, of a TorchTask one step on the real data.

    A function is never called for it. Where training goes on elsewhere, as on a cluster, only a method's refusal
    counts: this machine may lack what others have.

    Args:
        task: Task to tune.
        method: Method that will tune it.
        executor: Executor that will run the trainings.
        seed: The study's.
        start: The user's own first configurations.

    Returns:
        The configuration that was built, if one was.

    Raises:
        TaskError: If the first few configurations all fail, with the first failure; if nothing reads a name.
        MethodError: If the adapter cannot tune the task, or the method begins configurations outside the space.
    """
    rng, adapter = Seeds(seed).rng(0, "propose"), method.adapter
    listed = begun_by(method.proposer, task.space, LOOKS, rng)
    if isinstance(task, FunctionTask):
        return None
    here = isinstance(executor, Local)
    task = task if isinstance(task, TrainableTask) or not here else task.on(executor.device)
    configs = [*start, *(task.space.sample(rng, LOOKS) if listed is None else listed)]
    first: BaseException | None = None
    for place, config in enumerate(configs[:TRIES]):
        try:
            unread = _build(task, adapter, config)
        except (KeyboardInterrupt, MethodError, HiddenStateError):
            raise
        except BaseException as error:  # SystemExit and MemoryError too, as in a trial
            first = first or error
            continue
        if unread:
            _check_readers(task, adapter, config, unread, configs[place + 1 :])
        if optional(adapter, "must_move"):
            _check_moves(task, adapter, [config, *configs, *(task.space.sample(rng, DRAWS) if listed is None else [])])
        return config
    if here and first is not None:
        _refuse(first, task)
    return None


def how_it_runs(task: Task, adapter: Any, executor: Any, config: Config, members: int | None, steps: int | None) -> str:
    """Describe in one line how the trainings of a TorchTask run; "" for other tasks.

    Args:
        task: Task to tune.
        adapter: Adapter that moves hyperparameters during a training, or None.
        executor: Executor that runs the trainings.
        config: The first configuration, which has been built.
        members: Number of trainings, or None.
        steps: Steps of each training, or None.
    """
    if isinstance(task, FunctionTask | TrainableTask):
        return ""
    from luthier.train.rehearsal import planned_run  # imports torch

    task = task.on(optional(executor, "device"))
    width = optional(executor, "width")
    members = members or 1
    return planned_run(task, adapter, config, min(members, width) if isinstance(width, int) else members, steps)


def _build(task: Any, adapter: Any, config: Config) -> Sequence[str]:
    """Build a first training under one configuration; return the names that nothing reads."""
    if isinstance(task, TrainableTask):
        task.trainable.init(task.space.given(config), 0)
        return ()
    from luthier.train.rehearsal import try_step  # imports torch

    if optional(adapter, "shares_weights"):
        program = task.sharing().program(config)
        adapter.init(program, config, 0)
        return program.unread
    unread = try_step(task, config)
    if adapter is not None:
        adapter.init(task.program(config), config, 0)
    return unread


def _check_readers(task: Any, adapter: Any, config: Config, unread: Sequence[str], others: Sequence[Config]) -> None:
    """Raise for a name that nothing reads under any of the configurations, warn where some of them do not read it."""
    left = dict.fromkeys(unread)
    for other in others:
        wanted = [name for name in left if name in other]
        if not left or not wanted or task.static(other) == task.static(config):
            continue
        try:
            still = _build(task, adapter, other)
        except Exception:  # a fault of this configuration alone: the first one was built
            continue
        for name in wanted:
            if name not in still:
                del left[name]
    if left:
        raise TaskError(
            f"nothing reads the hyperparameter {next(iter(left))!r}",
            where="TorchTask(space=…)",
            remedy="The optimizer reads lr, momentum, weight_decay and so on under these names; other names are read "
            "by model(config), lt.nn.Dropout(name), the loss, penalty, augment or schedule.",
        )
    names = ", ".join(unread)
    warn(
        f"{names}: nothing reads it under {config!r}, though something does under other configurations; "
        f"when={{…}} says where it matters, so that no method looks for an effect that is not there"
    )


def _check_moves(task: Any, adapter: Any, configs: Sequence[Config]) -> None:
    """Refuse a space of which no configuration has a hyperparameter active that the adapter can move.

    Raises:
        MethodError: Naming the conditions, or, where nothing can move though it is active, the reasons.
    """
    kinds: dict[tuple[str, ...], Config] = {}
    for config in configs:
        kinds.setdefault(tuple(config), config)
    for config in list(kinds.values())[:LOOKS]:
        try:
            if adapter.hyperparameters(adapter.init(task.program(config), config, 0)):
                return
        except MethodError:
            raise
        except Exception:  # a fault of this configuration alone: the first one was built
            continue
    conditions = "; ".join(f"{name} when {dict(of)}" for name, of in task.space.conditions.items() if of)
    raise MethodError(
        f"no configuration of the space has a hyperparameter active that it can move ({conditions})",
        where=type(adapter).__name__,
        remedy="Give the space one that it can move, or another method.",
    )


def _refuse(error: BaseException, task: Any) -> None:
    if isinstance(error, LuthierError):
        raise error
    inner = getattr(task, "trainable", task)
    raise TaskError(
        f"no trial can begin: {describe(error)}",
        where=f"task {type(inner).__name__}",
        remedy=f"The first {TRIES} configurations all fail, this one first: mend what it names.",
    ) from error
