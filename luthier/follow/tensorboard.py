"""TensorBoard: a folder of event files for each trial, with curves, moving hyperparameters and the table of hparams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, final

from luthier.follow.background import Background
from luthier.follow.log import Log, LoggedTrial, cut, folder_name
from luthier.lazy import optional_import

OPEN = 64  # files that are open at once


def tensorboard(folder: str | Path = "runs") -> Background:
    """A follower that writes a study for TensorBoard: ``tensorboard --logdir runs``.

    Each trial is a run, ``STUDY/trial-0007``, a trial that several jobs continue too. Metrics are scalars by their
    step, hyperparameters that move are scalars ``hyperparameters/NAME``, and all are in the table of hparams. The
    files are written on a thread, by the package ``tensorboard`` alone.

    Args:
        folder: Folder for the runs. Several drivers of one study may share it.

    Raises:
        StudyError: If tensorboard is not installed.

    Examples:
        >>> import luthier as lt, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> follower = lt.follow.TensorBoard(folder)
        >>> study = lt.tune(lambda c: c["x"], space=space, trials=2, name="s", callbacks=follower, progress=False)
        >>> sorted(path.name for path in Path(folder, "s").iterdir())
        ['trial-0000', 'trial-0001']
    """
    return Background(_TensorBoard(folder))


@final
class _TensorBoard(Log):
    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        with optional_import("tensorboard", "TensorBoard"):
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        events: Any = event_pb2  # their classes are made when they are imported
        summaries: Any = summary_pb2
        self._event, self._summary, self._record = events.Event, summaries.Summary, RecordWriter
        self._api, self._hparams, self._data = api_pb2, metadata, plugin_data_pb2
        self._folder = folder
        self._streams: dict[int, IO[bytes]] = {}  # the oldest first
        self._sizes: dict[str, int] = {}  # of the files that were written since the log was opened

    def __repr__(self) -> str:
        return f"TensorBoard({str(self._folder)!r})"

    def open(self, state: Mapping[str, Any]) -> None:
        self._sizes = dict(state.get("files", {}))
        cut(self._sizes)

    def begin(self, trial: LoggedTrial, at: float) -> None:
        self._write(trial, at, self._experiment())
        start = self._data.SessionStartInfo(start_time_secs=at, model_uri=self.study, group_name="")
        for name, value in trial.config.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and _is_number(self.space, name):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = str(value)
        data = self._data.HParamsPluginData(session_start_info=start)
        self._write(trial, at, self._hparam(self._hparams.SESSION_START_INFO_TAG, data))

    def point(self, trial: LoggedTrial, step: int, values: Mapping[str, float], at: float) -> None:
        summary = self._summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(trial, at, summary, step)

    def end(self, trial: LoggedTrial, at: float) -> None:
        status = self._api.STATUS_SUCCESS if trial.status in ("ok", "pruned") else self._api.STATUS_FAILURE
        data = self._data.HParamsPluginData(session_end_info=self._data.SessionEndInfo(status=status, end_time_secs=at))
        self._write(trial, at, self._hparam(self._hparams.SESSION_END_INFO_TAG, data))
        self._shut(trial.number)

    def flush(self) -> Mapping[str, Any]:
        for stream in self._streams.values():
            stream.flush()
            self._sizes[stream.name] = stream.tell()
        return {"files": self._sizes}

    def close(self) -> None:
        for number in list(self._streams):
            self._shut(number)

    def _experiment(self) -> Any:
        """The columns of the table: all names, in every run, since TensorBoard takes those of the first it finds."""
        experiment = self._api.Experiment(name=self.study)
        for name in self.space.names:
            kind = self._api.DATA_TYPE_FLOAT64 if _is_number(self.space, name) else self._api.DATA_TYPE_STRING
            experiment.hparam_infos.add(name=name, type=kind)
        for name in self.goals:
            experiment.metric_infos.add(name=self._api.MetricName(tag=name))
        return self._hparam(self._hparams.EXPERIMENT_TAG, self._data.HParamsPluginData(experiment=experiment))

    def _hparam(self, tag: str, data: Any) -> Any:
        found = self._hparams.create_summary_metadata(data)
        return self._summary(value=[self._summary.Value(tag=tag, metadata=found)])

    def _write(self, trial: LoggedTrial, at: float, summary: Any, step: int = 0) -> None:
        stream = self._streams.get(trial.number) or self._opened(trial, at)
        self._record(stream).write(self._event(wall_time=at, step=step, summary=summary).SerializeToString())

    def _opened(self, trial: LoggedTrial, at: float) -> IO[bytes]:
        while len(self._streams) >= OPEN:
            self._shut(next(iter(self._streams)))
        folder = Path(self._place, folder_name(self.study), f"trial-{trial.number:04d}")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "events.out.tfevents.luthier"
        if str(path) not in self._sizes:
            path.unlink(missing_ok=True)  # of a writer that was killed before it noted anything
        stream = path.open("ab")
        if not stream.tell():
            self._record(stream).write(self._event(wall_time=at, file_version="brain.Event:2").SerializeToString())
        self._streams[trial.number] = stream
        self._sizes[str(path)] = stream.tell()
        return stream

    def _shut(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.flush()
            self._sizes[stream.name] = stream.tell()
            stream.close()


def _is_number(space: Any, name: str) -> bool:
    return name in space.domains and getattr(space[name], "options", None) is None
