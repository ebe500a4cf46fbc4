"""A sparse coder tried at several sites and in several scales of its input, on a few tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lite_interp.coder_check.sites import Pair
from lite_interp.fit import Sample, Site, read_sample
from lite_interp.ids import generator
from lite_interp.records import ContextShard, Hookpoint
from lite_interp.sae import Fit, SparseCoder, measure_fit
from lite_interp.subject import Subject

N_TOKENS = 500
"""Tokens on which sites are compared; the best is measured again on as many as its own was."""
MAX_POINTS = 24
"""Hookpoints that are kept from one forward pass."""
ROOT = "sqrt(d) / mean norm"
"""A scale that makes the mean length sqrt(d), as many trainers do."""


class Way(NamedTuple):
    """A change of how a coder is used."""

    name: str
    """What is changed, e.g. a scale; empty = nothing."""
    coder: SparseCoder
    """The coder."""
    reads: float = 1.0
    """Scale of what it reads."""
    writes: float = 1.0
    """Scale of what it writes."""


class Tried(NamedTuple):
    """How well a coder fits somewhere."""

    reads: Hookpoint
    """What it was given."""
    writes: Hookpoint
    """What it should reconstruct."""
    way: Way
    """What was changed."""
    fit: Fit
    """How well it did."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefetched(Subject):
    """A subject that reads many hookpoints in its first pass over a batch and remembers them."""

    points: frozenset[Hookpoint] = frozenset()
    """What is read in that pass."""
    kept: dict[bytes, dict[Hookpoint, Any]] = field(default_factory=dict)
    """Activations by batch."""

    def read(
        self, token_ids: Any, lengths: Any, hookpoints: Sequence[Hookpoint]
    ) -> dict[Hookpoint, Any]:
        """Activations as `Subject.read` gives them."""
        key = np.asarray(token_ids).tobytes() + b"|" + np.asarray(lengths).tobytes()
        if key not in self.kept:
            # Not super(): a dataclass with slots is made twice.
            self.kept[key] = Subject.read(self, token_ids, lengths, sorted(self.points, key=str))
        return {point: self.kept[key][point] for point in hookpoints}


def prefetched(subject: Subject, points: Iterable[Hookpoint]) -> Prefetched:
    """A subject for reading the same contexts at many hookpoints, from one forward pass."""
    shared = {each.name: getattr(subject, each.name) for each in dataclasses.fields(Subject)}
    return Prefetched(**shared, points=frozenset(points))


def few_contexts(shard: ContextShard, n_tokens: int = N_TOKENS) -> ContextShard:
    """Contexts of a shard, drawn by a fixed seed, until there are so many tokens."""
    order = generator(0, "coder check", shard.ordinal).permutation(len(shard.lengths))
    n = int(np.searchsorted(shard.lengths[order].cumsum(), n_tokens)) + 1
    rows = np.sort(order[:n])
    return dataclasses.replace(shard, lengths=shard.lengths[rows], token_ids=shard.token_ids[rows])


def try_sites(
    pairs: Sequence[Pair],
    coder: SparseCoder,
    subject: Subject,
    special_ids: frozenset[int],
    shard: ContextShard,
) -> list[Tried]:
    """A coder as it is, at each site."""
    found = []
    for part in _few_points(pairs):
        reader = prefetched(subject, {point for pair in part for point in pair})
        for reads, writes in part:
            sample = read_sample(iter([shard]), reader, Site(reads, writes, special_ids))
            found.append(tried(Way("", coder), sample, (reads, writes)))
    return found


def _few_points(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """The sites in runs that have few hookpoints, because all of these are in memory at once."""
    part: list[Pair] = []
    for pair in pairs:
        if len({point for each in [*part, pair] for point in each}) > MAX_POINTS:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def tried(way: Way, sample: Sample, pair: Pair) -> Tried:
    """A coder used in some way on a sample.

    The FVU is that of y = coder(x * reads) / writes: scaling both sides changes nothing in it.
    """
    x = sample.x.float() * way.reads
    y = x if pair[0] == pair[1] else sample.y.float() * way.writes
    return Tried(*pair, way, measure_fit(way.coder, x, y))


def ways(coder: SparseCoder, sample: Sample, factors: dict[str, float]) -> list[Way]:
    """Changes of scale and normalisation that a file may have meant.

    Args:
        coder: the sparse coder.
        sample: what it reads and should write.
        factors: scales that its config declares, by what they are called there.
    """
    norms = [float(each.float().norm(dim=-1).mean()) for each in (sample.x, sample.y)]
    if not all(0 < norm < math.inf for norm in norms):
        return []
    roots = [coder.d_in**0.5, coder.d_out**0.5]
    found = [
        Way("1 / mean norm", coder, 1 / norms[0], 1 / norms[1]),
        Way(ROOT, coder, roots[0] / norms[0], roots[1] / norms[1]),
        Way("sqrt(d)", coder, *roots),
        Way("1 / sqrt(d)", coder, 1 / roots[0], 1 / roots[1]),
    ]
    for name, factor in factors.items():
        # The inverse finds a scale that stands in the config and in the weights too.
        for called, scale in ((name, factor), (f"1 / {name}", 1 / factor)):
            found.append(Way(called, coder, scale, scale))
            if coder.is_transcoder:
                found.append(Way(f"{called}, of what it reads alone", coder, scale))
    if coder.is_transcoder:
        return found
    for other in ("none", "layer_norm", "norm_rescale", "centre"):
        if other != coder.input_transform:
            changed = dataclasses.replace(coder, input_transform=other)
            found.append(Way(f"normalisation of each token: {other}", changed))
    if coder.pre_bias is None:
        less = dataclasses.replace(coder, pre_bias=coder.b_dec)
        return [*found, Way("b_dec subtracted before the encoder", less)]
    more = dataclasses.replace(coder, pre_bias=None)
    return [*found, Way("nothing subtracted before the encoder", more)]
