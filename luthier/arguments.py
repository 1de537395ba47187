"""Answers to misnamed arguments: users of other tools are told the name that is used here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

from luthier.errors import ArgumentError

Given = ParamSpec("Given")
Value = TypeVar("Value")
Object = TypeVar("Object")

# Our name: those of other tools. Where two of ours fit, the first one that the function has is given.
ELSEWHERE = {
    "trials": "n_trials num_samples max_evals max_trials n_iter num_trials n_calls",
    "mode": "direction directions goal maximize minimize",
    "seconds": "timeout time_budget_s max_time time_limit max_duration time_budget",
    "workers": "n_jobs num_workers max_concurrent_trials max_concurrent processes",
    "executor": "n_jobs num_workers resources_per_trial resources gpus device cpus",
    "epochs": "max_epochs n_epochs num_epochs epoch",
    "steps": "max_steps n_steps num_steps max_iter max_t iterations",
    "task": "objective func function fn trainable train model",
    "method": "sampler search_alg searcher algorithm algo tuner suggest pruner scheduler",
    "space": "config search_space param_space param_distributions params distributions",
    "store": "storage storage_path db database local_dir directory load_if_exists resume",
    "name": "study_name experiment_name project_name run_name",
    "metric": "objectives metrics monitor scoring",
    "limits": "constraints constraints_func outcome_constraints",
    "seed": "random_state random_seed rng rstate",
    "seeds": "random_state random_seed seed executions_per_trial",
    "progress": "show_progress_bar verbose verbosity quiet silent",
    "callbacks": "callback loggers logger followers hooks",
    "start": "points_to_evaluate initial_points enqueue x0 warm_start",
    "stop": "early_stopping stopper patience target",
    "trial_seconds": "trial_timeout max_trial_seconds timeout_per_trial",
    "max_failures": "catch max_consecutive_failed_trials",
    "fresh": "overwrite",
}
REMARKS = {
    "mode": "It is 'min' or 'max'.",
    "limits": "It takes bounds of metrics, {'latency': (None, 10)}; lt.Space(…, constraint=f) is for configurations.",
    "seconds": "It is the wall time of the call.",
    "executor": "It takes lt.execute.Local(workers=…, device=…) or lt.execute.Ray(…).",
    "method": "It takes a name of `luthier methods` or a proposer, an adapter or a pair of them.",
    "store": "It takes a path or a URL; the same call again resumes.",
    "task": "It comes first: a function, a Trainable or a TorchTask.",
    "stop": "It takes lt.stop.Target(…), lt.stop.NoImprovement(trials=…) or a function of the study.",
    "progress": "False is silent.",
    "metric": "It takes a name or several, with mode= 'min' or 'max' for each.",
    "max_failures": "An exception of a training is a result, and the study goes on; so many in a row end it.",
}


def answering(kind: type[Object]) -> type[Object]:
    """Make a class answer misnamed arguments when it is called, see :func:`answered`."""
    kind.__init__ = answered(kind.__init__)
    return kind


def answered(function: Callable[Given, Value]) -> Callable[Given, Value]:
    """Make a wrong call of ``function`` an :class:`luthier.errors.ArgumentError` that names the right argument."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            refuse(function.__qualname__.removesuffix(".__init__"), signature, kwargs, error)
        return function(*args, **kwargs)

    return checked


def refuse(name: str, signature: inspect.Signature, given: Iterable[str], error: TypeError) -> None:
    """Raise for a call that does not bind.

    Args:
        name: Name of the function.
        signature: Its signature.
        given: Names of the arguments that were given by name.
        error: Python's error about the call.

    Raises:
        ArgumentError: Always.
    """
    known = [one for one in signature.parameters if one != "self"]
    unknown = next((one for one in given if one not in known), None)
    if unknown is None:
        keywords = ", ".join(known[2:6])
        remedy = f"Give all but the first two by name: {keywords}, …" if "positional" in str(error) else "See help()."
        raise ArgumentError(f"{error}", where=name, remedy=remedy) from None
    close = get_close_matches(unknown, known, n=1)
    meant = next((ours for ours, theirs in ELSEWHERE.items() if unknown in theirs.split() and ours in known), None)
    meant = meant or next(iter(close), None)
    if meant is None:
        remedy = f"Its arguments are {', '.join(known)}."
    else:
        remedy = f"Here it is called {meant}. {REMARKS.get(meant, '')}".rstrip()
    raise ArgumentError(f"there is no argument {unknown!r}", where=name, remedy=remedy) from None
