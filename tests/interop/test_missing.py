"""What a user reads whose installation lacks an optional package."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from importlib import import_module

import luthier as lt

PARTS = {
    "optuna": lambda: import_module("luthier.interop.optuna"),
    "cmaes": lambda: import_module("luthier.interop.cmaes"),
    "botorch": lambda: import_module("luthier.interop.botorch"),
    "lightning": lambda: import_module("luthier.interop.lightning"),
    "transformers": lambda: import_module("luthier.interop.transformers"),
    "ray": lambda: lt.execute.Ray(),
    "mlflow": lambda: lt.follow.MLflow(),
    "wandb": lambda: lt.follow.WandB(),
    "tensorboard": lambda: lt.follow.TensorBoard(),
}
for package, use in PARTS.items():
    sys.modules[package] = None
    try:
        use()
    except lt.LuthierError as error:
        print(package, f"{package} cannot be imported" in str(error).lower(), f"'luthier[{package}]'" in str(error))
"""


def test_the_error_names_the_package_and_the_extra_that_brings_it() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout.splitlines()
    names = "optuna cmaes botorch lightning transformers ray mlflow wandb tensorboard"
    assert said == [f"{name} True True" for name in names.split()]
