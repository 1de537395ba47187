"""Any proposer of luthier's as a sampler of Optuna's, for studies that define their space while they run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import MethodError, SpaceError
from luthier.interop.optuna.library import optuna
from luthier.interop.optuna.parameters import Distribution
from luthier.interop.optuna.timeline import result_of, starts_and_ends
from luthier.jobs import Budget, History, Job
from luthier.optional import optional
from luthier.propose import door
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Domain, Float, Int, Space
from luthier.study.resolve import resolve

FrozenTrial = optuna.trial.FrozenTrial

NOTE = "luthier:job"  # what is kept with a trial: the values that were proposed, and the proposer's tag


class OptunaSampler(optuna.samplers.BaseSampler):
    """A proposer as an Optuna sampler.

    The proposer chooses the values of all parameters that every finished trial has had, with equal distributions; the
    others, and all of the first trial, are drawn at random. All randomness comes from the seed and the trial's number,
    so that neither a resumed study nor a second process repeats what was tried.

    Args:
        proposer: A proposer, or the name of one: ``"gp"``, ``"genetic"``.
        seed: Seed for all randomness.
        trials: Number of trials to come, for a proposer that plans its budget.

    Raises:
        MethodError: If it is no proposer, or one that continues trainings, which Optuna cannot.

    Examples:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=OptunaSampler("gp", seed=1))
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=25)
        >>> study.best_value < 0.01
        True
    """

    def __init__(self, proposer: Any, *, seed: int = 0, trials: int | None = None) -> None:
        resolved = resolve(proposer)
        if resolved.adapter is not None or optional(resolved.proposer, "parents"):
            raise MethodError(
                f"{proposer!r} changes trainings while they run, or continues them",
                where="OptunaSampler",
                remedy="Give a proposer that only chooses configurations, such as 'gp'; or use luthier.tune.",
            )
        self.proposer = resolved.proposer.bind(Budget(trials=trials))
        self._seeds = Seeds(seed)
        self._lock = threading.Lock()  # study.optimize(n_jobs=2) shares the sampler among threads
        self._known: _Known | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """Nothing to do: every trial has a seed of its own."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Distribution]:
        """The parameters that the proposer chooses."""
        trials = study.get_trials(deepcopy=False)
        common = optuna.search_space.intersection_search_space(trials, include_pruned=True)
        return {name: one for name, one in common.items() if not one.single() and _domain(one) is not None}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Distribution]
    ) -> dict[str, Any]:
        """The values that the proposer chooses; drawn at random where it has nothing more to propose."""
        if not search_space:
            return {}
        with self._lock:
            codec = _Codec(search_space)
            history, seeds = self._history(study, trial.number, codec)
            jobs = door.propose(self.proposer, history, 1, seeds)
            config = jobs[0].config if jobs else codec.space.sample(seeds.rng(trial.number, "nothing proposed"))
            params = codec.params(config)
            note = {"params": params, "tag": dict(jobs[0].tag) if jobs else {}}
            study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)  # seen by whoever has the lock next
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Distribution
    ) -> Any:
        """A value drawn uniformly."""
        seed = int(self._seeds.rng(trial.number, f"independent {param_name}").integers(2**31))
        sampler = optuna.samplers.RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _history(self, study: optuna.Study, number: int, codec: _Codec) -> tuple[History, Seeds]:
        """All trials before this one, as the proposer reads them, and the seeds that it draws from.

        A thread may come for an earlier trial after another has come for a later one: then the later one, whose
        values are chosen already, is read too, since both would be given the same otherwise.
        """
        everything = study.get_trials(deepcopy=False)
        trials = [one for one in everything if one.number < number]
        later = [one for one in everything if one.number > number and NOTE in one.system_attrs]
        names = [f"value_{i}" for i in range(len(study.directions))]
        modes = ["max" if way == optuna.study.StudyDirection.MAXIMIZE else "min" for way in study.directions]
        objectives = dict(zip(names, modes, strict=True))
        if later:
            known = _Known(study.study_name, codec, objectives, self._seeds)
            known.add(trials + later)
            return known.history, Seeds(self._seeds.key(number, "out of turn"))
        known = self._known
        if known is None or not known.extends(study.study_name, codec, objectives, trials):
            known = _Known(study.study_name, codec, objectives, self._seeds)
        if not known.add(trials):
            known = _Known(study.study_name, codec, objectives, self._seeds)
            known.add(trials)
        self._known = known
        # A bracket of Hyperband's shows a part of the trials: without this, all brackets would draw the same.
        hidden = number - len(known.history)
        return known.history, Seeds(self._seeds.key(hidden, "bracket")) if hidden else self._seeds


class _Codec:
    """Optuna's parameters as a space of luthier's: names become positions, since Optuna's may be any string."""

    def __init__(self, search_space: Mapping[str, Distribution]) -> None:
        self.distributions = dict(search_space)
        domains = {f"p{i}": _domain(one) for i, one in enumerate(search_space.values())}
        self.space = Space({name: domain for name, domain in domains.items() if domain is not None})

    def params(self, config: Config) -> dict[str, Any]:
        """A configuration as Optuna's parameters."""
        pairs = zip(self.distributions.items(), config.values(), strict=True)
        return {name: _value(one, value) for (name, one), value in pairs}

    def config(self, trial: FrozenTrial) -> Config:
        """Known values of a trial's parameters; those with other distributions are left out."""
        noted = trial.system_attrs.get(NOTE, {}).get("params", {})
        config: Config = {}
        for i, (name, one) in enumerate(self.distributions.items()):
            if name in trial.params and trial.distributions[name] == one:
                config[f"p{i}"] = _place(one, trial.params[name])
            elif name in noted and not trial.state.is_finished():
                config[f"p{i}"] = _place(one, noted[name])
        return config


class _Known:
    """A history that later trials are added to: a cache, made anew where it does not fit any more."""

    def __init__(self, study: str, codec: _Codec, objectives: Mapping[str, str], seeds: Seeds) -> None:
        self.history = History(codec.space, objectives)
        self._study, self._codec, self._seeds = study, codec, seeds
        self._starts: list[Any] = []

    def extends(self, study: str, codec: _Codec, objectives: Mapping[str, str], trials: Sequence[FrozenTrial]) -> bool:
        """Return True if these trials begin with all those already here."""
        same = self._study == study and self._codec.distributions == codec.distributions
        starts = [one.datetime_start for one in trials[: len(self._starts)]]
        return same and self.history.objectives == dict(objectives) and starts == self._starts

    def add(self, trials: Sequence[FrozenTrial]) -> bool:
        """Add what is new; False if a trial turns out to have run with other values than it was entered with."""
        history = self.history
        for index, ended in starts_and_ends(trials):
            trial = trials[index]
            if not ended and index >= len(history):
                tag = trial.system_attrs.get(NOTE, {}).get("tag", {})
                history.add(Job(index, self._config(trial), tag=tag))
                self._starts.append(trial.datetime_start)
            elif ended and index in history.pending:
                if self._config(trial) != history.jobs[index].config:
                    return False
                history.add(result_of(index, trial, list(history.objectives)))
        return True

    def _config(self, trial: FrozenTrial) -> Config:
        """The configuration of a trial; values that it was not asked for (it failed, it is still to come) are drawn."""
        return self._codec.space.complete(self._codec.config(trial), self._seeds.rng(trial.number, "unknown values"))


def _domain(one: Distribution) -> Domain | None:
    """A domain whose values stand for those of a distribution, one by one; None where there is none so wide."""
    try:
        if isinstance(one, optuna.distributions.CategoricalDistribution):
            return Choice(range(len(one.choices)))
        assert isinstance(one, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
        if _stepped(one):
            return Int(0, round((one.high - one.low) / (one.step or 1)))
        if isinstance(one, optuna.distributions.IntDistribution):
            return Int(one.low, one.high, log=one.log)
        return Float(one.low, one.high, log=one.log)
    except SpaceError:
        return None


def _stepped(one: Distribution) -> bool:
    """Return True if a number stands for its place among the steps."""
    if isinstance(one, optuna.distributions.IntDistribution):
        return one.step != 1
    return isinstance(one, optuna.distributions.FloatDistribution) and (one.step is not None or one.single())


def _value(one: Distribution, place: Any) -> Any:
    """Optuna's value for one of the domain's."""
    if isinstance(one, optuna.distributions.CategoricalDistribution):
        return one.choices[place]
    if not _stepped(one):
        return place
    assert isinstance(one, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return min(one.low + place * (one.step or 1), one.high)


def _place(one: Distribution, value: Any) -> Any:
    """The domain's value for one of Optuna's."""
    if isinstance(one, optuna.distributions.CategoricalDistribution):
        return int(one.to_internal_repr(value))
    if not _stepped(one):
        return value
    assert isinstance(one, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return round((value - one.low) / (one.step or 1))
