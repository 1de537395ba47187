"""Known configurations first, then Bayesian search."""

import luthier as lt


def height(config):
    return (config["x"] - 2) ** 2 + config["y"] ** 2


space = lt.Space(x=lt.Float(-10.0, 10.0), y=lt.Float(-10.0, 10.0))
study = lt.tune(height, "tpe", space=space, trials=15, start=[{"x": 1.0, "y": 1.0}, {"x": 3.0}])
print("best", study.best.value, study.best.config)
