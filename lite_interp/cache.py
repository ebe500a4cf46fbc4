"""Contexts × subject × sparse coder → firings, one shard of contexts at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lite_interp import codec
from lite_interp.ids import content_id, generator
from lite_interp.records import ContextShard, Firings, Hookpoint, LatentStats
from lite_interp.sae import Fit, SparseCoder, measure_fit, outlier_positions, valid_positions
from lite_interp.subject import Subject

N_BINS = 20
FIT_TOKENS = 2000
"""Tokens on which a coder's fit is measured before anything is cached."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What changes the firings of a cache."""

    mask_special: bool = True
    """Leave BOS and other special tokens out."""
    outlier_multiple: float = 10.0
    """Leave positions out whose norm is this many times the median norm; 0 = none."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a coder belongs in a subject."""

    reads: Hookpoint
    """What it encodes."""
    writes: Hookpoint
    """What it reconstructs; for an autoencoder the same."""
    special_ids: frozenset[int]
    """Tokens of the subject that are no text."""


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A subject and a coder, ready to read contexts."""

    subject: Subject
    """The language model."""
    coder: SparseCoder
    """The sparse coder."""
    site: Site
    """Where the coder reads."""
    settings: CacheSettings
    """What is masked."""
    median_norm: float
    """Median norm at the hookpoint over the sample on which the fit was measured."""
    batch_tokens: int = 4096
    """Tokens in one forward pass, padding included."""


class ShardResult(NamedTuple):
    """The firings of one shard, packed."""

    packed: list[tuple[int, bytes]]
    """(latent, blob of `codec.pack_firings`) for each latent that fired, in order."""
    n_firings: int
    """Firings in the shard."""
    n_counted: int
    """Positions that were not masked."""
    n_masked: dict[str, int]
    """Masked positions by reason: `special`, `outlier`."""
    seconds: float
    """Wall time."""


def cache_id(
    corpus_id: str, subject_id: str, coder_id: str, settings: CacheSettings, dtype: str
) -> str:
    """Name of a cache: what was read by what, how, and in which number format."""
    return content_id(["cache", corpus_id, subject_id, coder_id, asdict(settings), dtype])


class Sample(NamedTuple):
    """What a coder reads and should write on a sample of the corpus."""

    id: str
    """Content id of the subject and the tokens: the same on every machine."""
    x: torch.Tensor
    """(n, d_in) activations that the coder reads; special tokens and outliers are left out."""
    y: torch.Tensor
    """(n, d_out) activations that it reconstructs; for an autoencoder x."""
    median_norm: float
    """Median norm of x, outliers with it."""
    tokens_per_second: float
    """Speed of reading the sample."""


class FitSample(NamedTuple):
    """How well a coder fits a subject on a sample of the corpus."""

    fit: Fit
    """FVU, L0, dead fraction."""
    median_norm: float
    """Median norm of the activations over positions that are no special tokens."""
    tokens_per_second: float
    """Speed of reading the sample: what an estimate of the time is made from."""


def fit_sample(sample: Sample, coder: SparseCoder) -> FitSample:
    """Measure a coder on a sample of what it reads."""
    fit = measure_fit(coder, sample.x, sample.y)
    return FitSample(fit, sample.median_norm, sample.tokens_per_second)


def read_sample(shards: Iterator[ContextShard], subject: Subject, site: Site) -> Sample:
    """Read about 2,000 tokens at a coder's site: whole contexts from the given shards.

    Contexts are taken from a shard in an order drawn by a fixed seed, because neighbours are of
    one document. Special tokens and positions whose norm is ten times the median do not count.
    """
    started, n_tokens = time.perf_counter(), 0
    read, written, valid = [], [], []
    tokens: list[list[int]] = []
    for shard in shards:
        order = generator(0, "fit", shard.ordinal).permutation(len(shard.lengths))
        for rows in np.array_split(order, len(order) // 4 + 1):
            if n_tokens >= FIT_TOKENS or not len(rows):
                break
            x, y = _read(subject, [site.reads, site.writes], shard, rows)
            inside = valid_positions(shard.lengths[rows], x.shape[1]).numpy()
            special = np.isin(shard.token_ids[rows][:, : x.shape[1]], list(site.special_ids))
            read.append(_rows(x, inside))
            written.append(_rows(y, inside))
            tokens += [shard.token_ids[row, : shard.lengths[row]].tolist() for row in rows.tolist()]
            valid.append(~special[inside])
            n_tokens += int(inside.sum())
        if n_tokens >= FIT_TOKENS:
            break
    seconds = time.perf_counter() - started
    x, y = torch.cat(read), torch.cat(written)
    norms = x.float().norm(dim=-1).cpu()
    counted = torch.from_numpy(np.concatenate(valid))
    median = float(norms[counted].median())
    counted = (counted & (norms <= 10 * median)).to(x.device)
    name = content_id(["sample", subject.hash, tokens])
    return Sample(name, x[counted], y[counted], median, n_tokens / seconds)


def read_shard(shard: ContextShard, reader: Reader) -> ShardResult:
    """The firings of one shard. Batches depend on the shard alone, so a rerun is the same."""
    started = time.perf_counter()
    n_ctx = shard.token_ids.shape[1]
    places, latents, values = [], [], []
    n_counted, n_special, n_outlier = 0, 0, 0
    for rows in _batches(shard.lengths, reader.batch_tokens):
        (hidden,) = _read(reader.subject, [reader.site.reads], shard, rows)
        inside = valid_positions(shard.lengths[rows], hidden.shape[1]).numpy()
        special, outlier = _masks(shard, rows, hidden, reader)
        counted = inside & ~special & ~outlier
        n_counted += int(counted.sum())
        n_special += int((inside & special).sum())
        n_outlier += int((inside & outlier & ~special).sum())
        fired = reader.coder.firings(_rows(hidden, counted))
        context, position = np.nonzero(counted)
        place = rows[context].astype(np.int64) * n_ctx + position
        places.append(place[fired.rows.cpu().numpy()])
        latents.append(fired.latents.cpu().numpy())
        values.append(fired.values.cpu().numpy())
    packed = _pack(np.concatenate(places), np.concatenate(latents), np.concatenate(values))
    masked = {"special": n_special, "outlier": n_outlier}
    n_firings = int(sum(len(part) for part in values))
    return ShardResult(packed, n_firings, n_counted, masked, time.perf_counter() - started)


def _batches(lengths: NDArray[np.int32], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Rows of a shard in batches of like length, so that little is padding."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        n = max(1, batch_tokens // max(1, int(lengths[order[0]])))
        yield order[:n]
        order = order[n:]


def _read(
    subject: Subject, points: list[Hookpoint], shard: ContextShard, rows: NDArray[np.int64]
) -> list[torch.Tensor]:
    longest = int(shard.lengths[rows].max())
    found = subject.read(shard.token_ids[rows][:, :longest], shard.lengths[rows], points)
    return [found[point] for point in points]


def _rows(hidden: torch.Tensor, mask: NDArray[np.bool_]) -> torch.Tensor:
    """(m, d) the activations (n, t, d) at the positions of a mask (n, t)."""
    return hidden[torch.from_numpy(mask).to(hidden.device)]


def _masks(
    shard: ContextShard, rows: NDArray[np.int64], hidden: torch.Tensor, reader: Reader
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, t) special tokens and (n, t) outliers, as far as the settings mask them."""
    special = np.zeros(hidden.shape[:2], bool)
    if reader.settings.mask_special:
        ids = shard.token_ids[rows][:, : hidden.shape[1]]
        special = np.isin(ids, list(reader.site.special_ids))
    longest = reader.settings.outlier_multiple * reader.median_norm
    if not longest:
        return special, np.zeros_like(special)
    return special, outlier_positions(hidden, shard.lengths[rows], longest).numpy()


def _pack(
    places: NDArray[np.int64], latents: NDArray[np.int64], values: NDArray[np.float32]
) -> list[tuple[int, bytes]]:
    order = np.lexsort((places, latents))
    places, latents, values = places[order], latents[order], values[order]
    distinct, starts = np.unique(latents, return_index=True)
    edges = [*starts.tolist(), len(latents)]
    return [
        (int(latent), codec.pack_firings(places[start:end], values[start:end]))
        for latent, start, end in zip(distinct, edges[:-1], edges[1:], strict=True)
    ]


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
