"""Ask a sampler of Optuna's for jobs: the mirror of a history, and one question to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.errors import MethodError
from luthier.interop.optuna.library import experimental, optuna, quiet
from luthier.interop.optuna.mirror import FrozenTrial, Mirror, TrialState, frozen
from luthier.interop.optuna.parameters import distributions, parameters, values
from luthier.jobs import Budget, Event, History, Job, Result
from luthier.limits import excesses, merits, out_of_memory, violation
from luthier.propose.gaussian_process.sequential import upcoming
from luthier.seeds import Seeds
from luthier.space import Config

TRIES = 30  # draws of which the first that the constraint allows is taken
FARTHEST = 1e3  # an excess over a limit that is not known, of what ran out of memory or lacks the metric
TAG = "optuna"  # what a job's tag keeps for the sampler

# TPE notes what it will suggest before it does; here a configuration is suggested at once, and is the job's own.
_SUGGESTED = "tpe:relative_params:"


@dataclass(frozen=True)
class Asker:
    """Asks an Optuna sampler for jobs.

    Args:
        method: The proposer's settings, to tell its cache from others.
        factory: ``factory(seed=int)`` makes the sampler.
        flat: Every name is drawn in every trial.
        batch: Jobs that may be running at once.
    """

    method: Any
    factory: Callable[..., Any]
    flat: bool
    batch: int

    def propose(self, budget: Budget | None, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations; none once the budget's trials have been started.

        A stack takes hundreds of jobs at once, of which a sampler that has seen no results would know nothing: beyond
        ``batch`` running ones, it waits.
        """
        numbers = upcoming(history, count, self.batch, budget)
        if not numbers:
            return []

        def start() -> _Reflection:
            return _Reflection(self, history, seeds)

        with quiet():
            reflection = history.fold((TAG, self.method, seeds.study), start, _Reflection.see)
            return reflection.propose(numbers, budget or Budget())


class _Reflection:
    """A history as a study of Optuna's: a cache that events are folded into."""

    def __init__(self, asker: Asker, history: History, seeds: Seeds) -> None:
        self._asker, self._seeds = asker, seeds
        self._space, self._limits, self._several = history.space, history.limits, len(history.objectives) > 1
        self._before = history.before
        self._ranked, self._measured = history.objective_values, history.measured_values
        self._parameters = parameters(history.space, True)
        self._pending: dict[int, FrozenTrial] = {}
        self._ended: set[int] = set()
        self._mirror = Mirror()
        directions = [optuna.study.StudyDirection.MINIMIZE] * len(history.objectives)
        sampler = optuna.samplers.RandomSampler(seed=0)
        self._study = optuna.create_study(storage=self._mirror, directions=directions, sampler=sampler)

    def see(self, event: Event) -> _Reflection:
        """Take in one more event; taking it in twice changes nothing."""
        number = event.number
        if number in self._ended:
            return self
        if isinstance(event, Job):
            self._pending[number] = self._running(event)
            self._mirror.keep(event.tag.get(TAG, {}).get("study", {}))
        elif isinstance(event, Result):
            self._mirror.end(self._finished(self._pending[number], event, number not in self._before))
            self._ended.add(number)
            del self._pending[number]
        elif not self._several:
            [value] = self._ranked(event.metrics)
            if value == value:
                self._pending[number].intermediate_values[event.step] = value
        return self

    def propose(self, numbers: range, budget: Budget) -> list[Job]:
        """The jobs of these numbers; the mirror is left as it was."""
        jobs = []
        try:
            for trial in self._pending.values():
                self._mirror.run(trial)
            for number in numbers:
                config, tag = self._ask(number)
                tag = {key: value for key, value in tag.items() if value}
                job = Job(number, config, budget.steps_for(config), tag={TAG: tag} if tag else {})
                jobs.append(job)
                self._mirror.replace_last(self._running(job))
        finally:
            self._mirror.forget()
        return jobs

    def _ask(self, number: int) -> tuple[Config, dict[str, Any]]:
        """Draw a job by the sampler, as the last running trial of the mirror; return it and all that it notes."""
        rng, before = self._seeds.rng(number, "propose"), self._mirror.noted
        try:
            config, silent = self._suggested(int(rng.integers(2**31)))
            for _ in range(TRIES):
                if self._space.feasible(config):
                    break
                self._mirror.running.pop()
                config, silent = self._suggested(int(rng.integers(2**31)))
        except ValueError as error:
            if not self._several:
                raise
            what = f"the sampler of {self._asker.method!r} does not take several objectives ({error})"
            remedy = "Give one metric, or use tpe or nsga2."
            raise MethodError(what, where="Optuna's sampler", remedy=remedy) from error
        attributes = self._mirror.running[-1].system_attrs
        noted = {key: value for key, value in self._mirror.noted.items() if before.get(key) != value}
        own = {key: value for key, value in attributes.items() if not key.startswith(_SUGGESTED)}
        tag = {"trial": own, "study": noted, "silent": silent}
        return self._space.check_values(config), self._as_json(tag)

    def _suggested(self, seed: int) -> tuple[Config, Config]:
        """Draw by the sampler under a seed: values of the active names, and of those that it carries along."""
        config: Config = {}
        silent: Config = {}
        with experimental():
            self._study.sampler = self._asker.factory(seed=seed)
        trial = self._study.ask()
        for one in self._parameters:
            if one.active(config):
                one.put(config, one.suggest(trial))
            elif self._asker.flat:
                silent[one.key] = one.suggest(trial)
        return config, silent

    def _as_json(self, tag: dict[str, Any]) -> dict[str, Any]:
        try:
            return json.loads(json.dumps(tag, allow_nan=False))
        except (TypeError, ValueError) as error:
            what = f"the sampler notes something on a trial that is not JSON ({error})"
            remedy = "luthier keeps these notes in a database: use a sampler whose system attributes are JSON."
            raise MethodError(what, where="Optuna's sampler", remedy=remedy) from error

    def _running(self, job: Job) -> FrozenTrial:
        tag = job.tag.get(TAG, {})
        params = values(job.config, self._parameters)
        if self._asker.flat:
            silent = tag.get("silent", {})
            params = {one.key: params.get(one.key, silent.get(one.key, one.middle)) for one in self._parameters}
        return frozen(TrialState.RUNNING, params, distributions(params, self._parameters), dict(tag.get("trial", {})))

    def _finished(self, trial: FrozenTrial, result: Result, whole: bool = True) -> FrozenTrial:
        """The trial as it ended.

        A divergence says that a region is bad, which Optuna has no state for. As a pruned trial without a value it is
        worse than all others for TPE, and left out by the samplers that read complete trials alone. Limits are Optuna's
        constraints, which all of its samplers that know constraints read.
        """
        values = self._measured(result.metrics)
        whole = whole and result.status != "pruned"
        if self._limits and not hasattr(FrozenTrial, "constraints"):  # Optuna below 5: samplers read the values alone
            values = merits(values, violation(self._limits, result.metrics, whole))
        good = result.status == "ok" and bool(np.isfinite(values).all())
        failed = result.status == "failed" and not (self._limits and out_of_memory(result.error))
        state = TrialState.COMPLETE if good else TrialState.FAIL if failed else TrialState.PRUNED
        attributes = trial.system_attrs
        if self._limits and result.status != "diverged" and not failed:
            found = excesses(self._limits, result.metrics, whole)
            attributes = attributes | {"constraints": [min(excess, FARTHEST) for excess in found.values()]}
        return frozen(
            state,
            trial.params,
            trial.distributions,
            attributes,
            values if good else None,
            trial.intermediate_values if result.status in ("ok", "pruned") else None,
        )
