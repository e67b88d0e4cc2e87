"""Tests the values of events: arrays of what can be right, and errors before memory is taken."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from tensorboard.compat.proto.summary_pb2 import HistogramProto
from tensorboard.util.tensor_util import make_tensor_proto

from tbx_callbacks.runs import tensorboard_loader as board
from tbx_callbacks.runs.event_values import (
    checked_buckets,
    histogram_buckets,
    number,
    numbers,
    tensor_array,
    texts,
)
from tests.helpers.hostile_events import tensor

FLOAT, DOUBLE, STRING = 1, 2, 7
BAD_SHAPES = [
    tensor(FLOAT, [2**40], tensor_content=b"abcd"),
    tensor(FLOAT, [2**40], float_val=[1.0]),
    tensor(FLOAT, [2**32, 2**32], float_val=[1.0]),
    tensor(FLOAT, [2**62, 2**62, 2**62], float_val=[1.0]),
    tensor(STRING, [2**40], string_val=[b"a"]),
    tensor(8, [2**40], scomplex_val=[1.0, 2.0]),
    tensor(10, [2**40], bool_val=[True]),
    tensor(19, [2**40], half_val=[1]),
    tensor(FLOAT, [-1], float_val=[1.0]),
    tensor(FLOAT, [-1, -4], float_val=[1.0] * 4),
    tensor(FLOAT, [3], float_val=[1.0, 2.0]),
    tensor(FLOAT, [2], tensor_content=b"abcde"),
    tensor(STRING, [1], tensor_content=b"abcd"),
    tensor(FLOAT, [1] * 70, float_val=[1.0]),
    *(tensor(dtype, [1], float_val=[1.0]) for dtype in (0, 20, 21, 24, 29, 99)),
    tensor(6, [1], int_val=[2**31 - 1]),
]


@pytest.mark.parametrize("index", range(len(BAD_SHAPES)))
def test_tensor_array_shape_without_content_refused(index: int) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="its tensor has a shape"):
        tensor_array(BAD_SHAPES[index], board)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "?", "f2", "c8", "c16"])
def test_tensor_array_equals_what_was_written(dtype: str) -> None:
    for shape in ((), (3,), (2, 3), (0,), (0, 3)):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        read = tensor_array(make_tensor_proto(array), board)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)


def test_tensor_array_repeated_value_filled() -> None:
    assert tensor_array(tensor(FLOAT, [1000, 3], float_val=[2.5]), board).tolist() == [[2.5] * 3] * 1000


@pytest.mark.parametrize(
    "array",
    [np.zeros(2), np.zeros(0), np.array(b"1.5", object), np.array(1j), np.array(["1"]), np.zeros((1, 2))],
    ids=str,
)
def test_number_other_than_one_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a scalar must be one real number"):
        number(array)


def test_number_of_any_shape_read() -> None:
    assert number(np.array([[np.float32(0.5)]])) == 0.5
    assert number(np.array(True)) == 1.0
    assert np.isnan(number(np.array(np.nan)))


def test_numbers_and_texts_other_types_refused() -> None:
    for array in (np.zeros(3), np.zeros((2, 4)), np.array([[b"a", b"b", b"c"]], object), np.zeros((2, 3), complex)):
        with pytest.raises(ValueError, match="a table of numbers"):
            numbers(array, None, 3)
    with pytest.raises(ValueError, match="a table of numbers"):
        numbers(np.zeros((5, 3)), 6, None)
    assert numbers(np.ones((2, 3), np.int32), None, 3).dtype == np.float64
    with pytest.raises(ValueError, match="must hold strings"):
        texts(np.array([10**12, 4]))  # bytes(10 ** 12) would take a terabyte
    assert texts(np.array([b"a", b"b"], object)) == [b"a", b"b"]


def histogram(limits: list[float], counts: list[float], low: float = -1.0, high: float = 1.0) -> HistogramProto:
    return HistogramProto(min=low, max=high, bucket_limit=limits, bucket=counts)


@pytest.mark.parametrize(
    ("proto", "rule"),
    [
        (histogram([0.0], [1.0, 2.0]), "a limit for each bucket"),
        (histogram([], [1.0]), "a limit for each bucket"),
        (histogram([0.5, 0.0, 1.0], [1.0, 1.0, 1.0]), "sorted edges"),
        (histogram([0.0, float("nan"), 1.0], [1.0, 1.0, 1.0]), "finite edges"),
        (histogram([0.0, 1.0], [1.0, 1.0], low=float("-inf")), "finite edges"),
        (histogram([0.0, 1.0], [1.0, 1.0], high=float("nan")), "finite edges"),
        (histogram([0.0, 1.0], [1.0, float("inf")]), "finite edges"),
        (histogram([0.0, 1.0], [1.0, float("nan")]), "finite edges"),
        (histogram([0.0, 1.0], [1.0, -1.0]), "counts of at least 0"),
        (histogram([0.0, 1.0], [1.7e308, 1.7e308]), "finite edges"),
    ],
)
def test_histogram_buckets_impossible_refused(proto: HistogramProto, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        histogram_buckets(proto)


def test_histogram_buckets_outer_ones_removed() -> None:
    proto = histogram([-1.7e308, 0.0, 0.5, 1.7e308], [0.0, 2.0, 3.0, 0.0], low=-0.5, high=0.4)
    assert histogram_buckets(proto).tolist() == [[-0.5, 0.0, 2.0], [0.0, 0.4, 3.0]]
    assert histogram_buckets(histogram([1.0], [0.0])).shape == (0, 3)
    rounded = histogram_buckets(histogram([0.1, 0.2], [1.0, 1.0], low=0.1000001, high=0.2))
    assert rounded.tolist() == [[0.1, 0.1, 1.0], [0.1, 0.2, 1.0]]


def test_checked_buckets_touching_and_empty_pass() -> None:
    for buckets in (np.empty((0, 3)), np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 2.0]])):
        assert checked_buckets(buckets) is buckets
