"""Sections of a study as the modules take them."""

from __future__ import annotations

from lite_interp.cache import CacheSettings
from lite_interp.corpus import CorpusSettings
from lite_interp.engine import EngineSettings
from lite_interp.samplers import DrawSettings
from lite_interp.study.sections import (
    CacheSection,
    CorpusSection,
    EngineSection,
    ExamplesSection,
)

SHARD_TOKENS = 1 << 16
"""Tokens in a shard of contexts, at most: what is held in memory, and lost when a run is killed."""


def corpus_settings(section: CorpusSection, *, add_bos: bool) -> CorpusSettings:
    """The corpus section as the corpus module takes it."""
    return CorpusSettings(
        section.n_ctx,
        add_bos,
        section.packed,
        section.max_tokens,
        shard_contexts(section.n_ctx),
    )


def shard_contexts(n_ctx: int) -> int:
    """Contexts in a shard of contexts."""
    return max(1, SHARD_TOKENS // n_ctx)


def cache_settings(section: CacheSection) -> CacheSettings:
    """The cache section as the cache module takes it."""
    return CacheSettings(section.mask_special, float(section.outlier_multiple), section.keep)


def draw_settings(section: ExamplesSection, embedder_id: str = "") -> DrawSettings:
    """The examples section as the samplers take it."""
    drawn = section.model_dump(exclude={"embedder"})
    return DrawSettings(**{**drawn, "n_held_out": section.n_held_out or 0}, embedder_id=embedder_id)


def engine_settings(section: EngineSection) -> EngineSettings:
    """The engine section as the engine takes it."""
    return EngineSettings(**section.model_dump(exclude={"model", "allow_remote"}))
