"""MKL takes one code path whatever the shape of a product; the branch is read from MKL, not from the variable."""

import os
import platform
import subprocess
import sys

import pytest
import torch

import luthier as lt

PRODUCT = "import torch; torch.randn(64, 64) @ torch.randn(64, 64)"

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available() or platform.machine() != "x86_64", reason="this torch has no MKL"
)


def branches(code: str, **environment: str) -> list[str]:
    """The CNR mode of every product that a fresh process makes, as MKL_VERBOSE prints it."""
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "MKL_VERBOSE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("CNR:")[1].split()[0] for line in done.stdout.splitlines() if "GEMM(" in line]


@pytest.mark.parametrize("code", [f"import luthier; {PRODUCT}", f"import torch, luthier; {PRODUCT}"])
def test_products_are_strict_where_luthier_is_imported_before_the_first(code: str):
    (branch,) = branches(code)
    assert branch.endswith(",STRICT")


def test_what_the_user_has_set_stays():
    assert branches(f"import luthier; {PRODUCT}", MKL_CBWR="COMPATIBLE") == ["COMPATIBLE"]


def test_the_environment_that_the_user_sees_is_not_changed():
    code = f"import os, luthier; assert 'MKL_CBWR' not in os.environ; {PRODUCT}"
    assert branches(code)[0].endswith(",STRICT")


def test_a_product_before_the_import_keeps_the_mode_that_mkl_began_with():
    assert branches(f"{PRODUCT}; import luthier; {PRODUCT}") == ["OFF", "OFF"]


def test_workers_are_strict_from_their_start():
    def strict(config: dict) -> float:
        import ctypes
        from pathlib import Path

        import torch

        torch.randn(64, 64) @ torch.randn(64, 64)
        mode = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).mkl_serv_cbwr_get(-1)
        return float(mode & 0x10000)  # MKL_CBWR_STRICT

    executor = lt.execute.Local(workers=2)
    study = lt.tune(strict, space=lt.Space(x=lt.Int(0, 1)), trials=2, executor=executor, progress=False)
    assert [result.metrics["loss"] for result in study.history.results] == [65536.0, 65536.0]
