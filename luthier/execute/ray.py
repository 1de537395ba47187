"""Jobs on a Ray cluster: one actor a seat, one streamed call a stack, the task put once and read on every machine."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from luthier.checks import checked, maybe, real, whole
from luthier.errors import ExecutionError
from luthier.execute.local import overdue, patience_with, train_messages
from luthier.execute.parcel import Parcel, pack, unpack
from luthier.execute.worker import Ended, Idle, Reports, Train
from luthier.jobs import Job, Lost, Partial, Report, Result
from luthier.task import is_torch
from luthier.task.call import describe
from luthier.train import MOST_STACKED, Ask, Work, run
from luthier.train.halt import Guard, guard

try:
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError
except ImportError as error:
    raise ExecutionError(
        f"ray cannot be imported ({error})", where="lt.execute.Ray", remedy="Install it: pip install 'luthier[ray]'."
    ) from error

_BURST = 0.01  # seconds for which collect() gathers results after the first: members of a stack mostly end together
_LOOK = 0.5  # seconds between looks at the machines of the cluster
_DOUBT = 60.0  # seconds after which a seat that cannot be reached is given up
_FIRST = 60.0  # seconds that start() waits for the first seat where the cluster has room for one


class Seat:
    """The actor: one worker. Its work is loaded once; reports and results leave as one stream a stack."""

    def __init__(self, parcel: Parcel, threads: int, probe: str) -> None:
        self.asked: set[int] = set()
        self.guard: Guard | None = None
        self.error = ""
        try:
            self.work = unpack(parcel)
            if is_torch(self.work.task) or self.work.save:
                import torch

                torch.set_num_threads(threads)
            if probe and self.work.checkpoints is not None:
                self.work.checkpoints.load(probe)
        except BaseException as error:
            self.error = describe(error)

    def ready(self) -> tuple[str, str]:
        """An error of loading, or nothing; and the machine."""
        return self.error, ray.get_runtime_context().get_node_id()

    @ray.method(concurrency_group="control")
    def stop(self, numbers: set[int]) -> None:
        """Ask jobs to stop, while others or these are being trained."""
        self.asked |= numbers

    @ray.method(concurrency_group="control")
    def back(self) -> None:
        """Give back what is being trained."""
        if self.guard is not None:
            self.guard.give_back()

    @ray.method(num_returns="streaming")
    def train(self, message: Train) -> Iterator[list[object]]:
        """Train a stack; what it says comes in lists, so that many reports cost one transfer."""
        said: queue.SimpleQueue[object] = queue.SimpleQueue()

        def on_reports(reports: Sequence[Report | Partial]) -> set[int]:
            if reports:
                said.put(Reports(list(reports)))
            return set(self.asked)

        def work() -> None:
            try:
                with guard().active() as self.guard:
                    for outcome in run(self.work, message.jobs, message.parents, on_reports, message.partials):
                        said.put(Ended(outcome))
            finally:
                said.put(Idle())

        threading.Thread(target=work, daemon=True, name="luthier").start()
        over = False
        while not over:
            batch = [said.get()]
            while not said.empty():
                batch.append(said.get())
            over = isinstance(batch[-1], Idle)
            yield batch
        self.asked.difference_update(job.number for job in message.jobs)


@dataclass(eq=False)
class _Place:
    """The driver's side of one seat."""

    actor: Any
    coming: Any  # reference to ready()
    node: str = ""
    loaded: bool = False
    stream: Any = None
    left: dict[int, Job] = field(default_factory=dict)  # jobs of its stack that have not ended
    asked: set[int] = field(default_factory=set)
    latest: dict[int, Report] = field(default_factory=dict)  # the last report of each job of its stack
    begun: float = 0.0
    until: float = math.inf  # when it has to be through with its stack
    doubt: float = 0.0  # since when it has not been reachable; Ray has not said yet whether its machine is gone

    @property
    def handle(self) -> Any:
        """Handle to wait for next, or None."""
        return self.stream if self.loaded else self.coming


@final
class Ray:
    """Trains on a Ray cluster; a TorchTask in stacks, one a seat.

    Nodes need luthier and what the task imports from installed packages; the script, the task's file and modules of
    the user's own are sent. The cluster may grow and shrink while a study runs, from no machine at all: capacity
    follows. A machine that is lost is nobody's fault: its stacks are trained again elsewhere.

    Args:
        workers: Number of seats; None is as many as the live machines have room for.
        cpus: CPUs per seat, which are also its threads.
        gpus: GPUs per seat; a fraction shares one. With any, TorchTasks train on ``"cuda"``.
        address: Address of the cluster, as in ``ray.init``; None is the one that this process or ``RAY_ADDRESS``
            names, or else Ray is started on this machine.
        width: Jobs of a TorchTask that may be trained as one stack, or ``"auto"``.
        resources: Custom resources per seat, ``{"big_memory": 1}``.

    Raises:
        ExecutionError: If Ray is not installed.
        MethodError: If an argument is out of range.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        cpus: float = 1,
        gpus: float = 0,
        address: str | None = None,
        width: int | Literal["auto"] = "auto",
        resources: Mapping[str, float] | None = None,
    ) -> None:
        where = "Ray"
        self.workers = checked("workers", workers, maybe(whole(1)), where=where)
        self.width = width if width == "auto" else checked("width", width, whole(1), where=where)
        self._most = MOST_STACKED if self.width == "auto" else self.width
        self.cpus = checked("cpus", cpus, real(0), where=where)
        self.gpus = checked("gpus", gpus, real(0), where=where)
        self.resources = {
            name: checked(f"resources[{name!r}]", value, real(above=0), where=where)
            for name, value in (resources or {}).items()
        }
        self.address = address
        needs = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        self.needs = {name: float(value) for name, value in needs.items() if value}
        if not self.needs:
            checked("cpus", cpus, real(above=0), where=where)
        self._work: Work | None = None
        self._reset()

    def __repr__(self) -> str:
        return f"Ray(workers={self.workers}, cpus={self.cpus}, gpus={self.gpus}, address={self.address!r})"

    def _reset(self) -> None:
        self._queue: deque[Train] = deque()
        self._done: list[Result | Lost] = []
        self._places: list[_Place] = []
        self._next_look = 0.0
        self._parcel: Any = None
        self._probe = ""
        self._on_reports: Ask = lambda reports: set()

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once: one a seat, of a TorchTask one stack a seat. 0 means: wait."""
        if self._work is None:
            return 0
        self._scale()
        self._listen(0.0)
        return sum(place.loaded for place in self._places) * (self._most if is_torch(self._work.task) else 1)

    def start(self, work: Work, on_reports: Ask) -> None:
        """Take a study's work, and seat workers where there is room; waits for the first of them.

        Raises:
            TaskError: If a part of the task cannot be sent.
            ExecutionError: If a study is running here already, no cluster answers, a seat cannot load the task, or a
                machine does not see the folder of checkpoints.
        """
        if self._work is not None:
            raise ExecutionError("it is running another study", where=repr(self), remedy="Close it first.")
        device = ("cuda" if self.gpus else None) or work.device
        work = replace(work, device=device, threads=max(1, int(self.cpus)))
        parcel = pack(work, getattr(work.task, "data", None))
        self._connect()
        self._probe = "" if work.checkpoints is None else work.checkpoints.save("probe", {"probe": True})
        self._parcel = ray.put(parcel)
        self._work, self._on_reports = work, on_reports
        try:
            self._scale()
            deadline = time.monotonic() + _FIRST
            while self._places and not any(place.loaded for place in self._places) and time.monotonic() < deadline:
                self._listen(0.5)
        except BaseException:
            self.close(wait=False)
            raise

    def submit(self, jobs: list[Job], parents: Mapping[int, Result], partials: Mapping[int, str] | None = None) -> None:
        """Queue jobs, in stacks of about equal size, as many as keep all seats busy."""
        seats = max(1, sum(place.loaded for place in self._places))
        self._queue.extend(train_messages(self._started(), jobs, parents, partials or {}, self._most, seats))

    def collect(self, timeout: float | None) -> list[Result | Lost]:
        """Return the results that have come back; block until there is at least one, or until the timeout.

        Raises:
            ExecutionError: If a seat cannot load the task, or the cluster is gone.
        """
        self._started()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        settled = math.inf
        while True:
            self._scale()
            self._check_time()
            self._dispatch()
            now = time.monotonic()
            if self._done:
                settled = min(settled, now + _BURST)
            busy = bool(self._queue) or any(place.left for place in self._places)
            if not busy or now >= min(settled, deadline):
                break
            self._listen(min(settled, deadline, now + _LOOK) - now)
        results, self._done = self._done, []
        return results

    def give_back(self, seconds: float) -> list[Result | Lost]:
        """Stop all that runs, at its next report or wherever it is, and hand back every job that is here."""
        self._started()
        waiting = [job.number for message in self._queue for job in message.jobs]
        self._queue.clear()
        busy = [place for place in self._places if place.left]
        for place in busy:
            place.actor.back.remote()
        deadline = time.monotonic() + seconds
        while any(place.left for place in busy) and time.monotonic() < deadline:
            self._listen(min(_LOOK, deadline - time.monotonic()))
        for place in busy:
            waiting += place.left
            place.left = {}
        outcomes, self._done = self._done, []
        return [*outcomes, *(Lost(number, "asked") for number in waiting)]

    def close(self, wait: bool = True) -> None:
        """End the seats, whatever they do; may be called twice. Ray itself goes on, for the next study."""
        places, work, probe = self._places, self._work, self._probe
        self._work = None
        self._reset()
        for place in places:
            with contextlib.suppress(Exception):  # a cluster that is gone has ended them already
                ray.kill(place.actor)
        if probe and work is not None and work.checkpoints is not None:
            work.checkpoints.remove([probe])

    def _started(self) -> Work:
        if self._work is None:
            raise ExecutionError("it has no work", where=repr(self), remedy="Call start first.")
        return self._work

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        try:
            ray.init(
                address=self.address, include_dashboard=None if self.address else False, logging_level=logging.ERROR
            )
        except Exception as error:  # ConnectionError, ValueError, RuntimeError: as many kinds as causes
            raise ExecutionError(
                f"no Ray cluster at {self.address!r}: {describe(error)}",
                where=repr(self),
                remedy="Start one (ray start --head), give its address, or leave address out to start Ray here.",
            ) from error

    def _scale(self) -> None:
        """Seat as many workers as are wanted and have room; give up those whose machine is gone."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        nodes = [node for node in ray.nodes() if node["Alive"]]
        alive = {node["NodeID"] for node in nodes}
        for place in [place for place in self._places if place.doubt]:
            if place.node not in alive or now - place.doubt > _DOUBT:
                self._bury(place, "its machine is gone", lost=True)
        room = sum(_fits(node["Resources"], self.needs) for node in nodes)
        for _ in range(len(self._places), room if self.workers is None else min(room, self.workers)):
            remote: Any = ray.remote  # its overloads know no groups
            actor = (
                remote(concurrency_groups={"control": 1})(Seat)
                .options(
                    num_cpus=self.cpus,
                    num_gpus=self.gpus,
                    resources=self.resources,
                    scheduling_strategy="SPREAD",
                )
                .remote(self._parcel, max(1, int(self.cpus)), self._probe)
            )
            self._places.append(_Place(actor, actor.ready.remote()))

    def _dispatch(self) -> None:
        """Give stacks to idle seats."""
        for place in self._places:
            if self._queue and place.loaded and place.stream is None:
                message = self._queue.popleft()
                place.left, place.asked = {job.number: job for job in message.jobs}, set()
                seconds = patience_with(self._started(), message)
                place.latest, place.begun = {}, time.monotonic()
                place.until = math.inf if seconds is None else place.begun + seconds
                place.stream = place.actor.train.remote(message)

    def _check_time(self) -> None:
        """End the seats that are not through with their stacks in time: they hang."""
        now = time.monotonic()
        for place in [place for place in self._places if place.left and now > place.until]:
            left, place.left = place.left, {}
            seconds = (now - place.begun) / len(left)
            for number, job in left.items():
                self._done.append(overdue(self._started(), job, place.latest.get(number), seconds))
            self._bury(place, "")

    def _listen(self, seconds: float) -> None:
        """Take in what the seats say, after waiting for the first of them."""
        waiting = {place.handle: place for place in self._places if place.handle is not None}
        if not waiting:
            time.sleep(min(max(seconds, 0.0), 0.05))
            return
        handles = list(waiting)
        heard, _ = ray.wait(handles, num_returns=1, timeout=max(seconds, 0.0))
        if heard:  # one was waited for; the others are asked without waiting
            heard, _ = ray.wait(handles, num_returns=len(handles), timeout=0)
        for handle in heard:
            place = waiting[handle]
            try:
                if place.loaded:
                    self._hear(place)
                else:
                    self._seated(place)
            except ActorUnavailableError:  # a machine that died says this first; Ray is sure some seconds later
                place.doubt, place.stream, place.coming, place.loaded = time.monotonic(), None, None, False
            except RayActorError as error:
                self._bury(place, str(error))

    def _seated(self, place: _Place) -> None:
        error, place.node = ray.get(place.coming)
        if error:
            raise ExecutionError(
                f"a seat cannot load the task: {error}",
                where=repr(self),
                remedy="Every machine needs the packages that the task imports and the folder of the checkpoints: "
                "LUTHIER_CHECKPOINTS or open_store(checkpoints=…) names one that all of them see.",
            )
        place.loaded, place.coming = True, None

    def _hear(self, place: _Place) -> None:
        try:
            batch = ray.get(next(place.stream))
        except StopIteration:
            place.stream = None
            return
        for message in batch:
            if isinstance(message, Ended):
                place.left.pop(message.outcome.number, None)
                self._done.append(message.outcome)
            elif isinstance(message, Reports):
                place.latest |= {one.number: one for one in message.reports if isinstance(one, Report)}
                asked = self._on_reports(message.reports)
                for other in self._places if asked else ():
                    new = (asked & other.left.keys()) - other.asked
                    if new:
                        other.asked |= new
                        other.actor.stop.remote(new)
            elif isinstance(message, Idle):
                place.stream = None

    def _bury(self, place: _Place, why: str, lost: bool = False) -> None:
        """Take a dead seat away, and hand back the jobs that it had begun."""
        self._places.remove(place)
        self._next_look = 0.0
        with contextlib.suppress(Exception):
            ray.kill(place.actor)
        left, place.left = list(place.left), {}
        if not left:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        gone = lost or place.node not in alive or "node has died" in why  # not the jobs' doing
        said = (why.splitlines() or [""])[0]
        for number in left:
            error = f"its machine is gone: {said}" if gone else f"its worker process died: {said}"
            self._done.append(Lost(number, "machine" if gone else "process", error))


def _fits(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Seats that one machine has room for."""
    return int(min(has.get(name, 0.0) / value + 1e-9 for name, value in needs.items()))
