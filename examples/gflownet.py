"""Many different good configurations of a small network on scikit-learn's digits, from one finished study.

A random search is turned into a sampler, R^beta over configurations. Its best and most different ones are listed, then
jobs of a search by the GFlowNet itself that are within 5 % of the best accuracy, the smallest learning rate first::

    python examples/gflownet.py
    luthier tune examples/digits.py --method gflownet --trials 30 --epochs 5 --metric accuracy --mode max
"""

from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    goal = {"metric": "accuracy", "mode": "max", "trials": 30, "epochs": 5, "progress": False}
    study = lt.tune(digits, "random", **goal)
    sampler = lt.propose.GFlowNet(beta=10, reward="metric").fit(study)
    print(f"held-out error of the surrogate: {sampler.surrogate.rmse:.3f} of accuracy")
    for temperature in (10.0, 1.0, 0.1):
        predicted, _ = sampler.predict(sampler.sample(1_000, temperature=temperature))
        print(f"mean accuracy expected of samples at temperature {temperature}: {predicted.mean():.3f}")
    for config in sampler.top(3):
        print("top:", {name: round(value, 5) for name, value in config.items()})
    study = lt.tune(digits, "gflownet", **goal)
    for one in study.diverse(3, within=0.05, by="lr"):
        print(f"diverse: lr {one.config['lr']:.4f}, accuracy {one.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
