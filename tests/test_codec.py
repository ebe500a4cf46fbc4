import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lite_interp import codec
from lite_interp.codec import pack_contexts, unpack_contexts


@st.composite
def contexts(draw):
    n, n_ctx = draw(st.integers(0, 6)), draw(st.integers(1, 9))
    lengths = draw(hnp.arrays(np.int32, n, elements=st.integers(0, n_ctx)))
    ids = draw(hnp.arrays(np.int32, (n, n_ctx), elements=st.integers(0, (1 << 31) - 1)))
    return lengths, np.where(np.arange(n_ctx) < lengths[:, None], ids, 0).astype(np.int32)


@given(contexts())
def test_contexts_come_back_as_they_were(pair):
    lengths, token_ids = pair
    found_lengths, found = unpack_contexts(pack_contexts(lengths, token_ids))
    np.testing.assert_array_equal(found_lengths, lengths)
    np.testing.assert_array_equal(found, token_ids)
    assert (found_lengths.dtype, found.dtype) == (np.int32, np.int32)


def test_what_stands_behind_a_context_is_not_stored():
    lengths = np.array([2, 0], np.int32)
    dirty = np.array([[5, 6, 99], [98, 97, 96]], np.int32)
    clean = np.array([[5, 6, 0], [0, 0, 0]], np.int32)
    assert pack_contexts(lengths, dirty) == pack_contexts(lengths, clean)
    np.testing.assert_array_equal(unpack_contexts(pack_contexts(lengths, dirty))[1], clean)


def test_tokens_of_text_cost_less_than_two_bytes_each():
    # Zipf's law over 50,000 tokens; a token id of 4 bytes has two that are mostly zero.
    ids = np.minimum(np.random.default_rng(0).zipf(1.3, (256, 128)), 49_999).astype(np.int32)
    blob = pack_contexts(np.full(256, 128, np.int32), ids)
    assert len(blob) / ids.size < 2


GOOD_CONTEXTS = pack_contexts(
    np.array([3, 1], np.int32), np.array([[7, 8, 9], [70000, 0, 0]], np.int32)
)


def test_a_blob_cut_short_anywhere_is_a_value_error():
    unpack_contexts(GOOD_CONTEXTS)
    for length in range(len(GOOD_CONTEXTS)):
        with pytest.raises(ValueError):
            unpack_contexts(GOOD_CONTEXTS[:length])


def test_an_unknown_layout_is_a_value_error_that_says_so():
    with pytest.raises(ValueError, match="unknown layout: 77"):
        unpack_contexts(b"\x4d" + GOOD_CONTEXTS[1:])


def read_safely(blob):
    """What comes out is an answer that can be used, or a ValueError; never anything else."""
    try:
        lengths, token_ids = unpack_contexts(blob)
    except ValueError:
        return
    assert (lengths >= 0).all()
    assert (lengths <= token_ids.shape[1]).all()
    assert (token_ids >= 0).all()


def test_one_token_is_not_spread_over_a_longer_context():
    body = zstandard.compress(np.array([2, 5], "<u4").tobytes())
    with pytest.raises(ValueError, match="do not add up"):
        unpack_contexts(struct.pack("<BII", 1, 1, 3) + body)


@given(st.binary(max_size=80))
def test_random_bytes_are_read_safely(data):
    read_safely(b"\x01" + data)
    read_safely(data)


@given(st.data())
def test_a_good_blob_with_some_bytes_changed_is_read_safely(data):
    changed = bytearray(GOOD_CONTEXTS)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    read_safely(bytes(changed))


@given(
    n=st.integers(0, 5) | st.integers(0, 2**32 - 1),
    n_ctx=st.integers(0, 5) | st.integers(0, 2**32 - 1),
    numbers=st.lists(st.integers(0, 4) | st.integers(0, 2**32 - 1), max_size=12),
)
@example(n=2, n_ctx=3, numbers=[2**32 - 1, 2, 5])  # a length of -1, were it read with a sign
@example(n=1, n_ctx=1, numbers=[1, 2**31])  # a token id of -2^31
@example(n=0, n_ctx=2**32 - 1, numbers=[])
@example(n=2**32 - 1, n_ctx=0, numbers=[])
def test_a_hostile_head_of_contexts_is_read_safely(n, n_ctx, numbers):
    body = zstandard.compress(np.array(numbers, "<u4").tobytes())
    read_safely(struct.pack("<BII", codec.CONTEXTS, n, n_ctx) + body)


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def zeros(n_bytes):
    return zstandard.compress(bytes(n_bytes))


@pytest.mark.parametrize(
    "blob",
    [
        struct.pack("<BII", 1, 4, 3) + zeros(1 << 26),  # a bomb of 64 MiB in 2 kB
        struct.pack("<BII", 1, 2**32 - 1, 2**32 - 1) + zeros(100),  # a head that asks for 2^66
        struct.pack("<BII", 1, 1, 2**31) + zeros(4),  # one empty context, 2 billion tokens wide
        struct.pack("<BII", 1, 0, 2**32 - 1) + zeros(0),  # no context, 4 billion tokens wide
        struct.pack("<BII", 1, 2**32 - 1, 0) + zeros(0),
        # A frame that hides how much it holds.
        struct.pack("<BII", 1, 4, 3)
        + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26)),
    ],
)
def test_a_bomb_among_contexts_is_refused_before_it_goes_off(blob):
    assert len(blob) < 10_000

    def read():
        with pytest.raises(ValueError):
            unpack_contexts(blob)

    assert peak_memory(read) < 1 << 20


def test_more_tokens_than_can_be_read_back_are_not_written():
    wide = np.broadcast_to(np.int32(0), (1, codec.MOST_TOKENS))
    with pytest.raises(ValueError, match="too many tokens"):
        pack_contexts(np.array([0], np.int32), wide)
