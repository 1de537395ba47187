"""Real data sets in memory, as training, validation and test splits: Fashion-MNIST, MNIST and scikit-learn's digits.

Images are scaled to [0, 1] and then, unless asked otherwise, normalised by one mean and one standard deviation, both
of the training part alone. The validation part is drawn from the official training set by a seeded permutation (not
stratified); the test part is the official test set, whatever the seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from luthier.errors import DataError
from luthier.idx import Pair, download, read_pair
from luthier.seeds import Seeds
from luthier.split import Device, Split, Splits, check_count

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGIT_CLASSES = tuple("0123456789")

# The authors' own repository, which (unlike their storage bucket's web page) answers over https.
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
# SHA-256 of the decompressed files: a gzip header holds a name and a date, so the compressed bytes differ from one
# distributor to the next while the data do not.
FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
FASHION_REMEDY = (
    "Install Debian's package (apt-get install dataset-fashion-mnist), or put the four official files into a folder "
    "and name it by the environment variable LUTHIER_DATA."
)


def fashion_mnist(
    valid: int = 10_000,
    *,
    seed: int = 0,
    normalise: bool = True,
    train: int | None = None,
    device: Device = None,
    flat: bool = False,
    folder: str | Path | None = None,
    url: str | None = None,
) -> Splits:
    """Fashion-MNIST: 70,000 grey images, 28 by 28 pixels, of ten kinds of clothing.

    The four official files are taken from ``folder``; without it from the first of these places that has them:
    ``$LUTHIER_DATA/fashion-mnist``, ``$LUTHIER_DATA``, the user's cache, the files of Debian's package. Where
    none has, they are downloaded into the cache. Wherever they come from, their checksums must be right.

    Args:
        valid: Examples of the official 60,000 for the validation split.
        seed: Seed for the permutation that splits training from validation, without stratification.
        normalise: Subtract the mean of all pixels of the training split and divide by their standard deviation;
            otherwise pixels are in [0, 1].
        train: Examples kept for training, or None for all that remain; this does not change the validation split.
        device: Device for the tensors.
        flat: Give inputs as (n, 784) instead of (n, 1, 28, 28).
        folder: Folder with the files; nothing else is then searched or downloaded.
        url: Address to download from; else ``$LUTHIER_DATA_URL``, else the authors' repository.

    Returns:
        Inputs float32, targets int64 in 0..9; the test split is the official one of 10,000.

    Raises:
        DataError: If a file is missing, damaged or another than the official one, if the download fails, or if the
            sizes asked for do not fit.

    Examples:
        >>> fashion_mnist(train=5_000)  # doctest: +SKIP
        Splits(train=5000, valid=10000, test=10000, inputs=(1, 28, 28) float32, targets=() int64, classes=10)

    References:
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms, arXiv:1708.07747.
    """
    source = Path(folder) if folder is not None else _find_fashion(url)
    learn, test = (read_pair(source, part, FASHION_CLASSES, FASHION_FILES) for part in ("train", "t10k"))
    order = _permutation(len(learn[1]), seed)
    return _splits(learn, order, test, valid, train, classes=FASHION_CLASSES, normalise=normalise, flat=flat).to(device)


def mnist(
    folder: str | Path,
    valid: int = 10_000,
    *,
    seed: int = 0,
    normalise: bool = True,
    train: int | None = None,
    device: Device = None,
    flat: bool = False,
) -> Splits:
    """MNIST, or any set in its format with ten classes, from the four IDX files that the user has.

    Args:
        folder: Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each with or without ``.gz``.
        valid, seed, normalise, train, device, flat: See :func:`fashion_mnist`.

    Returns:
        Inputs float32 (n, 1, height, width), or (n, height * width) if ``flat``; targets int64 in 0..9.

    Raises:
        DataError: If a file is missing, truncated or not in this format, images and labels differ in number, or
            the sizes asked for do not fit.

    Examples:
        >>> mnist("~/data/mnist")  # doctest: +SKIP
        Splits(train=50000, valid=10000, test=10000, inputs=(1, 28, 28) float32, targets=() int64, classes=10)

    References:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
    """
    learn, test = (read_pair(Path(folder).expanduser(), part, DIGIT_CLASSES) for part in ("train", "t10k"))
    order = _permutation(len(learn[1]), seed)
    return _splits(learn, order, test, valid, train, classes=DIGIT_CLASSES, normalise=normalise, flat=flat).to(device)


def digits(
    valid: int = 360,
    test: int = 360,
    *,
    seed: int = 0,
    normalise: bool = True,
    train: int | None = None,
    device: Device = None,
    flat: bool = False,
) -> Splits:
    """Scikit-learn's digits: 1,797 real images, 8 by 8 pixels, of handwritten digits; needs no file and no network.

    Args:
        valid: Examples for the validation split.
        test: Examples for the test split. There is no official one, so it is drawn by ``seed`` too, and first: it
            does not change with ``valid`` and ``train``.
        seed, normalise, train, device, flat: See :func:`fashion_mnist`.

    Returns:
        Inputs float32 (n, 1, 8, 8), or (n, 64) if ``flat``; targets int64 in 0..9.

    Raises:
        DataError: If the sizes asked for do not fit.

    Examples:
        >>> digits()
        Splits(train=1077, valid=360, test=360, inputs=(1, 8, 8) float32, targets=() int64, classes=10)

    References:
        Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits  # here, because it takes half a second that most calls do not need

    pixels, labels = load_digits(return_X_y=True)
    everything = np.asarray(pixels, np.uint8).reshape(-1, 8, 8), np.asarray(labels)
    order = _permutation(len(everything[1]), seed)
    check_count("test", test, 1, len(order) - 2)
    held = everything[0][order[:test]], everything[1][order[:test]]
    form = {"classes": DIGIT_CLASSES, "normalise": normalise, "flat": flat, "white": 16}
    return _splits(everything, order[test:], held, valid, train, **form).to(device)


def _find_fashion(url: str | None) -> Path:
    """The first folder that has all of Fashion-MNIST's files; the cache, filled by a download, if none has."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "luthier" / "fashion-mnist"
    places = [cache, FASHION_PACKAGE]
    if os.environ.get("LUTHIER_DATA"):
        own = Path(os.environ["LUTHIER_DATA"]).expanduser()
        if not own.is_dir():
            raise DataError(
                f"LUTHIER_DATA={str(own)!r} is not a folder", where="environment", remedy="Name a folder, or unset it."
            )
        places = [own / "fashion-mnist", own, *places]
    for place in places:
        if all((place / name).is_file() or (place / name.removesuffix(".gz")).is_file() for name in FASHION_FILES):
            return place
    download(url or os.environ.get("LUTHIER_DATA_URL") or FASHION_URL, cache, FASHION_FILES, FASHION_REMEDY)
    return cache


def _permutation(count: int, seed: int) -> np.ndarray:
    return Seeds(seed).rng(0, "split").permutation(count)


def _splits(
    learn: Pair,
    order: np.ndarray,  # rows of ``learn`` to divide into validation (first) and training
    test: Pair,
    valid: int,
    train: int | None,
    *,
    classes: tuple[str, ...],
    normalise: bool,
    flat: bool,
    white: int = 255,
) -> Splits:
    """Divide, scale by the value of ``white``, normalise by the training part, and shape."""
    check_count("valid", valid, 1, len(order) - 1)
    if train is not None:
        check_count("train", train, 1, len(order) - valid)
    rows = {"train": order[valid:][:train], "valid": order[:valid]}
    images = {part: torch.from_numpy(learn[0][chosen]) for part, chosen in rows.items()}
    images["test"] = torch.from_numpy(test[0].copy())
    labels = {part: learn[1][chosen] for part, chosen in rows.items()} | {"test": test[1]}
    mean, deviation = _moments(images["train"], white) if normalise else (0.0, 1.0)
    parts = []
    for part in ("train", "valid", "test"):
        inputs = images[part].float().div_(white).sub_(mean).div_(deviation)
        inputs = inputs.flatten(1) if flat else inputs.unsqueeze(1)
        parts.append(Split(inputs, torch.from_numpy(labels[part].astype(np.int64))))
    return Splits(*parts, classes=classes)


def _moments(images: Tensor, white: int) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from their histogram: exact, so equal on any number of threads."""
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / white
    mean = (counts @ values / counts.sum()).item()
    deviation = (counts @ (values - mean) ** 2 / counts.sum()).sqrt().item()
    if deviation == 0.0:
        raise DataError(
            f"all {images.numel()} pixels of the training split have the value {mean * white:g}",
            where="images",
            remedy="Check the data set, or give normalise=False.",
        )
    return mean, deviation
