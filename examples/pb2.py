"""Population based bandits on scikit-learn's digits: 16 networks side by side, whose moves come from a model.

    python examples/pb2.py
    luthier tune examples/digits.py --method pb2 --trials 16 --epochs 20 --store digits.db

The schedule that comes out is written to a file, and replayed from it to the very same weights.
"""

import tempfile
from pathlib import Path

import torch

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    study = lt.tune(digits, method="pb2", trials=16, epochs=20, seed=0, progress=False)
    best = study.best
    assert best is not None
    print(f"validation accuracy {best.metrics['accuracy']:.3f}, test accuracy {best.test['accuracy']:.3f}")
    for step, values in best.schedule:
        print(f"from step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
    with tempfile.TemporaryDirectory() as folder:
        file = best.schedule.save(Path(folder) / "schedule.json")
        again = lt.tune(digits, schedule=file, progress=False)
    pairs = zip(study.model().parameters(), again.model().parameters(), strict=True)
    print(f"replayed to the same weights: {all(torch.equal(a, b) for a, b in pairs)}")


if __name__ == "__main__":
    main()
