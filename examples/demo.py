"""The demo: random search for a small network on real images, in about two minutes on two cores.

It tunes the task of fashion_mnist.py, or that of digits.py where Fashion-MNIST cannot be had, and writes the study and
its report to demo/. Running it again finds the study there, finished.
"""

from pathlib import Path

import luthier as lt

HERE = Path(__file__).resolve().parent
FOLDER = Path("demo")
TRIALS, EPOCHS = 64, 5


def tune(name: str) -> lt.Study:
    """Random search on the task that the file ``name`` beside this one defines."""
    return lt.tune(
        HERE / name,
        method="random",
        trials=TRIALS,
        epochs=EPOCHS,
        metric="accuracy",
        mode="max",
        store=FOLDER / "demo.db",
        name=name.removesuffix(".py"),
        seed=0,
        executor=lt.execute.Local(workers=2),
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    try:
        study = tune("fashion_mnist.py")
    except lt.errors.TaskError as error:
        if not isinstance(error.__cause__, lt.errors.DataError):
            raise
        print(f"Fashion-MNIST cannot be had: {error.__cause__}\nscikit-learn's digits are taken instead.")
        study = tune("digits.py")
    best = study.best
    if best is None:
        raise SystemExit("No training ended well; the report says why.")
    print(f"Best of {TRIALS} configurations on the validation split of {study.name}:")
    for name, value in best.config.items():
        print(f"    {name} = {value:.6g}")
    print(f"Validation accuracy: {best.metrics['accuracy']:.4f}")
    print(f"Test accuracy:       {best.test['accuracy']:.4f}")
    print(f"Report: {study.write_report(FOLDER / 'report.html').resolve()}")


if __name__ == "__main__":
    main()
