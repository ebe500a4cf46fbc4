"""Wall time and peak memory of each stage of the demo, each in a process of its own.

    python bench/stages.py [--engine NAME] [--max-tokens N] [--n LATENTS]

Prints a JSON line for each stage; the last one has bytes per firing. The models must be installed.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO = Path(__file__).parent.parent / "models" / "demo"


def measure(stage: str, arguments: list[str]) -> dict[str, object]:
    """Run one command; its wall time in seconds and the peak of its resident memory in MiB."""
    code = (
        "import resource, sys; from lite_interp.cli import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - started
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak = int(done.stdout.split()[-1]) / unit
    return {"stage": stage, "seconds": round(seconds, 1), "peak_rss_mib": round(peak)}


def bytes_per_firing(results: Path) -> dict[str, object]:
    """Size of the file and of the packed firings alone, for each firing."""
    with sqlite3.connect(results) as connection:
        firings = connection.execute("select sum(n_firings) from cache_shards").fetchone()[0]
        packed = connection.execute("select sum(length(packed)) from firings").fetchone()[0]
    return {
        "firings": firings,
        "packed_bytes_per_firing": round(packed / firings, 3),
        "file_bytes_per_firing": round(results.stat().st_size / firings, 3),
    }


def main() -> None:
    """Measure cache, explain and score on the shipped example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--max-tokens", default="240000")
    parser.add_argument("--n", default="8", help="latents to explain and score")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "bench.db"
        name = str(results)
        subject = ["--subject", "smollm2-135m-instruct", "--coder", str(DEMO / "coder")]
        corpus = ["--corpus", str(DEMO / "corpus.jsonl.zst"), "--max-tokens", options.max_tokens]
        print(json.dumps(measure("cache", ["cache", name, *subject, *corpus])), flush=True)
        print(json.dumps(bytes_per_firing(results)), flush=True)
        windows = ["--shown", "12", "--active", "10", "--silent", "10", "--n", options.n]
        engine = ["--engine", options.engine, "--n-ctx", "2048"]
        density = ["--min-density", "0.001", "--max-density", "0.01"]
        explain = ["explain", name, *engine, *windows, *density]
        print(json.dumps(measure("explain", explain)), flush=True)
        for scorer in ("embedding", "detection"):
            score = ["score", name, "--scorers", scorer, "--controls", "3", *engine]
            print(json.dumps(measure(f"score ({scorer})", score)), flush=True)


if __name__ == "__main__":
    main()
