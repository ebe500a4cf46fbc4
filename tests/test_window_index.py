import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lite_interp import codec, window_index
from lite_interp.codec import pack_vectors, unpack_vectors
from lite_interp.window_index import WindowIndex, embed_windows, join_vectors

# Whole numbers: every order of summing gives the same cosine, and many are equal.
small = hnp.arrays(
    np.float16,
    st.tuples(st.integers(1, 25), st.integers(1, 3)),
    elements=st.integers(-2, 2).map(float),
)


def slow_nearest(vectors, shown, pool, n):
    """The shown windows take turns: each in its turn names its next nearest, if it is new."""
    lists = [sorted(pool, key=lambda k: (-float(np.dot(vectors[q], vectors[k])), k)) for q in shown]
    found = []
    for turn in range(len(pool)):
        for each in lists:
            if each[turn] not in found:
                found.append(each[turn])
    return found[:n]


@given(small, st.data())
def test_the_nearest_are_those_of_the_slow_twin(vectors, data):
    numbers = st.lists(st.integers(0, len(vectors) - 1), unique=True)
    shown = data.draw(numbers)
    pool = sorted(data.draw(numbers))
    n = data.draw(st.integers(0, 30))
    index = WindowIndex(vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_index, "BLOCK", data.draw(st.integers(1, 30)))
        found = index.nearest(np.array(shown, np.int64), np.array(pool, np.int64), n)
    assert found.tolist() == slow_nearest(vectors, shown, pool, n)


def test_every_shown_window_has_its_share():
    # Two meanings at right angles; the mean of the shown windows lies nearest to a third.
    angles = np.concatenate([np.zeros(20), np.full(20, np.pi / 2), np.full(20, np.pi / 4)])
    angles += np.linspace(0, 0.05, 60)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    found = WindowIndex(vectors).nearest(np.array([0, 20]), np.arange(60), 20)
    assert [(found < 20).sum(), ((found >= 20) & (found < 40)).sum()] == [10, 10]


def test_more_than_there_are_is_all_there_is():
    vectors = np.eye(4, dtype=np.float16)
    found = WindowIndex(vectors).nearest(np.array([0]), np.array([1, 3]), 9)
    assert sorted(found.tolist()) == [1, 3]


class Letters:
    """An embedder that says how long a text is, and has no direction for an empty one."""

    def __init__(self):
        self.batches = []

    def embed(self, texts):
        self.batches.append(list(texts))
        lengths = np.array([[len(text), 1.0] for text in texts], np.float32)
        lengths[lengths[:, 0] == 0] = np.nan
        return lengths


def test_texts_are_embedded_in_order_a_batch_at_a_time():
    embedder = Letters()
    texts = ["a", "bbb", "", "cc", "dddd"]
    blocks = embed_windows(iter(texts), embedder, batch=2)
    first = next(blocks)
    assert embedder.batches == [["a", "bbb"]]  # no more is read than is asked for
    vectors = np.concatenate([first, *blocks])
    assert embedder.batches == [["a", "bbb"], ["", "cc"], ["dddd"]]
    assert vectors.dtype == np.float16
    assert vectors.tolist() == [[1, 1], [3, 1], [0, 0], [2, 1], [4, 1]]


def test_no_text_no_batch():
    assert list(embed_windows([], Letters())) == []
    assert join_vectors([]).shape == (0, 0)
    assert unpack_vectors(pack_vectors(join_vectors([]))).shape == (0, 0)


def test_parts_are_joined_in_order_and_empty_ones_passed_over():
    parts = [np.full((n, d), n, np.float16) for n, d in [(0, 0), (2, 3), (0, 7), (1, 3)]]
    assert join_vectors(parts).tolist() == [[2] * 3, [2] * 3, [1] * 3]


finite = st.floats(-2, 2, width=16)
tables = hnp.arrays(np.float16, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=finite)


@given(tables)
def test_vectors_come_back_as_they_were(vectors):
    back = unpack_vectors(pack_vectors(vectors))
    assert back.shape == vectors.shape
    assert back.dtype == np.float16
    np.testing.assert_array_equal(back, vectors)


@given(tables, st.data())
def test_a_damaged_blob_is_refused(vectors, data):
    blob = bytearray(pack_vectors(vectors))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):
        unpack_vectors(bytes(blob))


@given(tables, st.data())
def test_a_blob_cut_short_or_made_longer_is_refused(vectors, data):
    blob = pack_vectors(vectors)
    for wrong in (blob[: data.draw(st.integers(0, len(blob) - 1))], blob + b"\0"):
        with pytest.raises(ValueError):
            unpack_vectors(wrong)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(blob):
    with pytest.raises(ValueError):
        unpack_vectors(blob)


def forged(n, d, body, layout=3):
    head = struct.pack("<BII", layout, n, d)
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (forged(2, 2, zstandard.compress(b"\0" * 6)), "add up"),
        (forged(2, 2, zstandard.compress(b"\0" * 10)), "add up"),
        (forged(1 << 31, 1 << 31, zstandard.compress(b"")), "layout"),
        (forged(1, 1, zstandard.compress(b"\0\0"), layout=2), "layout"),
        (forged(1, 1, b"no frame"), "decompress"),
        (forged(1, 1, zstandard.compress(b"\0\x7c")), "no number"),  # infinite
        (forged(1, 1, zstandard.ZstdCompressor(write_content_size=False).compress(b"\0\0")),
         "add up"),
    ],
)  # fmt: skip
def test_a_forged_blob_is_refused(blob, message):
    with pytest.raises(ValueError, match=message):
        unpack_vectors(blob)


def test_too_many_numbers_are_not_packed(monkeypatch):
    monkeypatch.setattr(codec, "MOST_VECTOR_NUMBERS", 5)
    with pytest.raises(ValueError, match="too many"):
        pack_vectors(np.zeros((3, 2), np.float16))
