"""Arrays to bytes and back: tokens of contexts, and the firings of one latent in one shard.

A blob starts with one byte that names its layout, so that a later layout can live beside it.
Numbers are little-endian. Nothing is pickled; a blob that does not parse raises `ValueError`.
"""

from __future__ import annotations

import struct

import numpy as np
import zstandard
from numpy.typing import NDArray

CONTEXTS = 1
FIRINGS = 1
LARGEST_BLOB = 1 << 30
"""Bytes a blob may unpack to: a hostile file must not fill the memory."""


def pack_contexts(lengths: NDArray[np.int32], token_ids: NDArray[np.int32]) -> bytes:
    """Contexts as bytes: (n,) lengths and (n, n_ctx) token ids, padding left out."""
    n, n_ctx = token_ids.shape
    valid = np.arange(n_ctx) < lengths[:, None]
    body = lengths.astype("<u4").tobytes() + token_ids[valid].astype("<u4").tobytes()
    return struct.pack("<BII", CONTEXTS, n, n_ctx) + zstandard.compress(body, 9)


def unpack_contexts(blob: bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What `pack_contexts` packed: (n,) lengths and (n, n_ctx) token ids, padded with 0."""
    layout, n, n_ctx = _header("<BII", blob)
    if layout != CONTEXTS or 4 * n * (n_ctx + 1) > LARGEST_BLOB:
        raise ValueError(f"tokens in an unknown layout: {layout}")
    body = np.frombuffer(_decompress(blob[9:]), "<u4").astype(np.int32)
    lengths, tokens = body[:n], body[n:]
    if len(lengths) < n or lengths.max(initial=0) > n_ctx or lengths.sum() != len(tokens):
        raise ValueError("tokens do not add up to their lengths")
    token_ids = np.zeros((n, n_ctx), np.int32)
    token_ids[np.arange(n_ctx) < lengths[:, None]] = tokens
    return lengths, token_ids


def pack_firings(places: NDArray[np.int64], values: NDArray[np.float32]) -> bytes:
    """Firings of one latent in one shard as bytes.

    Args:
        places: (n,) context in the shard × n_ctx + position, strictly rising.
        values: (n,) activations, > 0 and finite.

    Gaps between places are variable-length integers of 7 bits a byte. Values are float16 after
    division by a power of two that puts the greatest into [1, 2), so that no scale overflows;
    one that would round to zero becomes the smallest float16. The two bytes of the values stand
    in separate planes, of which the upper compresses.
    """
    if len(values) and not (np.isfinite(values).all() and values.min() > 0):
        raise ValueError("activations must be finite and greater than 0")
    exponent = int(np.floor(np.log2(values.max()))) if len(values) else 0
    scaled = np.ldexp(values.astype(np.float64), -exponent).astype("<f2")
    scaled = np.maximum(scaled, np.finfo(np.float16).smallest_subnormal)
    planes = scaled.view(np.uint8).reshape(-1, 2)
    body = _varints(np.diff(places, prepend=-1) - 1) + planes[:, 1].tobytes()
    squeezed = zstandard.compress(body, 6)
    stored = int(len(squeezed) >= len(body))
    head = struct.pack("<BBhI", FIRINGS, stored, exponent, len(values))
    return head + planes[:, 0].tobytes() + (body if stored else squeezed)


def unpack_firings(blob: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What `pack_firings` packed: (n,) places and (n,) float32 values."""
    layout, stored, exponent, n = _header("<BBhI", blob)
    if layout != FIRINGS:
        raise ValueError(f"firings in an unknown layout: {layout}")
    low = np.frombuffer(blob[8 : 8 + n], np.uint8)
    body = blob[8 + n :] if stored else _decompress(blob[8 + n :])
    gaps = _read_varints(np.frombuffer(body[: len(body) - n], np.uint8))
    high = np.frombuffer(body[len(body) - n :], np.uint8)
    if not n == len(low) == len(high) == len(gaps):
        raise ValueError("firings do not add up to their count")
    scaled = np.stack([low, high], axis=1).reshape(-1).view("<f2").astype(np.float64)
    return np.cumsum(gaps + 1) - 1, np.ldexp(scaled, exponent).astype(np.float32)


def _header(layout: str, blob: bytes) -> tuple[int, ...]:
    if len(blob) < struct.calcsize(layout):
        raise ValueError("a packed column is cut short")
    return struct.unpack_from(layout, blob)


def _decompress(data: bytes) -> bytes:
    try:
        if zstandard.frame_content_size(data) > LARGEST_BLOB:
            raise ValueError("a packed column claims to be larger than a gigabyte")
        return zstandard.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"a packed column does not decompress: {error}") from error


def _varints(numbers: NDArray[np.int64]) -> bytes:
    """Unsigned integers, 7 bits a byte, low bits first, top bit set on all but the last byte."""
    numbers = numbers.astype(np.uint64)
    widths = np.ones(len(numbers), np.int64)
    for bits in range(7, 63, 7):
        widths += numbers >= (1 << bits)
    ends = np.cumsum(widths)
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for byte in range(int(widths.max(initial=0))):
        has = widths > byte
        more = (widths[has] > byte + 1).astype(np.uint8) << 7
        low = ((numbers[has] >> np.uint64(7 * byte)) & np.uint64(127)).astype(np.uint8)
        out[ends[has] - widths[has] + byte] = low | more
    return out.tobytes()


def _read_varints(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    last = np.flatnonzero(data < 128)
    if len(data) and (not len(last) or last[-1] != len(data) - 1):
        raise ValueError("a packed column is cut short")
    starts = np.concatenate([[0], last[:-1] + 1]) if len(last) else np.zeros(0, np.int64)
    numbers = np.zeros(len(last), np.int64)
    widths = last - starts + 1
    if widths.max(initial=0) > 9:
        raise ValueError("a packed number is too long")
    for byte in range(int(widths.max(initial=0))):
        has = widths > byte
        numbers[has] |= (data[starts[has] + byte].astype(np.int64) & 127) << (7 * byte)
    return numbers
