"""Windows of a latent that nobody explained: drawn from the firings to be looked at, not stored."""

from __future__ import annotations

import numpy as np
from sqlite_utils import Database

from lite_interp.db import cached
from lite_interp.db.caches import CacheInfo
from lite_interp.loading import cache_tokenizer
from lite_interp.records import Firings, Window
from lite_interp.samplers import Source, numbered_window
from lite_interp.stages import open_source
from lite_interp.windows import active_windows

WIDTH = 32
"""Tokens of a window, as those that explainers are shown unless something else was asked for."""


def open_windows(db: Database, cache: CacheInfo, moved: str = "") -> Source:
    """What windows of a cache are made of: its corpus, and the tokenizer that cut it.

    Args:
        db: the file.
        cache: the cache.
        moved: where the subject is now; empty = where it was when the cache was made.

    Raises:
        ResultsError: the corpus is not in the file.
        SubjectError: the tokenizer is not there, or another one.
    """
    return open_source(db, cache, cache_tokenizer(cache, moved), WIDTH)


def draw_windows(
    db: Database, cache: CacheInfo, latent: int, n: int, moved: str = ""
) -> list[Window]:
    """Windows of one latent, as `spread_windows` has them; arguments as above.

    Raises:
        ResultsError: firings or corpus were left out of the file.
        SubjectError: the tokenizer is not there, or another one.
    """
    firings = cached.load_firings(db, cache, latent)
    return spread_windows(open_windows(db, cache, moved), latent, firings, n)


def spread_windows(source: Source, latent: int, firings: Firings, n: int) -> list[Window]:
    """Up to n windows in which a latent fires, evenly over all strengths, strongest first.

    No two have the same tokens.
    """
    ranked = active_windows(source.grid, firings).numbers.tolist()
    wanted = np.linspace(0, max(0, len(ranked) - 1), n).round().astype(int).tolist()
    seen: set[bytes] = set()
    found, following = [], 0
    for rank in wanted:
        # One whose tokens were seen gives way to the next weaker one.
        for place in range(max(rank, following), len(ranked)):
            following, tokens = place + 1, source.text_bytes(ranked[place])
            if tokens not in seen:
                seen.add(tokens)
                found.append(ranked[place])
                break
    return [numbered_window(source, latent, number, firings) for number in found]
