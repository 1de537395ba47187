"""Answers to misnamed attributes: users of other tools are told the name that is used here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.errors import MissingAttributeError

_SPACE = "a space is declared: lt.Space(lr=lt.Float(1e-4, 1.0, log=True)), and read as config['lr']"
_SUGGEST = {f"suggest_{kind}": _SPACE for kind in ("float", "int", "categorical", "uniform", "loguniform")}
_METHODS = "methods go by their names, lt.tune(…, 'tpe'): see `luthier methods`"
_PAGE = "study.write_report('page.html') has all figures"
_BEST = {"params": "config", "best_params": "config", "values": "metrics", "state": "result.status"}

# Our spelling of other tools' names, by kind of object; "" is the package itself.
ELSEWHERE: dict[str, dict[str, str]] = {
    "Study": {
        "best_value": "study.best.value",
        "best_params": "study.best.config",
        "best_config": "study.best.config",
        "best_result": "study.best",
        "best_trial": "study.best",
        "best_trials": "study.front",
        "get_best_result": "study.best",
        "get_best_trial": "study.best",
        "get_best_models": "study.model()",
        "get_best_hyperparameters": "study.best.config",
        "get_trials": "study.trials",
        "results": "study.trials",
        "trials_dataframe": "study.to_pandas()",
        "get_dataframe": "study.to_pandas()",
        "results_df": "study.to_pandas()",
        "to_csv": "study.to_pandas().to_csv(…), or `luthier export`",
        "export": "study.to_pandas(), study.to_records() or `luthier export`",
        "best_checkpoint": "study.model(), or study.state()",
        "optimize": "lt.tune(function, space=…, trials=…), which makes the study too",
        "fit": "lt.tune(function, space=…, trials=…), which makes the study too",
        "enqueue_trial": "study.enqueue({…}), or start=[{…}] of lt.tune",
        "add_trial": "known=[(config, metrics), …] of lt.tune",
        "add_trials": "known=[(config, metrics), …] of lt.tune",
        "stop": "stop=[lt.stop.Target(…)] of lt.tune, or any function of the study",
        "user_attrs": "trial.note(name=value) in the function, and study.trials[0].notes",
        "set_user_attr": "trial.note(name=value) in the function",
        "study_name": "study.name",
        "direction": "study.history.objectives",
        "directions": "study.history.objectives",
        "sampler": "study.settings['method']",
        "pruner": "study.settings['method']",
    },
    "Trial": _SUGGEST
    | {
        "should_prune": "trial.report(step, loss=…), which raises where the study says stop; or ask trial.should_stop",
        "set_user_attr": "trial.note(name=value)",
        "user_attrs": "trial.notes",
        "params": "trial.config, which is the function's first argument too",
        "relative_params": "trial.config",
        "set_constraint": "limits={'name': (None, 10)} of lt.tune",
        "trial_id": "trial.number",
    },
    "TrialRecord": {
        "params": "config",
        "value": "metrics[name], by the metric's own name",
        "values": "metrics",
        "state": "status",
        "user_attrs": "notes",
        "duration": "seconds",
        "datetime_start": "since",
        "trial_id": "number",
        "intermediate_values": "study.history.reports[number]",
        "last_result": "metrics",
    },
    "Best": {**_BEST, "user_attrs": "study.trials[number].notes", "checkpoint": "study.model(), or study.state()"},
    "": {
        "create_study": "lt.tune(function, space=…, trials=…, store=…, name=…), or lt.Study to ask and tell",
        "load_study": "lt.Study.load(name, store)",
        "delete_study": "`luthier delete`",
        **dict.fromkeys(("get_all_study_summaries", "get_all_study_names"), "`luthier studies`"),
        "TrialPruned": "lt.Pruned",
        "Tuner": "lt.tune",
        "TuneConfig": "the arguments of lt.tune",
        "RunConfig": "the arguments of lt.tune",
        "run": "lt.tune",
        "fmin": "lt.tune",
        "minimize": "lt.tune",
        "with_resources": "executor=lt.execute.Ray(gpus=…), or workers= of lt.tune",
        "with_parameters": "a function that reads what stands around it: data goes to the workers with it",
        **dict.fromkeys(("samplers", "pruners", "schedulers", "search"), _METHODS),
        **dict.fromkeys(("RandomSearch", "BayesianOptimization", "GridSearch"), _METHODS),
        **dict.fromkeys(("visualization", "importance", "get_param_importances"), _PAGE),
        **dict.fromkeys(("uniform", "quniform", "Uniform", "Real", "FloatDistribution"), "lt.Float(low, high)"),
        **dict.fromkeys(("loguniform", "qloguniform", "LogUniform"), "lt.Float(low, high, log=True)"),
        **dict.fromkeys(("randint", "qrandint", "lograndint", "Integer", "IntDistribution"), "lt.Int(low, high)"),
        **dict.fromkeys(("choice", "Categorical", "CategoricalDistribution"), "lt.Choice([…])"),
        "Boolean": "lt.Choice([True, False])",
        "grid_search": "lt.Choice([…]), with method='grid'",
        "sample_from": "constraint= or when= of a space; what follows from other values is computed in the task",
        **_SUGGEST,
    },
}


def elsewhere(kind: str) -> Callable[[Any, str], Any]:
    """Return the ``__getattr__`` of a class, which names what other tools' names are called here."""

    def __getattr__(self: Any, name: str) -> Any:
        if hasattr(type(self), name):  # a property that has raised an AttributeError, which is what is wrong
            return object.__getattribute__(self, name)
        answer(kind, name)
        raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)

    return __getattr__


def answer(kind: str, name: str) -> None:
    """Raise a MissingAttributeError where another tool's ``name`` is known on such an object."""
    if name in ELSEWHERE[kind]:
        raise MissingAttributeError(
            f"there is no {name!r}", where=kind or "luthier", remedy=f"Here it is {ELSEWHERE[kind][name]}."
        )
