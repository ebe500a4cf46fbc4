"""Parts of bench/cache.py that run in a process of their own: one line of JSON each.

python bench/cache_parts.py tiny N_TOKENS | pack FIRINGS_A_LATENT | wide N_TOKENS all|reservoir
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cache_file import begin_file, sizes_of

TESTS = Path(__file__).parent.parent / "tests"
N_LATENTS, K, N_CTX = 131_072, 32, 256


def peak_rss_mb() -> float:
    """Peak of this process's resident memory, MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


class Quiet:
    """A reporter that says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """The items."""
        yield from items


def tiny(n_tokens: str) -> dict[str, Any]:
    """`lite-interp cache` of a tiny subject and a coder of 32 latents on random words."""
    sys.path.insert(0, str(TESTS))
    import tiny_study

    from lite_interp.pipeline import cache_corpus

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        parts = tiny_study.write_parts(Path(folder), int(n_tokens) // 60)
        job = tiny_study.cache_job(parts)
        path = Path(folder) / "results.db"
        started = time.perf_counter()
        cache_corpus(path, job, Quiet())
        seconds = time.perf_counter() - started
        from lite_interp.db.file import read_results

        with read_results(path) as db:
            (tokens,) = db.execute("select n_tokens from corpora").fetchone()
    return {"tokens": tokens, "seconds": round(seconds, 1), "peak_rss_mb": peak_rss_mb()}


def random_firings(draw: np.random.Generator, n_tokens: int, densities: np.ndarray) -> Any:
    """K firings a token, latents drawn by density, as they come from reading contexts."""
    from lite_interp.cache import Found

    n = n_tokens * K
    latents = np.searchsorted(densities, draw.random(n)).astype(np.int32)
    places = np.repeat(np.arange(n_tokens, dtype=np.int64), K)
    # A token fires a latent once.
    once = np.unique(latents.astype(np.int64) << 32 | places)
    order = draw.permutation(len(once))
    latents, places = (once >> 32).astype(np.int32)[order], (once & 0xFFFFFFFF)[order]
    values = draw.lognormal(0, 0.7, len(once)).astype(np.float32)
    return Found(places, latents, values, n_tokens, 0, 0, 0.0)


def heavy_tailed(draw: np.random.Generator, n_latents: int) -> np.ndarray:
    """Cumulated shares of the firings: log-normal densities, two decades wide."""
    weights = draw.lognormal(0, 1.5, n_latents)
    return np.cumsum(weights / weights.sum())


def pack(per_latent: str) -> dict[str, Any]:
    """Two million firings of latents with so many each, packed and read back."""
    from lite_interp.firing_codec import pack_all, unpack_all

    draw = np.random.default_rng(0)
    n_each = int(per_latent)
    n_latents = 2_000_000 // n_each
    gaps = draw.geometric(n_each / 262_144, (n_latents, n_each)).astype(np.int64)
    places = (np.cumsum(gaps, axis=1) - 1).ravel()
    values = draw.lognormal(0, 0.7, n_latents * n_each).astype(np.float32)
    starts = np.arange(n_latents + 1) * n_each
    seconds = {"pack": [], "read": []}
    for _ in range(3):
        started = time.perf_counter()
        blobs = pack_all(starts, places, values)
        seconds["pack"].append(time.perf_counter() - started)
        started = time.perf_counter()
        unpack_all(blobs)
        seconds["read"].append(time.perf_counter() - started)
    rates = {f"{key}_rate": round(len(values) / min(each)) for key, each in seconds.items()}
    size = sum(map(len, blobs)) / len(values)
    return {"firings": len(values), **rates, "bytes_per_firing": round(size, 3)}


def wide(n_tokens: str, keep: str) -> dict[str, Any]:
    """131,072 latents, k 32: pack and write shard by shard, then count (and thin)."""
    from lite_interp.cache import pack as pack_shard
    from lite_interp.caching import finish_cache
    from lite_interp.db import cached
    from lite_interp.db.file import open_results, shrink

    draw = np.random.default_rng(0)
    n_contexts = int(n_tokens) // N_CTX
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "wide.db"
        with open_results(path, create=True) as db:
            token_ids = draw.integers(4, 40_000, (n_contexts, N_CTX)).astype(np.int32)
            cache = begin_file(db, token_ids, N_LATENTS, {"keep": keep})
            del token_ids
            db.execute("pragma wal_checkpoint(truncate)")
            found["bytes_of_tokens"] = path.stat().st_size
            densities = heavy_tailed(draw, N_LATENTS)
            size = cache.span * 65_536
            packing = writing = 0.0
            for shard, start in enumerate(range(0, int(n_tokens), size)):
                raw = random_firings(draw, min(size, int(n_tokens) - start), densities)
                started = time.perf_counter()
                packed = pack_shard(raw, 0)
                packing += time.perf_counter() - started
                started = time.perf_counter()
                row = {
                    "cache_id": cache.id, "shard": shard, "n_firings": packed.n_firings,
                    "n_counted": packed.n_counted, "n_masked": packed.n_masked, "seconds": 0.0,
                    "batch_tokens": 4096,
                }  # fmt: skip
                cached.store_cache_shard(db, row, packed.blobs)
                writing += time.perf_counter() - started
            db.execute("pragma wal_checkpoint(truncate)")
            found |= sizes_of(db, path)
            found |= {"pack_seconds": round(packing, 1), "write_seconds": round(writing, 1)}
            found["peak_rss_mb"] = peak_rss_mb()
            started = time.perf_counter()
            finish_cache(db, cache)
            shrink(db)
            found["count_seconds"] = round(time.perf_counter() - started, 1)
            started = time.perf_counter()
            for latent in range(0, N_LATENTS, N_LATENTS // 100):
                cached.load_firings(db, cache, latent)
            found["read_one_latent_ms"] = round((time.perf_counter() - started) * 10, 2)
        found["file_bytes_in_the_end"] = path.stat().st_size
    found["peak_rss_mb_in_the_end"] = peak_rss_mb()
    found["bytes_per_firing"] = round(
        (found["file_bytes"] - found["bytes_of_tokens"]) / found["firings"], 3
    )
    times = 10_000_000 / int(n_tokens)
    found["file_bytes_at_10m_tokens"] = round(times * found["file_bytes"])
    return found


PARTS = {"tiny": tiny, "pack": pack, "wide": wide}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
