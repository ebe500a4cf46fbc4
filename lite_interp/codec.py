"""Arrays to bytes and back: tokens of contexts, vectors.

A blob starts with one byte that names its layout, so that a later layout can live beside it.
Numbers are little-endian. Nothing is pickled; a blob that does not parse raises `ValueError`,
before it takes more memory than its own length or its count of tokens explains.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import zstandard
from numpy.typing import NDArray

CONTEXTS = 1
VECTORS = 3
MOST_TOKENS = 1 << 26
"""Tokens a shard of contexts may hold, padding included: a hostile file must not fill memory."""
VECTORS_HEAD = "<BII"
"""Layout, number of vectors, numbers in a vector; four bytes of CRC-32 follow."""
MOST_VECTOR_NUMBERS = 1 << 28
"""Numbers that a blob may hold, half of what fits in a row of SQLite: a hostile file must not fill
memory."""


def pack_contexts(lengths: NDArray[np.int32], token_ids: NDArray[np.int32]) -> bytes:
    """Contexts as bytes: (n,) lengths and (n, n_ctx) token ids, padding left out."""
    n, n_ctx = token_ids.shape
    if n * (n_ctx + 1) > MOST_TOKENS:
        raise ValueError(f"too many tokens for one shard: {n} contexts of {n_ctx}")
    valid = np.arange(n_ctx) < lengths[:, None]
    body = lengths.astype("<u4").tobytes() + token_ids[valid].astype("<u4").tobytes()
    return struct.pack("<BII", CONTEXTS, n, n_ctx) + zstandard.compress(body, 9)


def unpack_contexts(blob: bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What `pack_contexts` packed: (n,) lengths and (n, n_ctx) token ids, padded with 0."""
    layout, n, n_ctx = _header("<BII", blob)
    if layout != CONTEXTS or max(1, n) * (n_ctx + 1) > MOST_TOKENS:
        raise ValueError(f"tokens in an unknown layout: {layout}")
    body = np.frombuffer(_decompress(blob[9:], 4 * n * (n_ctx + 1)), "<u4").astype(np.int32)
    lengths, tokens = body[:n], body[n:]
    if len(lengths) < n or body.min(initial=0) < 0 or lengths.max(initial=0) > n_ctx:
        raise ValueError("tokens or lengths out of range")
    if lengths.sum() != len(tokens):
        raise ValueError("tokens do not add up to their lengths")
    token_ids = np.zeros((n, n_ctx), np.int32)
    token_ids[np.arange(n_ctx) < lengths[:, None]] = tokens
    return lengths, token_ids


def _header(layout: str, blob: bytes) -> tuple[int, ...]:
    if len(blob) < struct.calcsize(layout):
        raise ValueError("a packed column is cut short")
    return struct.unpack_from(layout, blob)


def _decompress(data: bytes, most: int) -> bytes:
    try:
        if zstandard.frame_content_size(data) > most:
            raise ValueError("a packed column claims to be larger than what it holds")
        return zstandard.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"a packed column does not decompress: {error}") from error


def pack_vectors(vectors: NDArray[np.float16]) -> bytes:
    """Vectors (n, d) as bytes: head, check sum, compressed numbers."""
    n, d = vectors.shape
    if n * d > MOST_VECTOR_NUMBERS:
        raise ValueError(f"too many numbers for one blob: {n} vectors of {d}")
    head = struct.pack(VECTORS_HEAD, VECTORS, n, d)
    body = zstandard.compress(vectors.astype("<f2").tobytes(), 3)
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def unpack_vectors(blob: bytes) -> NDArray[np.float16]:
    """What `pack_vectors` packed; `ValueError` for anything else."""
    start = struct.calcsize(VECTORS_HEAD)
    head, body = blob[:start], blob[start + 4 :]
    if len(blob) < start + 4:
        raise ValueError("vectors are cut short")
    layout, n, d = struct.unpack(VECTORS_HEAD, head)
    if layout != VECTORS or n * d > MOST_VECTOR_NUMBERS:
        raise ValueError(f"vectors in an unknown layout: {layout}")
    if struct.unpack_from("<I", blob, start)[0] != zlib.crc32(body, zlib.crc32(head)):
        raise ValueError("vectors with a wrong check sum")
    try:
        # Only what says how long it is: the rest could not be refused before it fills memory.
        if zstandard.frame_content_size(body) != 2 * n * d:
            raise ValueError("vectors do not add up to their count")
        numbers = np.frombuffer(zstandard.decompress(body), "<f2")
    except zstandard.ZstdError as error:
        raise ValueError(f"vectors do not decompress: {error}") from error
    if not np.isfinite(numbers).all():
        raise ValueError("a vector that is no number")
    return numbers.astype(np.float16).reshape(n, d)
