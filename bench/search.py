"""How long `search` takes to index a large file, and to answer from it.

    python bench/search.py [--latents 131072] [--windows 20] [--dimensions 384] [--json]

The file is synthetic: an explanation of about twelve words for each latent, of 20,000 words whose
frequencies fall as 1 / rank, and activating windows of 24 words, each text shared by eight latents.
Directions are random. The query's own direction is not timed: that is the embedder's work.
Times are in milliseconds, the median of the repeats; the first of them is not among them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lite_interp import search
from lite_interp.db import caches
from lite_interp.db.file import open_results
from lite_interp.ids import content_id

N_WORDS = 20_000
SHARED = 8
"""Latents that fire in a text."""
QUERIES = {
    "rare word": "w9000",
    "two words": "w3 w40",
    "common word": "w0",
    "prefix": "w1*",
    "every word": "w*",
}


class Directions:
    """An embedder that gives each text a random direction."""

    name, provenance = "random", {}

    def __init__(self, dimensions: int) -> None:
        """Directions of so many numbers."""
        self.id = content_id(["random", dimensions])
        self.dimensions = dimensions
        self._draw = np.random.default_rng(0)

    def embed(self, texts: Any) -> np.ndarray:
        """(n, d) unit vectors."""
        vectors = self._draw.standard_normal((len(texts), self.dimensions), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Quiet:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def track(self, items: Any, total: int, label: str) -> Iterator:
        """The items."""
        yield from items


def write(path: Path, n_latents: int, n_windows: int) -> None:
    """A results file with one cache, and no firings."""
    draw = np.random.default_rng(0)
    shares = 1 / np.arange(1, N_WORDS + 1)
    words = np.array([f"w{number}" for number in range(N_WORDS)])

    def texts(n: int, length: int) -> Iterator[list[str]]:
        for start in range(0, n, 10_000):
            size = (min(n - start, 10_000), length)
            yield from words[draw.choice(N_WORDS, size, p=shares / shares.sum())].tolist()

    with open_results(path, create=True) as db:
        db.execute("pragma foreign_keys = off")
        db.execute("pragma synchronous = off")
        many = db.conn.executemany
        with db.atomic():
            db.execute("insert into subjects values ('s', 's', 'llama', 8, '{\"path\":\"s\"}')")
            db.execute(
                "insert into coders values ('d', 'd', 'f', 'h', 'topk', 8, 8, ?, '{}', '{}')",
                [n_latents],
            )
            db.execute("insert into corpora values ('t', 't', '', '', 128, 0, 0, 0, 1, 0, 1, 1)")
            db.execute(
                """insert into caches (id, corpus_id, subject_id, coder_id, settings, n_counted,
                   number) values ('b2:c', 't', 's', 'd', '{}', 1, 1)"""
            )
            many("insert into latents values ('b2:c', ?, 9, 9, 0.001, 4.0, 1.0, '[]', null)",
                 ((latent,) for latent in range(n_latents)))  # fmt: skip
            many(
                """insert into explanations (id, cache_id, latent, example_set_id, explainer,
                   settings, text, raw, prompt_tokens, output_tokens, seconds)
                   values (?, 'b2:c', ?, '', 'llm', '{}', ?, '', 0, 0, 0)""",
                (
                    (f"b2:{latent:032x}", latent, " ".join(text))
                    for latent, text in enumerate(texts(n_latents, 12))
                ),
            )
            many("insert into windows values (?, 'b2:c', ?, ?, 0, ?, '', ?, ?)",
                 windows(n_latents, n_windows, texts))  # fmt: skip


def windows(n_latents: int, n_windows: int, texts: Callable) -> Iterator[tuple]:
    """Rows of windows: the latents that share a text follow each other at distances."""
    step = n_latents // SHARED
    acts = json.dumps([0.0] * 12 + [2.0] + [0.0] * 11)
    for number, text in enumerate(texts(step * n_windows, 24)):
        tokens = json.dumps([f" {word}" for word in text])
        for other in range(SHARED):
            latent = number % step + step * other
            name = f"b2:{number * SHARED + other:032x}"
            yield name, latent, number, 1.0 + number % 3, tokens, acts


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median wall time in milliseconds."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 1)


def index_seconds(path: Path, places: str, embedder: Any = None) -> float:
    """Wall time of bringing the index up to date."""
    started = time.perf_counter()
    with search.open_searched(path, search.PLACES[places] if places else (), embedder, Quiet()):
        return round(time.perf_counter() - started, 2)


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Index the file and ask."""
    model = Directions(options.dimensions)
    n_bytes = path.stat().st_size
    seconds = {
        "explanations": index_seconds(path, "explanations"),
        "windows": index_seconds(path, "windows"),
        "vectors, without the embedder": index_seconds(path, "", model),
        "nothing new": index_seconds(path, "all", model),
    }
    asked: dict[str, dict[str, float]] = {}
    with search.open_searched(path, search.PLACES["all"], model, Quiet()) as searched:
        cache = caches.the_cache(searched.db)
        for name, text in QUERIES.items():
            for places in search.PLACES:
                request = search.Request(text, places)
                asked.setdefault(places, {})[name] = timed(
                    lambda request=request: search.find(searched, cache, request), options.repeats
                )
        request = search.Request("w9000", "explanations", model)
        asked["meaning and a rare word"] = {
            "any": timed(lambda: search.find(searched, cache, request), options.repeats)
        }
        n_texts = searched.db.execute("select count(*) from search_texts").fetchone()[0]
    return {
        "latents": options.latents,
        "windows": options.latents * options.windows,
        "texts": n_texts,
        "index_seconds": seconds,
        "index_mib": round((path.stat().st_size - n_bytes) / 2**20),
        "query_ms": asked,
    }


def main() -> None:
    """Write a file, index it, ask it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--windows", type=int, default=20, help="activating windows of a latent")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.db"
        write(path, options.latents, options.windows)
        found = measure(path, options)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
