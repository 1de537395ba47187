"""Look at a damaged study in every way, and go on with it; an error that is not luthier's own is a failure."""

import sys
import traceback

import luthier as lt
from luthier.cli import app

store, page = sys.argv[1:]
broken = []


def command(*arguments):
    try:
        app([*arguments, "--store", store], standalone_mode=False)
    except lt.LuthierError:
        pass
    except SystemExit as left:
        if left.code not in (0, 1, 2, None):
            broken.append(f"{arguments[0]}: exit code {left.code}")
    except BaseException as error:
        broken.append(f"{arguments[0]}: {''.join(traceback.format_exception_only(error))[:300].strip()}")


for one in (["studies"], ["show", "s"], ["export", "s", "--output", page], ["report", "s", "--output", page]):
    command(*one)
try:
    assert lt.Study.load("neighbour", store).best is not None
except BaseException as error:
    if "schema" not in str(error) and "version" not in str(error):
        broken.append(f"the neighbour cannot be loaded: {type(error).__name__}: {error}")
space = lt.Space(x=lt.Float(-1.0, 1.0), y=lt.Float(-1.0, 1.0))
try:
    lt.tune(lambda config: config["x"], space=space, trials=14, seed=3, store=store, name="s", progress=False)
except lt.LuthierError:
    pass
except BaseException as error:
    broken.append(f"tune: {''.join(traceback.format_exception(error))[-500:].strip()}")
print("\n".join(broken))
sys.exit(1 if broken else 0)
