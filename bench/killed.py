"""A cache that is killed again and again in the middle of a shard ends as one that never was.

    python bench/killed.py [--kills 20] [--seconds 1] [--tokens 60000] [--keep KEEP] [--json]

The shipped subject and coder in shards of 4,096 tokens, in a process that is killed (`kill -9`) at
a random moment after its first pass through the subject: some kills meet a pass, some the
packing and some the transaction. Every table but `runs` is compared, without times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cache import DEMO, SUBJECT

CODE = """
import sys
from lite_interp import study, subject
study.making.SHARD_TOKENS = 4096
read, seen = subject.Subject.read, []
def told(*args):
    seen.append(1)
    if len(seen) == 6:  # those before are of the sample
        print("reading", flush=True)
    return read(*args)
subject.Subject.read = told
from lite_interp.cli import app
app(sys.argv[1:], standalone_mode=False)
"""


def command(path: Path, options: argparse.Namespace) -> list[str]:
    """The command line that is killed."""
    coder = next((DEMO / "coder").glob("layers.*"))
    words = ["cache", str(path), "--subject", SUBJECT, "--coder", str(coder)]
    words += ["--corpus", str(DEMO / "corpus.jsonl.zst"), "--max-tokens", str(options.tokens)]
    return [sys.executable, "-c", CODE, *words, "--keep", options.keep, "--batch-tokens", "1024"]


def run(path: Path, options: argparse.Namespace, after: float | None) -> bool:
    """Run it; kill it so many seconds after the first pass. Whether it came to its end."""
    process = subprocess.Popen(
        command(path, options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    if after is not None:
        time.sleep(after)
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == 0


def tables(path: Path) -> dict[str, list[str]]:
    """Every row of every table but `runs`, without times."""
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        names = [
            name
            for (name,) in connection.execute("select name from sqlite_master where type = 'table'")
            if name != "runs" and not name.startswith(("sqlite_", "_"))
        ]
        found = {}
        for name in names:
            rows = map(dict, connection.execute(f"select * from {name}"))
            found[name] = sorted(
                repr(sorted((key, value) for key, value in row.items() if key != "seconds"))
                for row in rows
            )
    connection.close()
    return found


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="longest time until a kill")
    parser.add_argument("--keep", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.db", Path(folder) / "killed.db"
        assert run(whole, options, None)
        shards = []
        for _ in range(options.kills):
            if run(killed, options, draw.uniform(0, options.seconds)):
                break
            with sqlite3.connect(killed) as connection:
                shards.append(connection.execute("select count(*) from cache_shards").fetchone()[0])
            connection.close()
        assert run(killed, options, None)
        one, other = tables(whole), tables(killed)
        found: dict[str, Any] = {
            "kills": len(shards),
            "shards_after_each_kill": shards,
            "shards": len(one["cache_shards"]),
            "firings_blobs": len(one["firings"]),
            "different_tables": sorted(name for name in one if one[name] != other[name]),
            "bit_identical": one == other,
        }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
