"""A study that is interrupted and goes on where it was when the script is started again."""

import luthier as lt


def height(config):
    return (config["x"] - 2) ** 2


study = lt.tune(height, space=lt.Space(x=lt.Float(-10.0, 10.0)), trials=20, store="resume.db", name="heights")
print("best", study.best.value, study.best.config)
