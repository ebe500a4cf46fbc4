"""Firings of very many latents at once: the fast way, without a loop over latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lite_interp.firing_codec.one import (
    HEAD_BYTES,
    LEAST_EXPONENT,
    LONG,
    MOST_FIRINGS,
    MOST_PLACES,
    MOST_SHORT,
    OLD,
    ONE,
    SHORT,
    unpack_old,
    values_of,
)

BLOCK = 1 << 17
"""Firings packed, or bytes read, at once, unless one latent has more: some 20 MB of scratch."""

_FIRST_BYTES = (np.arange(8) < np.arange(9)[:, None]).view(np.uint64).ravel()
"""(9,) masks over the bytes of a word: the first 0 to 8 of them."""


_Part: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]"
"""(m,) numbers of firings of some blobs, their places and their values."""


class PackedFirings(NamedTuple):
    """Firings of many latents, one latent after the other."""

    starts: NDArray[np.int64]
    """(m + 1,) latent i owns the firings from starts[i] up to starts[i + 1]."""
    places: NDArray[np.int64]
    """(n,) context in the shard × n_ctx + position, rising within a latent, from 0."""
    values: NDArray[np.float32]
    """(n,) activations, > 0."""


def pack_all(
    starts: NDArray[np.int64], places: NDArray[np.int64], values: NDArray[np.float32]
) -> list[bytes]:
    """The blobs of many latents, each what `pack_firings` makes of it.

    Args:
        starts: (m + 1,) latent i owns the firings from starts[i] up to starts[i + 1], at least one.
        places: (n,) as in `pack_firings`, rising within a latent.
        values: (n,) as in `pack_firings`.
    """
    if starts[0] != 0 or not starts[-1] == len(places) == len(values):
        raise ValueError("starts must begin with 0 and end with the number of firings")
    if np.diff(starts).min(initial=1) < 1:
        raise ValueError("a latent without a firing")
    blobs: list[bytes] = []
    for first, end in _blocks(starts):
        inside = slice(starts[first], starts[end])
        block = starts[first : end + 1] - starts[first]
        blobs += _pack_block(block, places[inside], values[inside])
    return blobs


def unpack_all(blobs: Sequence[bytes]) -> PackedFirings:
    """What `pack_all` packed; each blob as `unpack_firings` reads it."""
    parts = list(_unpacked(blobs))
    none = PackedFirings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    counts, places, values = zip(none, *parts, strict=True)
    return PackedFirings(
        np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
        np.concatenate(places),
        np.concatenate(values),
    )


def _unpacked(blobs: Sequence[bytes]) -> Iterator[_Part]:
    for old, run in groupby(blobs, key=lambda blob: blob[:1] == bytes([OLD])):
        same = list(run)
        if old:
            for places, values in map(unpack_old, same):
                yield np.array([len(places)]), places, values
        else:
            sizes = np.fromiter(map(len, same), np.int64, len(same))
            for first, end in _blocks(np.concatenate([[0], np.cumsum(sizes)])):
                yield _unpack_block(same[first:end])


def _blocks(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, end) of what lies side by side and is not too large, or one alone."""
    first, m = 0, len(starts) - 1
    while first < m:
        end = int(np.searchsorted(starts, starts[first] + BLOCK, "right")) - 1
        end = max(first + 1, end)
        yield first, end
        first = end


class _Heads(NamedTuple):
    """What stands in the heads of m blobs, each (m,) int64."""

    n: NDArray[np.int64]
    low: NDArray[np.int64]
    width: NDArray[np.int64]
    exponent: NDArray[np.int64]
    greatest: NDArray[np.int64]

    def word(self) -> NDArray[np.uint64]:
        """(m,) heads as numbers."""
        word = np.where(self.n <= MOST_SHORT, SHORT, LONG) | self.low << 8 | self.width << 13
        word |= self.exponent - LEAST_EXPONENT << 17 | self.greatest - ONE << 26
        return (word | self.n << 37).view(np.uint64)

    def field_bytes(self) -> NDArray[np.int64]:
        """(m,) bytes of the fields."""
        return (self.n * (self.width + self.low) + 7) // 8


def _pack_block(
    starts: NDArray[np.int64], places: NDArray[np.int64], values: NDArray[np.float32]
) -> list[bytes]:
    heads, gaps, lacks = _measured(starts, places, values)
    n, firsts = heads.n, starts[:-1]
    low = np.repeat(heads.low, n)
    fields = lacks | (gaps & (1 << low) - 1) << np.repeat(heads.width, n)
    size = heads.width + heads.low
    index = np.arange(len(places)) - np.repeat(firsts, n)
    ends = np.cumsum((gaps >> low) + 1)
    before = np.concatenate([[0], ends[starts[1:-1] - 1]])
    n_field, n_unary = heads.field_bytes(), (ends[starts[1:] - 1] - before + 7) // 8
    # Everything begins at a word of 64 bits; the bytes that are left over are thrown out later.
    n_field_words, n_unary_words = (n_field + 7) // 8, (n_unary + 7) // 8
    last = np.cumsum(1 + n_field_words + n_unary_words) - 1
    first_unary = last + 1 - n_unary_words
    first_field = first_unary - n_field_words
    words = np.zeros(int(last[-1]) + 1, np.uint64)
    position = index * np.repeat(size, n) + np.repeat(first_field * 64, n)
    _set_fields(words, position, fields, np.repeat(size, n))
    position = ends - 1 + np.repeat(first_unary * 64 - before, n)
    _add(words, position >> 6, 1 << (position & 63))
    words[first_field - 1] = heads.word()
    used = np.full(len(words), 8)
    used[last] = n_unary - 8 * (n_unary_words - 1)
    used[first_unary - 1] = n_field - 8 * (n_field_words - 1)
    n_head = np.where(n <= MOST_SHORT, HEAD_BYTES[SHORT], HEAD_BYTES[LONG])
    used[first_field - 1] = n_head
    data = words.astype("<u8", copy=False).view(np.uint8)[_FIRST_BYTES[used].view(bool)].tobytes()
    edges = [0, *np.cumsum(n_head + n_field + n_unary).tolist()]
    return [data[start:end] for start, end in pairwise(edges)]


def _measured(
    starts: NDArray[np.int64], places: NDArray[np.int64], values: NDArray[np.float32]
) -> tuple[_Heads, NDArray[np.int64], NDArray[np.int64]]:
    """Heads of m latents, (n,) gaps, and (n,) what each pattern lacks to the greatest."""
    if not (np.isfinite(values).all() and values.min() > 0):
        raise ValueError("activations must be finite and greater than 0")
    firsts, n = starts[:-1], np.diff(starts)
    gaps = np.diff(places, prepend=-1) - 1
    gaps[firsts] = places[firsts]
    if gaps.min() < 0 or n.max() > MOST_FIRINGS:
        raise ValueError("places must rise, one for each activation")
    if places.max() >= MOST_PLACES:
        raise ValueError("a place out of range")
    exponent = np.frexp(np.maximum.reduceat(values, firsts))[1].astype(np.int64) - 1
    scaled = values * np.repeat(np.ldexp(1.0, -exponent), n)
    patterns = np.maximum(scaled.astype("<f2").view("<u2"), 1)
    greatest = np.maximum.reduceat(patterns, firsts).astype(np.int64)
    lacks = np.repeat(greatest, n) - patterns
    width = _n_bits(np.maximum.reduceat(lacks, firsts))
    low = np.maximum(_n_bits((places[starts[1:] - 1] + 1 - n) // n) - 1, 0)
    return _Heads(n, low, width, exponent, greatest), gaps, lacks


def _n_bits(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bits each number has, as `int.bit_length`; below 2^53."""
    return np.frexp(numbers.astype(np.float64))[1].astype(np.int64)


def _set_fields(
    words: NDArray[np.uint64],
    position: NDArray[np.int64],
    fields: NDArray[np.int64],
    size: NDArray[np.int64],
) -> None:
    """Write fields into bits that are 0, each at its position, which rise."""
    word, shift = position >> 6, position & 63
    _add(words, word, fields << shift)
    beyond = np.flatnonzero(shift + size > 64)
    words[word[beyond] + 1] |= (fields[beyond] >> 64 - shift[beyond]).view(np.uint64)


def _add(words: NDArray[np.uint64], word: NDArray[np.int64], bits: NDArray[np.int64]) -> None:
    """Or bits into words, several into one; `word` rises."""
    edges = np.flatnonzero(np.diff(word, prepend=-1))
    words[word[edges]] |= np.bitwise_or.reduceat(bits.view(np.uint64), edges)


def _unpack_block(blobs: Sequence[bytes]) -> _Part:
    sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
    begins = np.cumsum(sizes) - sizes
    # 16 bytes more, so that two words can be read at any place.
    data = b"".join([*blobs, bytes(16 + -int(sizes.sum()) % 8)])
    words = np.frombuffer(data, "<u8")
    heads, n_head = _read_heads(words, begins)
    n_field = heads.field_bytes()
    n_unary = sizes - n_head - n_field
    if n_unary.min() < 0 or heads.exponent.max() > 127:
        raise ValueError("firings with a head out of range")
    zeros = _zeros(data, n_head + n_field, n_unary, heads)
    n, low = heads.n, np.repeat(heads.low, heads.n)
    index = np.arange(len(zeros)) - np.repeat(np.cumsum(n) - n, n)
    size = np.repeat(heads.width + heads.low, n)
    fields = _fields_at(words, index * size + np.repeat(8 * (begins + n_head), n))
    width = np.repeat(heads.width, n)
    patterns = np.repeat(heads.greatest, n) - (fields & (1 << width) - 1)
    rest = np.cumsum(fields >> width & (1 << low) - 1)
    rest -= np.repeat(_before(rest, n), n)
    places = (zeros << low) + rest + index
    if places.max(initial=0) >= MOST_PLACES:
        raise ValueError("a place out of range")
    return n, places, values_of(patterns, np.repeat(np.ldexp(1.0, heads.exponent), n))


def _read_heads(
    words: NDArray[np.uint64], begins: NDArray[np.int64]
) -> tuple[_Heads, NDArray[np.int64]]:
    """Heads of the blobs that begin at bytes of `words`, and (m,) their sizes in bytes."""
    head = _fields_at(words, 8 * begins)
    layout = head & 255
    unknown = np.flatnonzero((layout != SHORT) & (layout != LONG))
    if len(unknown):
        raise ValueError(f"firings in an unknown layout: {layout[unknown[0]]}")
    n_head = np.where(layout == SHORT, HEAD_BYTES[SHORT], HEAD_BYTES[LONG])
    n = np.where(layout == SHORT, head >> 37 & MOST_SHORT, head >> 37 & MOST_FIRINGS)
    exponent, greatest = (head >> 17 & 511) + LEAST_EXPONENT, (head >> 26 & 2047) + ONE
    return _Heads(n, head >> 8 & 31, head >> 13 & 15, exponent, greatest), n_head


def _zeros(
    data: bytes, n_before: NDArray[np.int64], n_unary: NDArray[np.int64], heads: _Heads
) -> NDArray[np.int64]:
    """(n,) zeros before the one of each firing, of one latent, where it is checked."""
    turns = np.stack([n_before, n_unary], 1).ravel()
    taken = np.repeat(np.arange(len(turns)) % 2 == 1, turns)
    unary = np.frombuffer(data, np.uint8, len(taken))[taken]
    ones = np.flatnonzero(np.unpackbits(unary, bitorder="little").view(bool))
    edges = 8 * np.cumsum(n_unary)
    if (np.diff(np.searchsorted(ones, edges), prepend=0) != heads.n).any():
        raise ValueError("firings do not add up to their count")
    n = heads.n
    index = np.arange(len(ones)) - np.repeat(np.cumsum(n) - n, n)
    zeros = ones - np.repeat(edges - 8 * n_unary, n) - index
    # Before what no blob of a sane size can hold is shifted out of 64 bits.
    if (zeros > np.repeat(MOST_PLACES >> heads.low, n)).any():
        raise ValueError("a place out of range")
    return zeros


def _before(sums: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m,) the running sum before the first of each n."""
    return np.concatenate([[0], sums])[np.cumsum(n) - n]


def _fields_at(words: NDArray[np.uint64], position: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the 64 bits from each position on."""
    word, shift = position >> 6, (position & 63).astype(np.uint64)
    # In two steps: a shift by 64 is not defined.
    beyond = words[word + 1] << np.uint64(1) << np.uint64(63) - shift
    return (words[word] >> shift | beyond).view(np.int64)
