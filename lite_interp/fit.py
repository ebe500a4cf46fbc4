"""How well a coder fits a subject, on a sample of the corpus, before anything is cached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lite_interp.ids import content_id, generator
from lite_interp.records import ContextShard, Hookpoint
from lite_interp.sae import Fit, SparseCoder, measure_fit, valid_positions
from lite_interp.subject import Subject

FIT_TOKENS = 2000
"""Tokens on which a coder's fit is measured before anything is cached."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a coder belongs in a subject."""

    reads: Hookpoint
    """What it encodes."""
    writes: Hookpoint
    """What it reconstructs; for an autoencoder the same."""
    special_ids: frozenset[int]
    """Tokens of the subject that are no text."""


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
            x, y = read_rows(subject, [site.reads, site.writes], shard, rows)
            inside = valid_positions(shard.lengths[rows], x.shape[1]).numpy()
            special = np.isin(shard.token_ids[rows][:, : x.shape[1]], list(site.special_ids))
            read.append(pick(x, inside))
            written.append(pick(y, inside))
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


def read_rows(
    subject: Subject, points: Sequence[Hookpoint], shard: ContextShard, rows: NDArray[np.int64]
) -> list[torch.Tensor]:
    """(n, t, d) activations of some contexts of a shard at each hookpoint, in one pass."""
    longest = int(shard.lengths[rows].max())
    found = subject.read(shard.token_ids[rows][:, :longest], shard.lengths[rows], points)
    return [found[point] for point in points]


def pick(hidden: torch.Tensor, mask: NDArray[np.bool_]) -> torch.Tensor:
    """(m, d) the activations (n, t, d) at the positions of a mask (n, t)."""
    return hidden[torch.from_numpy(mask).to(hidden.device)]
