"""Contexts × subject × sparse coders → firings, one shard of contexts at a time.

One pass through the subject serves every coder. What is read of a shard are flat arrays, 12 bytes
a firing; `pack` sorts and packs those of a whole shard of a cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lite_interp.errors import SubjectError
from lite_interp.firing_codec import pack_all
from lite_interp.fit import Site, pick, read_rows
from lite_interp.ids import content_id
from lite_interp.records import ContextShard, Firings, LatentStats
from lite_interp.sae import Encoder, valid_positions
from lite_interp.subject import Subject

N_BINS = 20
BATCH_TOKENS = 4096
"""Tokens in one forward pass, padding included, unless memory or the user wants fewer."""
BLOCK_FIRINGS = 1 << 23
"""Firings that are sorted and packed at once: 300 MiB."""
TOKENS_PER_LATENT = 2
"""Tokens in a shard of a cache for each latent: at 32 firings a token a latent has 64 in its blob
on average, and what a blob costs beside its firings is little."""

Keep = Literal["all", "reservoir"]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What changes the firings of a cache."""

    mask_special: bool = True
    """Leave BOS and other special tokens out."""
    outlier_multiple: float = 10.0
    """Leave positions out whose norm is this many times the median norm; 0 = none."""
    keep: Keep = "all"
    """All firings, or those in the windows of a reservoir, once everything is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A coder, ready to read a subject."""

    encoder: Encoder
    """The sparse coder."""
    site: Site
    """Where the coder reads."""
    settings: CacheSettings
    """What is masked."""
    median_norm: float
    """Median norm at the hookpoint over the sample on which the fit was measured."""


class Found(NamedTuple):
    """The firings of one coder in some contexts, as they were found."""

    places: NDArray[np.int64]
    """(f,) ordinal of the context in the corpus × n_ctx + position."""
    latents: NDArray[np.int32]
    """(f,) indices of latents."""
    values: NDArray[np.float32]
    """(f,) activations, > 0."""
    n_counted: int
    """Positions that were not masked."""
    n_special: int
    """Positions masked as special tokens."""
    n_outlier: int
    """Positions masked as outliers."""
    seconds: float
    """Wall time; the pass through the subject is shared out over the coders."""


class Packed(NamedTuple):
    """The firings of one shard of a cache, packed."""

    blobs: list[tuple[int, bytes]]
    """(latent, blob of `firing_codec.pack_firings`) for each latent that fired, in order."""
    n_firings: int
    """Firings in the shard."""
    n_counted: int
    """Positions that were not masked."""
    n_masked: dict[str, int]
    """Masked positions by reason: `special`, `outlier`."""
    seconds: float
    """Time of reading and packing."""


def cache_id(
    corpus_id: str, subject_id: str, coder_id: str, settings: CacheSettings, dtype: str
) -> str:
    """Name of a cache: what was read by what, how, and in which number format."""
    return content_id(["cache", corpus_id, subject_id, coder_id, plain(settings), dtype])


def plain(settings: CacheSettings) -> dict[str, Any]:
    """Settings as they are stored and named; `keep` only where it is not what it always was."""
    found = asdict(settings)
    if settings.keep == "all":
        del found["keep"]
    return found


def span(n_latents: int, shard_tokens: int) -> int:
    """How many shards of contexts make up a shard of a cache: it follows from the width alone.

    Args:
        n_latents: width of the coder.
        shard_tokens: tokens in a full shard of contexts, padding included.
    """
    return max(1, round(TOKENS_PER_LATENT * n_latents / shard_tokens))


def read_shard(
    shard: ContextShard, subject: Subject, readers: Sequence[Reader], batch_tokens: int
) -> tuple[list[Found], int]:
    """The firings of a shard of contexts for each reader, from one pass through the subject.

    Batches follow from the shard and `batch_tokens`, so a rerun is the same. Where memory does not
    suffice, the shard is read again with half of the tokens.

    Returns:
        What was found, and the tokens in a forward pass that memory sufficed for.

    Raises:
        SubjectError: there is no memory for a single context.
    """
    while True:
        try:
            return _read_batches(shard, subject, readers, batch_tokens), batch_tokens
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch_tokens <= shard.lengths.max():
                raise SubjectError(
                    "memory does not suffice for the subject to read a single context",
                    "shorter contexts (--context), a smaller subject, or --dtype bfloat16",
                ) from error
        batch_tokens //= 2
        logging.getLogger(__name__).info("out of memory: %d tokens at once", batch_tokens)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _read_batches(
    shard: ContextShard, subject: Subject, readers: Sequence[Reader], batch_tokens: int
) -> list[Found]:
    points = [reader.site.reads for reader in readers]
    parts: list[list[Found]] = [[] for _ in readers]
    for rows in _batches(shard.lengths, batch_tokens):
        started = time.perf_counter()
        read = read_rows(subject, list(dict.fromkeys(points)), shard, rows)
        hidden = dict(zip(dict.fromkeys(points), read, strict=True))
        shared = (time.perf_counter() - started) / len(readers)
        for point, reader, found in zip(points, readers, parts, strict=True):
            found.append(_encode(shard, rows, hidden[point], reader, shared))
    return [join(found) for found in parts]


def _batches(lengths: NDArray[np.int32], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Rows of a shard in batches of like length, so that little is padding."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        n = max(1, batch_tokens // max(1, int(lengths[order[0]])))
        yield order[:n]
        order = order[n:]


def _encode(
    shard: ContextShard,
    rows: NDArray[np.int64],
    hidden: torch.Tensor,
    reader: Reader,
    seconds: float,
) -> Found:
    """The firings of one coder in a batch of contexts."""
    started = time.perf_counter()
    inside = valid_positions(shard.lengths[rows], hidden.shape[1]).numpy()
    special = np.zeros_like(inside)
    if reader.settings.mask_special:
        ids = shard.token_ids[rows][:, : hidden.shape[1]]
        special = inside & np.isin(ids, list(reader.site.special_ids))
    counted = inside & ~special
    x = pick(hidden, counted).float()
    outlier = _outliers(x, reader)
    if bool(outlier.any()):
        x = x[~outlier]
        counted[counted] = ~outlier.cpu().numpy()
    fired = reader.encoder.firings(x)
    context, position = np.nonzero(counted)
    place = (shard.first + rows[context].astype(np.int64)) * shard.token_ids.shape[1] + position
    return Found(
        place[fired.rows.cpu().numpy()],
        fired.latents.cpu().numpy().astype(np.int32),
        fired.values.cpu().numpy(),
        int(counted.sum()),
        int(special.sum()),
        int(outlier.sum()),
        seconds + time.perf_counter() - started,
    )


def _outliers(x: torch.Tensor, reader: Reader) -> torch.Tensor:
    """(n,) bool: which rows (n, d) are too long, as far as the settings mask them."""
    norms = x.norm(dim=-1)
    if not bool(norms.isfinite().all()):
        raise SubjectError(
            f"the subject's activations are no numbers at {reader.site.reads}",
            "float16 overflows in some models: --dtype float32 or bfloat16",
        )
    longest = reader.settings.outlier_multiple * reader.median_norm
    return norms > longest if longest else torch.zeros_like(norms, dtype=torch.bool)


def join(parts: Sequence[Found]) -> Found:
    """What was found in several runs of contexts as one."""
    arrays = [np.concatenate(each) for each in zip(*(part[:3] for part in parts), strict=True)]
    numbers = [sum(each) for each in zip(*(part[3:] for part in parts), strict=True)]
    return Found(*arrays, *numbers)  # type: ignore[arg-type]


def pack(found: Found, first: int) -> Packed:
    """Sort and pack the firings of one shard of a cache.

    Args:
        found: what was found in its contexts.
        first: place of the first token of its first context.
    """
    started = time.perf_counter()
    counts = np.bincount(found.latents)
    ends = np.cumsum(counts)
    blobs: list[tuple[int, bytes]] = []
    low = 0
    while low < len(counts):
        # As many latents as make up a block, at least one.
        done = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, done + BLOCK_FIRINGS, side="right")))
        blobs += _pack_latents(found, first, low, high)
        low = high
    return Packed(
        blobs,
        len(found.values),
        found.n_counted,
        {"special": found.n_special, "outlier": found.n_outlier},
        found.seconds + time.perf_counter() - started,
    )


def _pack_latents(found: Found, first: int, low: int, high: int) -> list[tuple[int, bytes]]:
    """Blobs of the latents from low to high - 1."""
    inside = slice(None)
    if low or high <= found.latents.max(initial=0):
        inside = np.flatnonzero((found.latents >= low) & (found.latents < high))
    latents, places = found.latents[inside], found.places[inside] - first
    # One sort of one number: 24 bits for the latent, 39 for the place.
    order = np.argsort(latents.astype(np.int64) << 39 | places)
    latents = latents[order]
    starts = np.flatnonzero(np.diff(latents, prepend=-1))
    blobs = pack_all(np.append(starts, len(latents)), places[order], found.values[inside][order])
    return list(zip(latents[starts].tolist(), blobs, strict=True))


def latent_stats(latent: int, firings: Firings, n_counted: int) -> LatentStats:
    """Statistics of one latent over a whole cache."""
    values = firings.values
    if not len(values):
        return LatentStats(latent, 0, 0, 0.0, 0.0, 0.0, (0,) * N_BINS)
    greatest = float(values.max())
    counts, _ = np.histogram(values, bins=N_BINS, range=(0.0, greatest))
    return LatentStats(
        latent,
        len(values),
        len(np.unique(firings.contexts)),
        len(values) / n_counted,
        greatest,
        float(values.mean(dtype=np.float64)),
        tuple(int(count) for count in counts),
    )
