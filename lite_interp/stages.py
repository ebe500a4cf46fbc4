"""The loop of every stage: what is pending in the file, compute one unit, store it whole.

The only place where computing meets storing. A stage lists its work first, so that a caller can
say how much there is, and then yields once for each unit that was stored: killed at any moment
it loses at most the unit in hand, and the same call goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sqlite_utils import Database

from lite_interp import reservoir
from lite_interp.cost import Meter, shared_out
from lite_interp.db import cached, caches, details, studies, vectors
from lite_interp.db.caches import CacheInfo
from lite_interp.embedder import Embedder
from lite_interp.engine import Engine
from lite_interp.errors import ResultsError, UsageError
from lite_interp.explain import Evidence, Explainer, explain_group, explanation_id
from lite_interp.negatives import Near
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Firings, Steering
from lite_interp.samplers import (
    DrawSettings,
    Source,
    draw_example_set,
    example_set_id,
    window_texts,
)
from lite_interp.tokenizer import Tokenizer
from lite_interp.window_index import WindowIndex, embed_windows, join_vectors
from lite_interp.windows import Grid, active_windows, make_grid

GROUP = 4
"""Latents that are explained side by side: a unit of work, lost together when a run is killed."""

N_SIBLINGS = 3
"""Latents, most alike in direction or in firing, whose windows make up the stratum `sibling`: ten
would make it half of a corpus."""

NO_STEERINGS: Mapping[str, Steering | None] = MappingProxyType({})
"""For explainers that read windows."""


def open_source(
    db: Database,
    cache: CacheInfo,
    tokenizer: Tokenizer,
    width: int,
    embedder_id: str = "",
) -> Source:
    """What example sets of a cache are drawn from: its windows, their texts, and what is alike.

    Windows near to others are known if the directions of all windows are in the file; see
    `write_vectors`.
    """
    if cache.keep != "all" and width != reservoir.WIDTH:
        raise UsageError(
            f"this cache keeps windows of {reservoir.WIDTH} tokens: {width}",
            f"ask for --width {reservoir.WIDTH}, or cache with --keep all",
        )
    lengths, token_ids = caches.load_tokens(db, cache.corpus)
    grid = make_grid(lengths, width)

    def siblings(latent: int) -> Iterator[Firings]:
        for other in details.siblings(db, cache.id, latent, N_SIBLINGS):
            yield cached.load_firings(db, cache, other)

    return Source(
        cache.id,
        grid,
        token_ids,
        lambda ids: tokenizer.texts(ids.tolist()),
        siblings if details.has_details(db, cache.id) else None,
        _nearest(db, cache, grid, embedder_id) if embedder_id else None,
        _kept(db, cache, grid) if cache.keep != "all" else None,
    )


def _kept(db: Database, cache: CacheInfo, grid: Grid) -> Callable[[int], reservoir.Kept]:
    """What a draw must know of the windows of a latent, where a reservoir was kept."""
    common = reservoir.common_windows(grid.n_windows)

    def kept(latent: int) -> reservoir.Kept:
        active = active_windows(grid, cached.load_firings(db, cache, latent))
        n_windows = caches.load_latent(db, cache.id, latent).n_windows or 0
        return reservoir.Kept(n_windows, reservoir.sample(active.numbers, latent), common)

    return kept


def _nearest(db: Database, cache: CacheInfo, grid: Grid, embedder_id: str) -> Near | None:
    """How to find the nearest windows; None until all of them are embedded."""
    if pending_vectors(db, cache, grid.width, embedder_id):
        return None
    found = vectors.load_vectors(db, cache.corpus.id, grid.width, embedder_id)
    index = WindowIndex(join_vectors(found))
    if len(index.vectors) != grid.n_windows:
        raise ResultsError(
            f"the file is damaged: {len(index.vectors)} directions of {grid.n_windows} windows",
            "take a copy from before, or cache again",
        )
    return index.nearest


def pending_vectors(db: Database, cache: CacheInfo, width: int, embedder_id: str) -> list[int]:
    """The shards of contexts whose windows were not embedded."""
    done = vectors.known_shards(db, cache.corpus.id, width, embedder_id)
    return [shard for shard, _, _ in caches.shard_places(db, cache.corpus.id) if shard not in done]


def write_vectors(
    db: Database, cache: CacheInfo, source: Source, embedder: Embedder
) -> Iterator[None]:
    """Embed the windows of a corpus, shard by shard of its contexts, each stored whole."""
    grid = source.grid
    pending = set(pending_vectors(db, cache, grid.width, embedder.id))
    for shard, first, n in caches.shard_places(db, cache.corpus.id):
        if shard not in pending:
            continue
        numbers = range(int(grid.firsts[first]), int(grid.firsts[first + n]))
        found = join_vectors(embed_windows(window_texts(source, numbers), embedder))
        key = (cache.corpus.id, grid.width, embedder.id, shard)
        vectors.store_vectors(db, key, found)
        yield


def pending_draws(
    db: Database, cache: CacheInfo, latents: Sequence[int], settings: DrawSettings, seed: int
) -> list[int]:
    """The latents that have no example set of these settings and seed."""
    return [
        latent
        for latent in latents
        if not studies.known(db, "example_sets", example_set_id(cache.id, latent, settings, seed))
    ]


def write_examples(
    db: Database,
    cache: CacheInfo,
    source: Source,
    latents: Sequence[int],
    settings: DrawSettings,
    seed: int,
) -> Iterator[None]:
    """Draw the example sets of latents, each stored whole."""
    for latent in latents:
        firings = cached.load_firings(db, cache, latent)
        examples = draw_example_set(source, latent, firings, settings, seed)
        studies.store_example_set(db, cache.id, examples)
        yield


def load_examples(
    db: Database, cache: CacheInfo, latents: Sequence[int], settings: DrawSettings, seed: int
) -> list[ExampleSet]:
    """Example sets from the file, so that a fresh and a resumed run see the same numbers."""
    names = [example_set_id(cache.id, latent, settings, seed) for latent in latents]
    found = [studies.load_example_set(db, name) for name in names]
    return [examples for examples in found if examples is not None]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainWork:
    """Explanations that are wanted with one explainer, prompt and engine."""

    groups: tuple[tuple[Evidence, ...], ...]
    """Latents without an explanation yet, those that are explained side by side together."""
    explainer: Explainer
    """How to explain."""
    prompt: Prompt | None
    """Prompt of the explainer, if it has one."""
    ids: tuple[str, ...]
    """Names of all explanations that are wanted, those that are there too."""

    @property
    def n(self) -> int:
        """Explanations."""
        return sum(map(len, self.groups))


def pending_explanations(
    db: Database,
    examples: Sequence[ExampleSet],
    explainer: Explainer,
    prompt: Prompt | None,
    engine_id: str | None,
    steerings: Mapping[str, Steering | None] = NO_STEERINGS,
) -> ExplainWork:
    """The example sets that this explainer has not answered.

    Who is explained with whom follows from the whole list, not from what is pending, and a group
    is stored whole; so a run that was killed repeats the same numbers.

    Args:
        db: the results file.
        examples: all example sets that are to be explained.
        explainer: how.
        prompt: its prompt, if it has one.
        engine_id: the engine, if one is asked.
        steerings: example set → what its latent does, for an explainer that reads output.
    """
    known = [Evidence(each, steerings.get(each.id)) for each in examples]
    ids = [explanation_id(each, explainer, prompt, engine_id) for each in known]
    unknown = {name for name in ids if not studies.known(db, "explanations", name)}
    named = list(zip(known, ids, strict=True))
    parts = (named[start : start + GROUP] for start in range(0, len(named), GROUP))
    groups = (tuple(each for each, name in part if name in unknown) for part in parts)
    return ExplainWork(tuple(group for group in groups if group), explainer, prompt, tuple(ids))


def write_explanations(
    db: Database, cache: CacheInfo, work: ExplainWork, engine: Engine | None
) -> Iterator[None]:
    """Explain group by group, each stored whole with what it cost."""
    for group in work.groups:
        meter = Meter(engine)
        found = explain_group(group, work.explainer, work.prompt, engine)
        costs = shared_out(meter.read(), [usage for _, usage in found])
        studies.store_explanations(
            db, cache.id, [(each, cost) for (each, _), cost in zip(found, costs, strict=True)]
        )
        for _ in group:
            yield
