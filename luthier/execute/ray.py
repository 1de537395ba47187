"""Jobs on a Ray cluster: one actor a seat, one streamed call a stack, the task put once and read on every machine."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

from luthier.checks import checked, maybe, real, whole
from luthier.errors import ExecutionError
from luthier.execute.desk import Desk, Hand, opened, refuse_second, sent, width_and_most
from luthier.execute.parcel import Parcel, pack, unpack
from luthier.execute.worker import Ended, Idle, Reports, Train
from luthier.jobs import Job, Lost, Partial, Report, Result
from luthier.lazy import optional_import
from luthier.task import is_torch
from luthier.task.call import describe
from luthier.train import Ask, Work, run
from luthier.train.halt import Guard, guard

with optional_import("ray", "lt.execute.Ray", ExecutionError):
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError

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
    def train(self, chunk: Train) -> Iterator[list[object]]:
        """Train a stack; yield its messages in lists, so that many reports cost one transfer."""
        said: queue.SimpleQueue[object] = queue.SimpleQueue()

        def on_reports(reports: Sequence[Report | Partial]) -> set[int]:
            if reports:
                said.put(Reports(list(reports)))
            return set(self.asked)

        def work() -> None:
            try:
                with guard().active() as self.guard:
                    for outcome in run(self.work, chunk.jobs, chunk.parents, on_reports, chunk.partials):
                        said.put(Ended(outcome))
            finally:
                said.put(Idle())

        threading.Thread(target=work, daemon=True, name="luthier").start()
        over = False
        while not over:
            batch = [said.get()]
            while not said.empty():
                message = said.get()
                last = batch[-1]
                if isinstance(message, Reports) and isinstance(last, Reports):
                    last.reports.extend(message.reports)  # the driver takes them in at once
                else:
                    batch.append(message)
            over = isinstance(batch[-1], Idle)
            yield batch
        self.asked.difference_update(job.number for job in chunk.jobs)


@dataclass(eq=False)
class _Place:
    """The driver's side of one seat."""

    actor: Any
    coming: Any  # reference to ready()
    node: str = ""
    loaded: bool = False
    stream: Any = None
    hand: Hand = field(default_factory=Hand)
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

    Examples:
        >>> Ray(workers=8, cpus=2, gpus=0.25)
        Ray(workers=8, cpus=2, gpus=0.25, address=None)
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
        self.width, self._most = width_and_most(width, where)
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
        self._reset()

    def __repr__(self) -> str:
        return f"Ray(workers={self.workers}, cpus={self.cpus}, gpus={self.gpus}, address={self.address!r})"

    def _reset(self) -> None:
        self._desk: Desk | None = None
        self._places: list[_Place] = []
        self._next_look = 0.0
        self._parcel: Any = None
        self._probe = ""

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once: one a seat, of a TorchTask one stack a seat. 0 means: wait."""
        if self._desk is None:
            return 0
        self._scale()
        self._listen(0.0)
        return sum(place.loaded for place in self._places) * self._desk.most

    def start(self, work: Work, on_reports: Ask) -> None:
        """Take a study's work, and seat workers where there is room; waits for the first of them.

        Raises:
            TaskError: If a part of the task cannot be sent.
            ExecutionError: If a study is running here already, no cluster answers, a seat cannot load the task, or a
                machine does not see the folder of checkpoints.
        """
        refuse_second(self._desk, self)
        device = ("cuda" if self.gpus else None) or work.device
        work = sent(replace(work, device=device, threads=max(1, int(self.cpus))))
        parcel = pack(work, getattr(work.task, "data", None))
        self._connect()
        self._probe = "" if work.checkpoints is None else work.checkpoints.save("probe", {"probe": True})
        self._parcel = ray.put(parcel)
        self._desk = Desk(work, on_reports, self._most)
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
        opened(self._desk, self).submit(jobs, parents, partials, seats)

    def collect(self, timeout: float | None) -> list[Result | Lost]:
        """Return the results that have come back; block until there is at least one, or until the timeout.

        Raises:
            ExecutionError: If a seat cannot load the task, or the cluster is gone.
        """
        desk = opened(self._desk, self)
        return desk.gather(self._turn, lambda: any(place.hand.left for place in self._places), timeout, _LOOK)

    def give_back(self, seconds: float) -> list[Result | Lost]:
        """Stop all that runs, at its next report or wherever it is, and hand back every job that is here."""
        desk = opened(self._desk, self)
        desk.withdraw()
        busy = [place for place in self._places if place.hand.left]
        for place in busy:
            place.actor.back.remote()
        deadline = time.monotonic() + seconds
        while any(place.hand.left for place in busy) and time.monotonic() < deadline:
            self._listen(min(_LOOK, deadline - time.monotonic()))
        for place in busy:
            desk.lose(place.hand, "asked")
        return desk.take()

    def close(self, wait: bool = True) -> None:
        """End the seats, whatever they do; may be called twice. Ray itself goes on, for the next study."""
        places, desk, probe = self._places, self._desk, self._probe
        self._reset()
        for place in places:
            with contextlib.suppress(Exception):  # a cluster that is gone has ended them already
                ray.kill(place.actor)
        if probe and desk is not None and desk.work.checkpoints is not None:
            desk.work.checkpoints.remove([probe])

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        address = self.address or ("local" if _is_stale() else None)
        in_main = threading.current_thread() is threading.main_thread()
        told = signal.getsignal(signal.SIGTERM) if in_main else None
        try:
            ray.init(address=address, include_dashboard=None if self.address else False, logging_level=logging.ERROR)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError: as many kinds as causes
            raise ExecutionError(
                f"no Ray cluster at {self.address!r}: {describe(error)}",
                where=repr(self),
                remedy="Start one (ray start --head), give its address, or leave address out to start Ray here.",
            ) from error
        finally:
            if in_main:  # Ray takes the signal for itself, and would end the study before its jobs are given back
                signal.signal(signal.SIGTERM, told or signal.SIG_DFL)

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

    def _turn(self, seconds: float) -> bool:
        """Seat workers, give stacks to idle ones, end those that hang, and take in what the seats say."""
        desk = opened(self._desk, self)
        self._scale()
        for place in [place for place in self._places if place.hand.late]:
            desk.end_late(place.hand)
            self._bury(place, "")
        for place in self._places:
            if place.loaded and place.stream is None and (message := desk.hand_out(place.hand)) is not None:
                place.stream = place.actor.train.remote(message)
        return self._listen(seconds)

    def _listen(self, seconds: float) -> bool:
        """Take in what the seats say, after waiting for the first of them; return True if one said anything."""
        waiting = {place.handle: place for place in self._places if place.handle is not None}
        if not waiting:
            time.sleep(min(max(seconds, 0.0), 0.05))
            return False
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
        return bool(heard)

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
        desk = opened(self._desk, self)
        for message in batch:
            if isinstance(message, Idle):
                place.stream = None
                continue
            asked = desk.hear(message, place.hand)
            for other in self._places if asked else ():
                if new := other.hand.ask(asked):
                    other.actor.stop.remote(new)

    def _bury(self, place: _Place, why: str, lost: bool = False) -> None:
        """Take a dead seat away, and hand back the jobs that it had begun."""
        self._places.remove(place)
        self._next_look = 0.0
        with contextlib.suppress(Exception):
            ray.kill(place.actor)
        if not place.hand.left:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        gone = lost or place.node not in alive or "node has died" in why  # not the jobs' doing
        said = (why.splitlines() or [""])[0]
        kind, error = ("machine", "its machine is gone") if gone else ("process", "its worker process died")
        opened(self._desk, self).lose(place.hand, kind, f"{error}: {said}")


def _is_stale() -> bool:
    """Return True if the cluster that Ray would join, the last one started on this machine, does not answer.

    A cluster that was killed leaves its address behind, and Ray tries it for minutes before it gives up.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        host, _, port = Path(folder, "ray", "ray_current_cluster").read_text().strip().rpartition(":")
        if os.environ.get("RAY_ADDRESS") or not port.isdecimal():
            return False
        socket.create_connection((host.strip("[]"), int(port)), 2.0).close()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _fits(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Seats that one machine has room for."""
    return int(min(has.get(name, 0.0) / value + 1e-9 for name, value in needs.items()))
