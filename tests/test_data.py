"""Real bytes through the loaders, the split, the scaling, and the damage that files take."""

from __future__ import annotations

import doctest
import gzip
import pickle
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import NAMES, idx_bytes, write_mnist
from requirements import require

from luthier import data, idx
from luthier.errors import DataError

# --- Fashion-MNIST itself


def test_fashion_mnist_is_the_real_one():
    real = require("fashion-mnist")
    splits = data.fashion_mnist(folder=real)
    assert repr(splits) == (
        "Splits(train=50000, valid=10000, test=10000, inputs=(1, 28, 28) float32, targets=() int64, classes=10)"
    )
    # The first labels of the official test file, and its classes: 1,000 of each.
    assert splits.test.targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert splits.test.targets.bincount().tolist() == [1000] * 10
    assert (splits.train.targets.bincount() + splits.valid.targets.bincount()).tolist() == [6000] * 10
    assert splits.classes[9] == "Ankle boot"
    assert abs(splits.train.inputs.double().mean().item()) < 1e-6
    assert abs(splits.train.inputs.double().std().item() - 1) < 1e-6


def test_fashion_mnist_unnormalised_has_the_known_mean_and_deviation():
    real = require("fashion-mnist")
    splits = data.fashion_mnist(folder=real, valid=1, normalise=False, flat=True)
    pixels = splits.train.inputs.double()
    assert pixels.shape == (59_999, 784) and pixels.min() == 0 and pixels.max() == 1
    # 0.2860 and 0.3530 are the figures in common use for the 60,000 training images.
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)


def test_real_mnist_test_files():
    images, labels = idx.read_pair(Path(require("mnist")), "t10k", data.DIGIT_CLASSES)
    assert images.shape == (10_000, 28, 28) and labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)


# --- splitting, scaling, shapes


def test_mnist_pixels_and_labels_stay_together(tmp_path):
    arrays = write_mnist(tmp_path)
    splits = data.mnist(tmp_path, valid=10, normalise=False)
    official = {
        row.tobytes(): label for row, label in zip(arrays[NAMES[0]].astype(np.uint8), arrays[NAMES[1]], strict=True)
    }
    seen = []
    for split in (splits.train, splits.valid):
        for image, label in zip(split.inputs, split.targets, strict=True):
            raw = (image[0] * 255).round().to(torch.uint8).numpy().tobytes()
            assert official[raw] == label
            seen.append(raw)
    assert len(seen) == 50 and set(seen) == set(official)
    assert torch.equal((splits.test.inputs[:, 0] * 255).round().long(), torch.tensor(arrays[NAMES[2]]))
    assert splits.test.targets.tolist() == arrays[NAMES[3]].tolist()


def test_normalised_by_the_training_part_alone(tmp_path):
    write_mnist(tmp_path)
    plain = data.mnist(tmp_path, valid=40, train=5, normalise=False)
    normal = data.mnist(tmp_path, valid=40, train=5)
    mean, deviation = plain.train.inputs.mean(), plain.train.inputs.std(correction=0)
    for part in ("train", "valid", "test"):
        expected = (getattr(plain, part).inputs - mean) / deviation
        torch.testing.assert_close(getattr(normal, part).inputs, expected)
    assert normal.valid.inputs.mean().abs() > 1e-3


def test_seed_fixes_the_split_and_limits_do_not_move_it(tmp_path):
    write_mnist(tmp_path)
    load = partial(data.mnist, tmp_path, valid=10, normalise=False)
    first, again, other, few = load(), load(), load(seed=1), load(train=7)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.valid.inputs, other.valid.inputs)
    assert torch.equal(first.test.inputs, other.test.inputs)
    assert torch.equal(first.valid.inputs, few.valid.inputs)
    assert torch.equal(first.train.inputs[:7], few.train.inputs) and len(few.train) == 7


def test_split_of_seed_zero_never_changes(tmp_path):
    """Studies on disk rely on it: a new split would silently be another experiment."""
    assert data.digits(normalise=False).valid.targets[:12].tolist() == [9, 3, 7, 8, 6, 3, 4, 8, 2, 7, 4, 6]


def test_digits_are_divided_completely():
    from sklearn.datasets import load_digits

    splits = data.digits(valid=300, test=200, normalise=False, flat=True)
    rows = torch.cat([splits.train.inputs, splits.valid.inputs, splits.test.inputs]) * 16
    expected = load_digits(return_X_y=True)[0]
    assert sorted(map(tuple, rows.round().int().tolist())) == sorted(map(tuple, expected.astype(int).tolist()))
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (1297, 300, 200)
    assert torch.equal(
        splits.test.inputs, data.digits(valid=10, train=5, test=200, normalise=False, flat=True).test.inputs
    )


def test_flat_is_the_same_numbers():
    square, flat = data.digits(), data.digits(flat=True)
    assert square.train.inputs.shape == (1077, 1, 8, 8) and flat.train.inputs.shape == (1077, 64)
    assert torch.equal(square.train.inputs.flatten(1), flat.train.inputs)


def test_splits_are_frozen_travel_and_move():
    splits = data.digits(device="cpu")
    with pytest.raises(FrozenInstanceError):
        splits.train = splits.test  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(splits))
    assert torch.equal(copy.valid.inputs, splits.valid.inputs) and copy.classes == splits.classes
    assert splits.to("meta").test.inputs.device.type == "meta"
    assert torch.equal(splits.train.subset(3).targets, splits.train.targets[:3])


def test_doctests():
    assert doctest.testmod(data).failed == 0


# --- a user's mistakes


@pytest.mark.parametrize(
    ("arguments", "place", "value"),
    [
        ({"valid": 0}, "valid", "0"),
        ({"valid": 1797}, "valid", "1797"),
        ({"valid": 100.0}, "valid", "100.0"),
        ({"valid": True}, "valid", "True"),
        ({"train": 5000}, "train", "5000"),
        ({"train": 0}, "train", "0"),
        ({"test": 1797}, "test", "1797"),
        ({"device": "warp"}, "device", "warp"),
    ],
)
def test_impossible_arguments(arguments, place, value):
    with pytest.raises(DataError, match=value) as caught:
        data.digits(**arguments)
    assert caught.value.where == place and caught.value.remedy


def test_split_of_unequal_lengths():
    with pytest.raises(DataError, match=r"\(3, 2\).*\(4,\)"):
        data.Split(torch.zeros(3, 2), torch.zeros(4))


def test_constant_images_cannot_be_normalised(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(gzip.compress(idx_bytes(np.full((50, 5, 4), 7))))
    with pytest.raises(DataError, match="value 7"):
        data.mnist(tmp_path, valid=10)
    assert data.mnist(tmp_path, valid=10, normalise=False).train.inputs.unique().numel() == 1


GOOD = idx_bytes(np.zeros((50, 5, 4)))
DAMAGE = {
    "not gzip": (NAMES[0], GOOD, "not a whole gzip file"),
    "gzip cut short": (NAMES[0], gzip.compress(GOOD)[:-9], "not a whole gzip file"),
    "empty": (NAMES[0], b"", "magic number ''"),
    "gzip of nothing": (NAMES[0], gzip.compress(b""), "magic number ''"),
    "magic": (NAMES[0], gzip.compress(b"\x89PNG" + GOOD[4:]), "magic number '89504e47'"),
    "floats": (NAMES[0], gzip.compress(b"\0\0\x0d\x03" + GOOD[4:]), "magic number '00000d03'"),
    "no axes": (NAMES[0], gzip.compress(b"\0\0\x08\0"), "magic number '00000800'"),
    "header cut short": (NAMES[0], gzip.compress(GOOD[:9]), "after 9 bytes"),
    "pixels cut short": (NAMES[0], gzip.compress(GOOD[:-1]), r"\(50, 5, 4\) = 1000 bytes and 999 follow"),
    "pixels too many": (NAMES[0], gzip.compress(GOOD + b"\0"), "1001 follow"),
    "labels as images": (NAMES[0], gzip.compress(idx_bytes(np.zeros(50))), r"shape \(50,\)"),
    "images as labels": (NAMES[1], gzip.compress(GOOD), r"shape \(50, 5, 4\)"),
    "counts differ": (NAMES[1], gzip.compress(idx_bytes(np.zeros(49))), "50 images and 49 labels"),
    "label too high": (NAMES[1], gzip.compress(idx_bytes(np.full(50, 47))), "label 47"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_file(tmp_path, case):
    write_mnist(tmp_path)
    name, raw, message = DAMAGE[case]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        data.mnist(tmp_path, valid=10)
    assert str(tmp_path) in caught.value.where and caught.value.remedy


def test_missing_file_and_uncompressed_file(tmp_path):
    arrays = write_mnist(tmp_path)
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
        data.mnist(tmp_path, valid=10)
    (tmp_path / NAMES[3].removesuffix(".gz")).write_bytes(idx_bytes(arrays[NAMES[3]]))
    assert data.mnist(tmp_path, valid=10).test.targets.tolist() == arrays[NAMES[3]].tolist()
    with pytest.raises(DataError, match="cannot be read"):
        idx.read_idx(tmp_path / "absent")
