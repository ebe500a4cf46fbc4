"""How fast a served file of 131,072 latents answers: the table, a latent, a search.

    python bench/serve.py [--latents N] [--windows N] [--json] [--keep FOLDER]

Makes a results file as bench/report.py does, with fewer windows, serves it in a process of its
own, and asks over HTTP as the page does. Times are in milliseconds from question to the whole
answer: the median over the repeats, and the worst. Every question of the table is another one, so
that no answer is kept from before. With a Chromium (CHROMIUM=/path/to/it), also the time from the
address to the first row.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from report import SYLLABLES, chromium, make_file

from lite_interp.db.file import open_results

QUERY = {"text": "", "arm": "", "diagnosis": "", "show": "value", "key": "latent", "down": False}
REPEATS = 20


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, float, psutil.Process]]:
    """Address, seconds until it was there, and the process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "lite_interp", "serve", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip() if process.stdout else ""
        try:
            yield address, time.perf_counter() - started, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)


def ask(address: str, path: str, **parameters: Any) -> Any:
    """The answer to one question."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{address}api/{path}?{query}") as answer:
        return json.load(answer)


def rows(address: str, **changes: Any) -> Any:
    """The first rows of a table."""
    query = json.dumps({**QUERY, "ranges": [], **changes})
    return ask(address, "rows", query=query, first=0, n=200)


def questions(address: str, n_latents: int) -> dict[str, Callable[[int], Any]]:
    """Name → asks the n-th question of a kind."""
    draw = np.random.default_rng(1)
    latents = draw.integers(n_latents, size=REPEATS + 1).tolist()
    words = ["".join(draw.choice(SYLLABLES, 2)) for _ in range(REPEATS + 1)]
    lows = draw.uniform(0.4, 0.9, REPEATS + 1).tolist()

    def place(number: int) -> Any:
        query = json.dumps({**QUERY, "ranges": [], "text": words[number], "key": "way 0"})
        return ask(address, "place", query=query, latent=latents[number])

    return {
        "table, sorted by a score": lambda n: rows(
            address, key=f"way {n % 4}", down=n % 8 > 3, ranges=[["latent", n, None]]
        ),
        "table, sorted by words": lambda n: rows(
            address, key="explanation", ranges=[["latent", n, None]]
        ),
        "table, rows with a word": lambda n: rows(address, text=words[n]),
        "table, rows in a range": lambda n: rows(address, ranges=[["way 0", lows[n], None]]),
        "place of a latent": place,
        "a latent": lambda n: ask(address, "latent", latent=latents[n]),
        "search, a word": lambda n: ask(address, "search", text=words[n]),
        "search, two words": lambda n: ask(address, "search", text=f"{words[n]} {words[n - 1]}"),
        "search, a beginning": lambda n: ask(address, "search", text=f"{words[n][:3]}*"),
    }


def in_browser(address: str, path: str) -> float:
    """Milliseconds from the address to the first row; the median of three."""
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            started = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_selector(".rows tbody a")
            times.append(1000 * (time.perf_counter() - started))
            page.close()
        browser.close()
    return statistics.median(times)


def measure(results: Path, n_latents: int) -> dict[str, Any]:
    """All times of one served file."""
    found: dict[str, Any] = {"latents": n_latents, "results_mb": results.stat().st_size / 1e6}
    with serving(results) as (address, seconds, process):
        found["start_s"] = seconds
        for name, question in questions(address, n_latents).items():
            times = []
            for number in range(REPEATS + 1):
                started = time.perf_counter()
                question(number)
                times.append(1000 * (time.perf_counter() - started))
            # The first one of a kind may read pages from the disk.
            found[f"{name}, ms"] = statistics.median(times[1:])
            found[f"{name}, worst ms"] = max(times)
        path = chromium()
        if path:
            found["first row in a browser, ms"] = in_browser(address, path)
        found["rss_mib"] = process.memory_info().rss / 2**20
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    """Make the file, serve it, and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--windows", type=int, default=6, help="windows of a latent")
    parser.add_argument("--json", action="store_true", help="a JSON line instead of a table")
    parser.add_argument("--keep", type=Path, help="folder for the file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = (options.keep or Path(folder)) / f"serve-{options.latents}-{options.windows}.db"
        if not results.exists():
            make_file(results, options.latents, options.windows)
        with open_results(results):  # one that was kept may be of an older version
            pass
        found = measure(results, options.latents)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:40} {value:>12,}")


if __name__ == "__main__":
    main()
