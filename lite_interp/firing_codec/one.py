"""Firings of one latent in one shard: the plain way."""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

OLD, SHORT, LONG = 2, 3, 4
OLD_HEAD = "<BhIHBB"
HEAD_BYTES = {SHORT: 6, LONG: 8}
MOST_SHORT = (1 << 11) - 1
"""Firings that a head of layout 3 can count."""
MOST_FIRINGS = (1 << 27) - 1
"""Firings that a head of layout 4 can count."""
MOST_PLACES = 1 << 31
"""Places are smaller than this."""
LEAST_EXPONENT = -149
"""Of the smallest float32; the greatest has 127."""
ONE = 0x3C00
"""The float16 1.0; a greatest pattern is this or at most 1,024 more."""
INFINITE = 0x7C00
"""The first bit pattern of a float16 that is no number; below it, patterns rise with the value."""


def pack_firings(places: NDArray[np.int64], values: NDArray[np.float32]) -> bytes:
    """Firings of one latent in one shard as bytes.

    Args:
        places: (n,) context in the shard × n_ctx + position, strictly rising, from 0, below 2^31.
        values: (n,) activations, > 0 and finite.
    """
    n = len(values)
    if not (np.isfinite(values).all() and values.min(initial=1) > 0):
        raise ValueError("activations must be finite and greater than 0")
    gaps = np.diff(places, prepend=-1) - 1
    if len(gaps) != n or gaps.min(initial=0) < 0 or n > MOST_FIRINGS:
        raise ValueError("places must rise, one for each activation")
    if places.max(initial=0) >= MOST_PLACES:
        raise ValueError("a place out of range")
    exponent = int(np.frexp(values.max(initial=0))[1]) - 1
    scaled = np.ldexp(values.astype(np.float64), -exponent).astype("<f2")
    patterns = np.maximum(scaled.view("<u2"), 1).astype(np.int64)
    greatest = int(patterns.max(initial=ONE))
    width = (greatest - int(patterns.min(initial=greatest))).bit_length()
    low = max(0, (int(gaps.sum()) // max(1, n)).bit_length() - 1)
    fields = greatest - patterns | (gaps & (1 << low) - 1) << width
    bits = fields[:, None] >> np.arange(width + low) & 1
    unary = np.zeros(int((gaps >> low).sum()) + n, np.uint8)
    unary[np.cumsum((gaps >> low) + 1) - 1] = 1
    layout = SHORT if n <= MOST_SHORT else LONG
    head = layout | low << 8 | width << 13 | exponent - LEAST_EXPONENT << 17
    head |= greatest - ONE << 26 | n << 37
    return head.to_bytes(HEAD_BYTES[layout], "little") + _packed_bits(bits) + _packed_bits(unary)


def unpack_firings(blob: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What `pack_firings` packed: (n,) places and (n,) float32 values."""
    if blob[:1] == bytes([OLD]):
        return unpack_old(blob)
    if not blob or blob[0] not in HEAD_BYTES:
        raise ValueError(f"firings in an unknown layout: {blob[0] if blob else 'none'}")
    start = HEAD_BYTES[blob[0]]
    head = int.from_bytes(blob[:start], "little")
    low, width, n = head >> 8 & 31, head >> 13 & 15, head >> 37
    exponent, greatest = (head >> 17 & 511) + LEAST_EXPONENT, (head >> 26 & 2047) + ONE
    middle = start + (n * (width + low) + 7) // 8
    if len(blob) < middle or exponent > 127:
        raise ValueError("firings with a head out of range")
    unary = np.unpackbits(np.frombuffer(blob[middle:], np.uint8), bitorder="little")
    ends = np.flatnonzero(unary)
    if len(ends) != n:
        raise ValueError("firings do not add up to their count")
    if n and int(ends[-1]) + 1 - n > MOST_PLACES >> low:
        raise ValueError("a place out of range")
    fields = _unpacked_bits(blob[start:middle], n, width + low)
    places = np.cumsum((np.diff(ends, prepend=-1) - 1 << low) + (fields >> width) + 1) - 1
    if places.max(initial=0) >= MOST_PLACES:
        raise ValueError("a place out of range")
    return places, values_of(greatest - (fields & (1 << width) - 1), np.ldexp(1.0, exponent))


def values_of(
    patterns: NDArray[np.int64], scale: np.float64 | NDArray[np.float64]
) -> NDArray[np.float32]:
    """(n,) activations of patterns, times a power of two each; `ValueError` if one is none."""
    if patterns.min(initial=1) < 1 or patterns.max(initial=1) >= INFINITE:
        raise ValueError("an activation that is no number")
    values = patterns.astype("<u2").view("<f2").astype(np.float64) * scale
    values = np.minimum(values, np.finfo(np.float32).max).astype(np.float32)
    if values.min(initial=1) <= 0:
        raise ValueError("an activation that is zero")
    return values


def unpack_old(blob: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Layout 2: values, low bits and gaps apart, the least pattern, the highest bit first."""
    if len(blob) < struct.calcsize(OLD_HEAD):
        raise ValueError("a packed column is cut short")
    _, exponent, n, least, width, low = struct.unpack_from(OLD_HEAD, blob)
    if width > 15 or not LEAST_EXPONENT <= exponent < 128:
        raise ValueError("firings with a header out of range")
    start = struct.calcsize(OLD_HEAD)
    middle = start + (n * width + 7) // 8
    end = middle + (n * low + 7) // 8
    unary = np.unpackbits(np.frombuffer(blob[end:], np.uint8))
    ends = np.flatnonzero(unary)
    if len(ends) != n or len(unary) << low > 1 << 62:
        raise ValueError("firings do not add up to their count")
    patterns = least + _unpacked_bits(blob[start:middle], n, width, "big")
    rest = _unpacked_bits(blob[middle:end], n, low, "big")
    gaps = (np.diff(ends, prepend=-1) - 1 << low) + rest
    return np.cumsum(gaps + 1) - 1, values_of(patterns, np.ldexp(1.0, exponent))


def _packed_bits(bits: NDArray[np.integer]) -> bytes:
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _unpacked_bits(
    data: bytes, n: int, width: int, order: Literal["little", "big"] = "little"
) -> NDArray[np.int64]:
    """(n,) unsigned integers of `width` bits each, the lowest first."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n * width, bitorder=order)
    return bits.reshape(n, width) @ (1 << np.arange(width, dtype=np.int64))
