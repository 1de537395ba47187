"""The scripts for clusters without Ray: three workers on one PostgreSQL, one of them told to leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import luthier as lt

SCRIPTS = Path(__file__).parents[2] / "examples" / "cluster"
TRIALS, EPOCHS = 24, 40


@pytest.mark.server
@pytest.mark.slow
def test_three_workers_share_a_study_and_one_leaves(postgres_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LUTHIER_STORE": postgres_url,
        "LUTHIER_CHECKPOINTS": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(SCRIPTS / "worker"), str(TRIALS), str(EPOCHS)]
    first, *others = [subprocess.Popen(command, env=environment) for _ in range(3)]
    time.sleep(8.0)
    first.send_signal(signal.SIGTERM)  # as both schedulers do
    assert first.wait(30) in (0, 128 + signal.SIGTERM)  # 0: the study was over before
    assert [worker.wait(300) for worker in others] == [0, 0]
    with lt.open_store(postgres_url, checkpoints=tmp_path) as store:
        history = lt.Study.load("cluster", store).history
        assert [result and result.status for result in history.results] == ["ok"] * TRIALS


def test_the_scripts_name_what_is_there() -> None:
    """Both schedulers start the worker, and the worker the task; bash can read all three."""
    for script in ("worker", "slurm.sbatch"):
        subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    assert "worker" in (SCRIPTS / "slurm.sbatch").read_text() and "worker" in (SCRIPTS / "kubernetes.yaml").read_text()
    assert "train.py" in (SCRIPTS / "worker").read_text() and (SCRIPTS / "train.py").exists()
    missing = subprocess.run([SCRIPTS / "worker", "1", "1"], env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert missing.returncode != 0 and b"LUTHIER_STORE" in missing.stderr
