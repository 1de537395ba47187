"""Methods beside each other on scikit-learn's digits: the same training steps, splits and seeds for all.

python examples/compare.py
luthier compare examples/digits.py --methods random,genetic,pbt,hypergradient --trials 12 --epochs 6
"""

from pathlib import Path

import luthier as lt

TASK = Path(__file__).with_name("digits.py")  # a file that defines ``task``


def main() -> None:
    methods = ["random", "genetic", "pbt", "hyperband", "hypergradient"]
    found = lt.compare(TASK, methods, trials=12, epochs=6, seeds=3, progress=False)
    for row in found.table():
        print(f"{row.label:14} rank {row.rank:.1f}  validation loss {row.valid.mean():.3f}  test {row.test.mean():.3f}")
    print("report:", found.report("compare.html"))


if __name__ == "__main__":
    main()
