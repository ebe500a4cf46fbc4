"""What the details of every latent cost at scale: time, memory, size of the file.

    python bench/details.py [--latents 131072] [--tokens 1000000] [--k 32] [--subject NAME]
        [--parts NAME …] [--file FILE] [--json]

Writes a results file with made-up firings by the real codec: each token draws k latents, whose
densities are log-normal, so some fire on a tenth of the tokens and most on one of ten thousand.
The coder has random unit directions, the head is the subject's. Then each part runs in a process
of its own, which says its seconds and its peak memory:

    statistics   `finish_cache`: counts, means, histograms
    tallies      quantiles, tokens, contexts and positions of every latent
    lens         tokens raised and lowered by every direction
    neighbours   cosines of every direction with all others
    cofiring     both passes over the firings: who fires where, who fires with whom
    whole        `compute_details`: all of these but the first, and the rows written

`tallies` and `cofiring` read the firings, as `whole` does once for both. `--file` keeps the file
for another run. Human lines go to stderr. The last line, on stdout, is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lite_interp import cofiring, tallies
from lite_interp.cache import Found, pack, span
from lite_interp.caching import finish_cache
from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import count_firings
from lite_interp.db.file import add, open_results
from lite_interp.detailing import Weights, compute_details
from lite_interp.fetch import model_path
from lite_interp.lens import open_directions, open_lens
from lite_interp.records import ContextShard, Corpus, Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject, load_subject
from lite_interp.tallies import Block
from lite_interp.tokenizer import load_tokenizer

N_CTX = 128
SHARD_TOKENS = 65_536
"""Tokens in a shard of contexts."""
SPREAD = 1.5
"""Standard deviation of the logarithm of a latent's density."""
N_VOCAB = 49_152
CORPUS = "b2:corpus"
TENFOLD = ("statistics", "tallies")
"""Parts whose work grows with the firings alone."""


def write_file(path: Path, n_latents: int, n_tokens: int, k: int) -> None:
    """Write a results file with made-up tokens and firings."""
    draw = np.random.default_rng(0)
    n_contexts = -(-n_tokens // N_CTX)
    with open_results(path, create=True) as db:
        corpus = Corpus(
            CORPUS, "made up", "", "", N_CTX, False, True, 0, 1, 0, n_contexts, n_contexts * N_CTX
        )
        caches.store_corpus(db, corpus, context_shards(n_contexts, draw))
        add(
            db,
            "subjects",
            {"id": "s", "name": "s", "architecture": "", "d_model": 0, "provenance": {"path": ""}},
        )
        coder = {"id": "c", "name": "c", "format": "random", "hookpoint": "", "activation": "topk"}
        sizes = {"k": k, "d_in": 0, "n_latents": n_latents, "fit": {}, "provenance": {}}
        add(db, "coders", coder | sizes)
        row = {"id": "b2:cache", "corpus_id": CORPUS, "subject_id": "s", "coder_id": "c"}
        caches.store_cache(db, {**row, "settings": {}, "span": span(n_latents, SHARD_TOKENS)})
        cache = caches.load_caches(db)[0]
        densities = np.cumsum(draw.lognormal(0, SPREAD, n_latents))
        densities /= densities[-1]
        size = cache.span * SHARD_TOKENS
        for shard, first in enumerate(range(0, n_contexts * N_CTX, size)):
            found = made_up(first, min(n_contexts * N_CTX, first + size), densities, k, draw)
            packed = pack(found, first)
            row = {"cache_id": cache.id, "shard": shard, "n_firings": packed.n_firings}
            row |= {"n_counted": packed.n_counted, "n_masked": {}, "seconds": 0.0}
            cached.store_cache_shard(db, {**row, "batch_tokens": 1}, packed.blobs)


def context_shards(n_contexts: int, draw: np.random.Generator) -> Iterator[ContextShard]:
    """Contexts of tokens of which the first are frequent."""
    size = SHARD_TOKENS // N_CTX
    for ordinal, first in enumerate(range(0, n_contexts, size)):
        n = min(size, n_contexts - first)
        ids = np.minimum(draw.zipf(1.2, (n, N_CTX)), N_VOCAB) - 1
        lengths = np.full(n, N_CTX, np.int32)
        yield ContextShard(ordinal, first, lengths, ids.astype(np.int32))


def made_up(
    first: int, last: int, densities: np.ndarray, k: int, draw: np.random.Generator
) -> Found:
    """The firings of the tokens from first to last - 1; k draws each, equal ones once."""
    latents = np.searchsorted(densities, draw.random((last - first) * k))
    places = np.repeat(np.arange(first, last), k)
    keys = np.unique(places << 24 | latents)
    values = draw.lognormal(0, 0.7, len(keys)).astype(np.float32)
    latents = (keys & 0xFFFFFF).astype(np.int32)
    return Found(keys >> 24, latents, values, last - first, 0, 0, 0.0)


def directions(n_latents: int, d: int) -> torch.Tensor:
    """(n_latents, d) random unit vectors."""
    rows = torch.randn(n_latents, d, generator=torch.Generator().manual_seed(0))
    return rows.div_(rows.norm(dim=1, keepdim=True))


def weights_of(subject: Subject, n_latents: int) -> Weights:
    """A random coder of a layer of the subject."""
    W_dec = directions(n_latents, subject.d_model)
    point = Hookpoint(f"{subject.modules.layers}.{subject.n_layers // 3}", "output")
    zeros = torch.zeros(n_latents), torch.zeros(subject.d_model)
    coder = SparseCoder(
        "random", "", str(point), str(point), W_dec.T, zeros[0], W_dec, zeros[1], "topk", k=32
    )
    return Weights(subject, coder, point)


def blocks(db: Any, cache: CacheInfo) -> Iterator[Block]:
    """The firings of every latent."""
    return tallies.blocks(cached.iterate_firings(db, cache), cache.n_latents)


def statistics(file: Path, subject_path: Path) -> None:
    """Count the firings of every latent."""
    with open_results(file) as db:
        finish_cache(db, caches.load_caches(db)[0])


def tally(file: Path, subject_path: Path) -> None:
    """Quantiles, tokens, contexts and positions of every latent."""
    with open_results(file) as db:
        cache = caches.load_caches(db)[0]
        _, token_ids = caches.load_tokens(db, cache.corpus)
        for block in blocks(db, cache):
            tallies.quantiles(block)
            tallies.token_sums(block, token_ids)
            tallies.count_contexts(block)
            tallies.position_bins(block, N_CTX)


def lens(file: Path, subject_path: Path) -> None:
    """Tokens raised and lowered by every direction."""
    subject = load_subject(subject_path, device="cpu")
    with open_results(file) as db:
        weights = weights_of(subject, caches.load_caches(db)[0].n_latents)
    opened = open_lens(*weights)
    assert opened is not None
    for rows in weights.coder.W_dec.split(tallies.MOST_LATENTS):
        opened.read(rows)


def neighbours(file: Path, subject_path: Path) -> None:
    """Cosines of every direction with all others."""
    with open_results(file) as db:
        n_latents = caches.load_caches(db)[0].n_latents
    opened = open_directions(directions(n_latents, 576))
    for start in range(0, n_latents, tallies.MOST_LATENTS):
        opened.neighbours(start, min(n_latents, start + tallies.MOST_LATENTS))


def together(file: Path, subject_path: Path) -> None:
    """Who fires with whom."""
    with open_results(file) as db:
        cache = caches.load_caches(db)[0]
        step = cofiring.every_nth_context(count_firings(db, cache.id))
        shape = (cache.corpus.n_contexts, N_CTX)
        found = cofiring.collect(blocks(db, cache), cache.n_latents, shape, step)
        for block in blocks(db, cache):
            cofiring.neighbours(found, block, n_threads=torch.get_num_threads())


def whole(file: Path, subject_path: Path) -> None:
    """All details, written."""
    subject = load_subject(subject_path, device="cpu")
    with open_results(file) as db:
        cache = caches.load_caches(db)[0]
        weights = weights_of(subject, cache.n_latents)
        compute_details(db, cache, load_tokenizer(subject_path), weights)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "statistics": statistics,
    "tallies": tally,
    "lens": lens,
    "neighbours": neighbours,
    "cofiring": together,
    "whole": whole,
}


def run_part(name: str, file: Path, subject_path: Path) -> dict[str, Any]:
    """Seconds and peak memory of this process after one part."""
    started, used = time.perf_counter(), time.process_time()
    PARTS[name](file, subject_path)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "peak_rss_mib": round(peak),
    }


def measure(options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Write the file unless it is there, and run every part in a process of its own."""
    if not file.exists():
        # In a process of its own too: a child's peak begins with what its parent held.
        sizes = [str(options.latents), str(options.tokens), str(options.k)]
        started = time.perf_counter()
        writer = [sys.executable, __file__, "--file", str(file), "--write", *sizes]
        subprocess.run(writer, check=True)
        print(f"file written: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    with open_results(file) as db:
        n_firings = count_firings(db, caches.load_caches(db)[0].id)
    found: dict[str, Any] = {
        "latents": options.latents,
        "tokens": options.tokens,
        "firings": n_firings,
        "threads": torch.get_num_threads(),
        "file_mib": round(file.stat().st_size / (1 << 20)),
    }
    for name in options.parts:
        command = [sys.executable, __file__, "--part", name, "--file", str(file)]
        done = subprocess.run(
            [*command, "--subject", options.subject], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]}", file=sys.stderr)
    found["file_mib_at_the_end"] = round(file.stat().st_size / (1 << 20))
    found["at_ten_times_the_tokens_by_rule_of_three"] = {
        f"{name}_seconds": round(10 * found[name]["seconds"])
        for name in TENFOLD
        if name in options.parts
    }
    return found


def main() -> None:
    """Measure every part, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--subject", default="smollm2-135m-instruct")
    parser.add_argument("--file", type=Path, help="results file, made if it is not there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    options = parser.parse_args()
    if options.write:
        write_file(options.file, *options.write)
        return
    if options.part:
        path = model_path(options.subject, "subject")
        print(json.dumps(run_part(options.part, options.file, path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, options.file or Path(folder) / "bench.db")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
