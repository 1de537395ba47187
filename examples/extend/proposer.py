"""Simulated annealing: wander from configuration to configuration, ever less willing to go uphill."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import luthier as lt


@dataclass(frozen=True)
class Anneal:
    """Move near the configuration accepted last.

    Args:
        heat: Uphill move that is accepted about every other time at first, as a fraction of the spread of all results.
        cooling: Factor on the heat and on the length of a move after each job.
        scale: Length of a move at first, as a fraction of the range.
    """

    heat: float = 0.01
    cooling: float = 0.97
    scale: float = 0.5
    budget: lt.Budget | None = None
    extendable: ClassVar[bool] = True  # the cooling knows nothing of the end

    def bind(self, budget):
        return replace(self, budget=budget)

    def propose(self, history, count, seeds):
        def walk(now, event):
            value = float(history.values[event.number, 0]) if isinstance(event, lt.Result) else math.nan
            if not math.isfinite(value):
                return now
            at, here, low, high = now
            low, high = min(low, value), max(high, value)
            heat = self.heat * self.cooling**event.number * (high - low)
            if value - here <= heat * seeds.rng(event.number, "accept").exponential():
                at, here = event.number, value
            return at, here, low, high

        at = history.fold(("anneal", self, seeds), lambda: (None, math.inf, math.inf, -math.inf), walk)[0]
        jobs = []
        for number in range(len(history), min(len(history) + count, self.budget.trials)):
            rng = seeds.rng(number, "propose")
            if at is None:
                config = history.space.sample(rng)
            else:
                scale = self.scale * max(self.cooling**number, 0.03)
                config = history.space.perturb(history.jobs[at].config, rng, scale=scale, probability=0.5)
            jobs.append(lt.Job(number, config, self.budget.steps_for(config)))
        return jobs


if __name__ == "__main__":
    space = lt.Space(x=lt.Float(-5, 5), y=lt.Float(-5, 5))
    study = lt.tune(lambda c: (c["x"] - 1) ** 2 + c["y"] ** 2, Anneal(), space=space, trials=60, progress=False)
    print(f"annealed to {study.best.value:.3f} of 0:", study.best.value < 0.1)
