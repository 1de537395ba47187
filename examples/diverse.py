"""Five good and different networks for scikit-learn's digits, and the one of them with the smallest learning rate.

Each trial goes where the five gain most: to a better place, or to another good one::

    python examples/diverse.py
    luthier tune examples/digits.py --method diverse --set count=5 --trials 30 --epochs 5 --metric accuracy --mode max
"""

from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    method = lt.propose.Diverse(count=5, apart=0.2)
    study = lt.tune(digits, method, metric="accuracy", mode="max", trials=30, epochs=5, progress=False)
    several = study.diverse(5, within=0.2, by="accuracy", mode="max", apart=0.2)
    for one in several:
        print({name: round(value, 5) for name, value in one.config.items()}, f"accuracy {one.metrics['accuracy']:.3f}")
    print(f"the smallest learning rate: {min(one.config['lr'] for one in several):.5f}")


if __name__ == "__main__":
    main()
