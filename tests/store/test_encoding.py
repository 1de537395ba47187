"""Values as JSON and blobs: exact both ways."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import StoreError
from luthier.store import encoding, rows

TEXT = st.one_of(st.text(), st.sampled_from(["$float", "$dict", "$f8", "$f4", "$"]))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_every_value_comes_back_from_its_text(value: object) -> None:
    text = encoding.dumps(value)
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert repr(encoding.loads(text)) == repr(value)
    assert repr(encoding.plain(value)) == repr(value)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(TEXT, st.one_of(VALUES, st.lists(st.floats(), min_size=60, max_size=70))))
def test_every_mapping_comes_back_from_text_and_blob(values: dict) -> None:
    text, blob = encoding.pack(values)
    assert repr(encoding.loads(text, blob)) == repr(values)


def test_long_vectors_leave_the_text() -> None:
    vector = list(np.random.Generator(np.random.Philox(0)).normal(size=7850))
    vector = [float(value) for value in vector]
    text, blob = encoding.pack({"w": vector, "lr": 0.1, "v": vector[:64]})
    assert blob is not None and len(blob) == 8 * 7850 and len(text) < 2000
    assert blob[:8] == struct.pack("<d", vector[0]), "little endian on every machine"
    _, small = encoding.pack({"w": vector}, "f4")
    assert small is not None and len(small) == 4 * 7850


def test_integers_in_a_long_list_stay_integers() -> None:
    values = {"k": list(range(100)), "mixed": [0.5] * 99 + [1]}
    assert encoding.pack(values)[1] is None
    assert repr(encoding.loads(*encoding.pack(values))) == repr(values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1.0, 2.0]]), [[1.0, 2.0]]),
        (torch.tensor([1, 2]), [1, 2]),
        ({"a": (1, {"b": np.float64(0.1)})}, {"a": [1, {"b": 0.1}]}),
        ((), []),
    ],
    ids=repr,
)
def test_values_become_plain(value: object, expected: object) -> None:
    assert repr(encoding.plain(value)) == repr(expected)
    assert repr(encoding.loads(encoding.dumps(encoding.plain(value)))) == repr(expected)


@pytest.mark.parametrize("value", [print, {1: 2}, {"a": {None: 1}}, {1.5, 2.5}, b"bytes", [{1.5}]], ids=str)
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encoding.plain(value)


@pytest.mark.parametrize("count", [1, 199, 200, 201, 399, 400, 401, 1000, 12345])
def test_strides_double_and_keep_half_to_all_of_the_room(count: int) -> None:
    stride = encoding.stride(count)
    kept = len(range(0, count, stride))
    assert stride & (stride - 1) == 0
    assert kept <= encoding.SNAPSHOTS and (stride == 1 or kept > encoding.SNAPSHOTS // 2 - 1)
    assert stride == 1 or math.ceil(count / (stride // 2)) > encoding.SNAPSHOTS, "the smallest that does"


@pytest.mark.parametrize(
    "text",
    ["", "{", "null x", '{"$other": 1}', '{"$f8": [0, 100]}', '{"$float": "one"}', '{"$float": null}', "3", None],
)
def test_text_of_another_hand_is_an_error_with_its_column(text: str) -> None:
    with pytest.raises(ValueError, match="config"):
        rows.mapping("config", text, None if "f8" in str(text) else b"\0" * 80)


def test_a_blob_that_was_cut_is_an_error() -> None:
    text, blob = encoding.pack({"v": [0.5] * 100})
    assert blob is not None
    with pytest.raises(ValueError, match="config"):
        rows.mapping("config", text, blob[:-8])


def test_the_error_names_the_row() -> None:
    with pytest.raises(StoreError, match=r"table t, study 's', job 7: the column body does not hold .* '\{'.*backup"):
        rows.read(rows.unpacked, _Row(), "table t, study 's'")


class _Row:
    kind, number, body, vectors = 0, 7, "{", None
