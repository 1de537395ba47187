"""Report section on a study whose method is a generative sampler: what it drew, and what it would draw now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from luthier.errors import LuthierError
from luthier.jobs import OK, PRUNED, History, Job, Result
from luthier.report import Samples
from luthier.seeds import Seeds

METHOD = "GFlowNet"
DRAWS = 1_000  # configurations drawn from each sampler
FEWEST = 5  # finite results before a sampler is fitted
SHARE = 0.01  # share of the space over which a learnt sampler's target is spread
BRIEF = {"evaluations": 2_000, "states": 2_048, "hidden": 64}  # limit for a learnt sampler: a second or two


def samples(history: History, settings: Mapping[str, Any]) -> Samples | None:
    """Return what the report shows of a study by method gflownet; None for any other method.

    A sampler is fitted to all results, as :meth:`luthier.propose.GFlowNet.fit` does it under the study's settings, but
    a learnt one is trained briefly.

    Args:
        history: The study.
        settings: Its stored settings.
    """
    proposer = settings["method"]["proposer"]
    if not isinstance(proposer, Mapping) or proposer.get("class") != METHOD:
        return None
    method = _method(proposer)
    initial, drawn = _origins(history, method.batch, method.initial)
    finite = int(np.isfinite(history.values[history.good, 0]).sum())
    if finite < FEWEST:
        missing = f"{finite} finished with a finite value, and a sampler is fitted to {FEWEST} at least"
        return Samples(initial, drawn, missing)
    try:
        return _fitted(method, history, Samples(initial, drawn), int(settings["seed"]))
    except LuthierError as error:
        return Samples(initial, drawn, str(error))


def _fitted(method: Any, history: History, known: Samples, seed: int) -> Samples:
    """``known`` with samples of a fitted sampler and of those that it is compared with."""
    from luthier.propose.flow import exact, learn

    found = _generator(method, history, seed)
    sampler, tree, seeds = found.sampler, found.sampler.tree, Seeds(seed)
    losses: np.ndarray | None = getattr(sampler, "losses", None)
    if losses is None:
        before: Any = exact(tree, _flat)
    else:  # the untrained network: one step of size zero
        still = replace(sampler.settings, evaluations=1, batch=1, updates=1, lr=1e-30, log_z_lr=1e-30)
        before = learn(tree, _flat, still, key=seeds.key(0, "report sampler"))
    configs = found.sample(DRAWS, seed=seed)
    untrained = tree.configs(before.sample(DRAWS, rng=seeds.rng(0, "report untrained")))
    random = history.space.sample(seeds.rng(0, "report random"), DRAWS)
    predicted, flat, uniform = (found.predict(some)[0] for some in (configs, untrained, random))
    return replace(
        known,
        configs=configs,
        predicted=predicted,
        untrained=flat,
        random=uniform,
        beta=found.beta,
        leaves=tree.size,
        rmse=found.surrogate.rmse,
        losses=losses,
    )


def _generator(method: Any, history: History, seed: int) -> Any:
    """Return what ``method.fit`` returns for an exact sampler; a learnt one is trained once, in a bounded time, at a
    beta for which exp(entropy) is a hundredth of the space."""
    from luthier.propose.flow import learn
    from luthier.propose.generator import Generator, sharpness, tree_of
    from luthier.propose.gflownet import metrics, scores

    tree, seeds = tree_of(history.space, method.bins), Seeds(seed)
    if method.sampler == "exact" or (method.sampler is None and tree.enumerable):
        return method.fit(history, seed)
    key = seeds.key(0, "report sampler")
    sign = -1.0 if next(iter(history.objectives.values())) == "max" else 1.0
    ensemble = method.surrogate.fit(history, key)
    log_reward = scores(ensemble) if method.reward == "score" else metrics(ensemble)
    random = tree.leaves(history.space.sample(seeds.rng(0, "report beta"), DRAWS))
    beta = sharpness(log_reward(random), SHARE * DRAWS) if method.beta is None else method.beta
    sampler = learn(tree, lambda leaves: beta * log_reward(leaves), method.training, key=key)
    return Generator(sampler, ensemble, log_reward, beta, sign)


def _flat(leaves: Any) -> np.ndarray:
    return np.zeros(len(leaves))


def _method(stored: Mapping[str, Any]) -> Any:
    """The method that was stored, whose learnt samplers train briefly."""
    from luthier.propose import GFlowNet, Surrogate
    from luthier.propose.flow import Settings

    parts = {"surrogate": (Surrogate, Surrogate()), "training": (Settings, Settings())}
    given = {key: value for key, value in stored.items() if key in {field.name for field in fields(GFlowNet)}}
    for name, (kind, usual) in parts.items():
        one = given.get(name)
        known = {field.name for field in fields(kind)}
        given[name] = kind(**{k: v for k, v in one.items() if k in known}) if isinstance(one, Mapping) else usual
    training = given["training"]
    brief = {name: min(getattr(training, name), most) for name, most in BRIEF.items()}
    return GFlowNet(**{**given, "training": replace(training, **brief)})


def _origins(history: History, batch: int, initial: int) -> tuple[list[int], list[int]]:
    """Jobs named before the method had a sampler, and jobs drawn from one: it has one after so many results, in whole
    batches, if two of them are finite."""
    good = np.isfinite(history.values[:, 0]) & np.isin(history.status, (OK, PRUNED))
    arrived = np.cumsum(good[np.array(history.arrival, dtype=np.int64)])  # finite results among the first of all
    results, before, after = 0, [], []
    for event in history.events:
        if isinstance(event, Result):
            results += 1
        elif isinstance(event, Job):
            known = batch * (results // batch)
            (after if known >= initial and arrived[known - 1] > 1 else before).append(event.number)
    return before, after
