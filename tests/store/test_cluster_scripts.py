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


def begun(url: str, folder: Path) -> bool:
    """Whether some trial has ended."""
    with lt.open_store(url, checkpoints=folder) as store:
        return any(study.done for study in store.studies())


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
    try:
        while not begun(postgres_url, tmp_path):
            time.sleep(0.2)
        first.send_signal(signal.SIGTERM)  # as both schedulers do
        # 0: the study was over before; -SIGTERM: this one had not begun to listen.
        assert first.wait(30) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
        assert [worker.wait(300) for worker in others] == [0, 0]
    finally:
        for worker in (first, *others):
            worker.kill()
            worker.wait()
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
