"""How fast, how small and how steady caching is, beside the bare pass and beside Delphi.

    python bench/cache.py [--json] [--only PART …] [--peer PYTHON] [--tokens N] [--rounds N]

Each part is measured in one run, what is compared in turn:

    speed   the shipped subject at a third of its depth and at its last layer, with the shipped
            coder (4,096 latents) and a random one of 65,536: the bare pass to the hookpoint, our
            caching into a file, and Delphi (`--peer`, see cache_peer.py), on the same tokens
    size    bytes a firing: the shipped corpus through the shipped coder
    memory  peak of a process that caches 0.2 and 2 million tokens of a tiny subject
    pack    firings a second of packing and of reading back, 64 and 1,400 of a latent
    wide    131,072 latents, k 32: packing and writing alone, then counting, then thinning

The subject `smollm2-135m-instruct` must be installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cache_file import begin_file, sizes_of, split

BENCH = Path(__file__).parent
DEMO = BENCH.parent / "models" / "demo"
SUBJECT = "smollm2-135m-instruct"
N_CTX = 256
TURN_TOKENS = 8192
DELPHI_BATCH = 32
THIRD, LAST = 9, 29
D_MODEL = 576
WIDE = ["--latents", "65536", "--k", "32", "--d-in", str(D_MODEL)]


class Case(NamedTuple):
    """One coder at one layer."""

    name: str
    coder: Path
    layer: int


def make_cases(folder: Path) -> list[Case]:
    """The shipped coder and a wide random one, each at two layers."""
    shipped = next((DEMO / "coder").glob("layers.*"))
    wide = folder / f"layers.{THIRD}"
    make = [sys.executable, str(BENCH / "cache_peer.py"), "--make-wide", str(wide), *WIDE]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pairs = {"4096": shipped, "65536": wide}
    layers = {"third": THIRD, "last": LAST}
    return [
        Case(f"{width} {depth}", coder, layer)
        for width, coder in pairs.items()
        for depth, layer in layers.items()
    ]


def load_subject() -> tuple[Any, Any]:
    """The subject and its tokenizer."""
    from lite_interp import subject
    from lite_interp.fetch import model_path
    from lite_interp.tokenizer import load_tokenizer

    path = model_path(SUBJECT, "subject")
    return subject.load_subject(path), load_tokenizer(path)


def full_contexts(tokenizer: Any, n_tokens: int) -> np.ndarray:
    """(n, 256) tokens of the shipped corpus; n is a multiple of Delphi's batch."""
    from lite_interp.documents import Skips
    from lite_interp.loading import CacheJob, open_stream
    from lite_interp.study import CoderSection, CorpusSection, SubjectSection

    paths = (str(DEMO / "corpus.jsonl.zst"),)
    section = CorpusSection(paths=paths, n_ctx=N_CTX, packed=True, max_tokens=n_tokens)
    job = CacheJob(SubjectSection(model=SUBJECT), CoderSection(path=""), section)
    shards = list(open_stream(job, tokenizer, Skips()))
    rows = np.concatenate([shard.token_ids[shard.lengths == N_CTX] for shard in shards])
    return rows[: len(rows) // DELPHI_BATCH * DELPHI_BATCH]


def time_both(
    models: tuple[Any, Any], token_ids: np.ndarray, case: Case, path: Path
) -> tuple[float, float, dict[str, int]]:
    """Seconds of caching, of the bare pass, in turn for each 8,192 tokens; and sizes.

    Caching is reading, encoding, packing and writing; the bare pass reads the same batches. In
    turn, because this machine's speed wanders by a third within a minute.
    """
    from lite_interp.cache import BATCH_TOKENS, CacheSettings, Reader
    from lite_interp.caching import CacheWork, cache_shards
    from lite_interp.db import cached
    from lite_interp.db.file import open_results
    from lite_interp.fit import Site, read_sample
    from lite_interp.sae import load_coder, make_encoder
    from lite_interp.subject import has_fast_bfloat16

    subject, tokenizer = models
    coder = load_coder(case.coder)
    point = subject.resolve(f"layers.{case.layer}")
    site = Site(point, point, tokenizer.special_ids)
    norm = read_sample(iter(split(token_ids, 64)), subject, site).median_norm
    encoder = make_encoder(coder, has_fast_bfloat16(subject.device))
    reader = Reader(encoder, site, CacheSettings(), norm)
    path.unlink(missing_ok=True)
    ours = bare = 0.0
    with open_results(path, create=True) as db:
        cache = begin_file(db, token_ids, coder.n_latents, {}, TURN_TOKENS)
        work = CacheWork(cache, reader, frozenset(cached.pending_shards(db, cache)))
        with closing(cache_shards(db, [work], subject, BATCH_TOKENS)) as done:
            turns = split(token_ids, TURN_TOKENS // N_CTX)
            while True:
                started = time.perf_counter()
                finished = next(done, "end") == "end"
                ours += time.perf_counter() - started
                if finished:
                    break
                turn = turns.pop(0).token_ids
                started = time.perf_counter()
                for batch in split(turn, BATCH_TOKENS // N_CTX):
                    subject.read(batch.token_ids, batch.lengths, [point])
                bare += time.perf_counter() - started
        db.execute("pragma wal_checkpoint(truncate)")
        return ours, bare, sizes_of(db, path)


def time_delphi(peer: str, tokens: Path, case: Case, dtype: str) -> dict[str, Any]:
    """What cache_peer.py says of one case."""
    from lite_interp.fetch import model_path

    command = [peer, str(BENCH / "cache_peer.py"), "--subject", str(model_path(SUBJECT, "subject"))]
    command += ["--tokens", str(tokens), "--coder", str(case.coder), "--layer", str(case.layer)]
    command += ["--dtype", dtype, "--batch", str(DELPHI_BATCH), "--threads", "2"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Bare pass, ours and Delphi in turn."""
    subject, tokenizer = models = load_subject()
    token_ids = full_contexts(tokenizer, options.tokens)
    n = token_ids.size
    found: dict[str, Any] = {"tokens": n, "dtype": str(subject.dtype), "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "tokens.npy", token_ids.astype(np.int64))
        subject.read(token_ids[:16], np.full(16, N_CTX), [subject.resolve(f"layers.{LAST}")])
        for case in [each for each in make_cases(folder) if each.name.startswith(options.case)]:
            rows = []
            for _ in range(options.rounds):
                ours, bare, sizes = time_both(models, token_ids, case, folder / "cache.db")
                row = {"bare": n / bare, "ours": n / ours}
                if options.peer:
                    dtype = str(subject.dtype).removeprefix("torch.")
                    peer = time_delphi(options.peer, folder / "tokens.npy", case, dtype)
                    row["delphi"] = peer["tokens_per_second"]
                rows.append({key: round(value, 1) for key, value in row.items()})
                print(case.name, rows[-1], file=sys.stderr)
            found[case.name] = {
                "tokens_per_second": rows,
                "vs_bare": ratio(rows, "ours", "bare"),
                "vs_delphi": ratio(rows, "ours", "delphi") if options.peer else None,
                **sizes,
            }
    return found


def ratio(rows: list[dict[str, float]], over: str, under: str) -> float:
    """Median over rounds of one speed over another."""
    return round(statistics.median(row[over] / row[under] for row in rows), 3)


def size(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes a firing of the shipped corpus: firings with their tokens, and the whole file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.db"
        command = [sys.executable, "-m", "lite_interp", "cache", str(path), "--subject", SUBJECT]
        command += ["--coder", str(next((DEMO / "coder").glob("layers.*")))]
        command += ["--corpus", str(DEMO / "corpus.jsonl.zst"), "--max-tokens", "240000"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        from lite_interp.db.file import read_results

        with read_results(path) as db:
            found = sizes_of(db, path)
            pages = dict(db.execute("select name, sum(pgsize) from dbstat group by name"))
    cached = sum(pages[name] for name in ("firings", "cache_shards", "context_shards"))
    return {
        **found,
        "bytes_of_latents": pages["latents"] + pages["latent_details"],
        "bytes_per_firing": round(cached / found["firings"], 3),
        "file_bytes_per_firing": round(found["file_bytes"] / found["firings"], 3),
    }


def apart(part: str, *arguments: str) -> dict[str, Any]:
    """One part in a process of its own, so that its memory is its own."""
    command = [sys.executable, str(BENCH / "cache_parts.py"), part, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory with few and with many tokens."""
    few, many = (apart("tiny", str(n)) for n in (200_000, 2_000_000))
    growth = many["peak_rss_mb"] - few["peak_rss_mb"]
    return {"few": few, "many": many, "rss_growth_mb": round(growth, 1)}


def pack(options: argparse.Namespace) -> dict[str, Any]:
    """Firings a second of packing and of reading back."""
    return {"64 a latent": apart("pack", "64"), "1400 a latent": apart("pack", "1400")}


def wide(options: argparse.Namespace) -> dict[str, Any]:
    """A coder of 131,072 latents, kept whole and as a reservoir."""
    return {keep: apart("wide", str(options.wide_tokens), keep) for keep in ("all", "reservoir")}


PARTS = {"speed": speed, "size": size, "memory": memory, "pack": pack, "wide": wide}


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peer", default="", help="Python of an environment with Delphi")
    parser.add_argument("--case", default="", help="of speed only: 4096, 65536 last, …")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wide-tokens", type=int, default=1_048_576)
    options = parser.parse_args()
    found = {name: PARTS[name](options) for name in options.only}
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
