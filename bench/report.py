"""A page about 10,000 latents of 40 windows: how long, how big, and how fast in a browser.

    python bench/report.py [--latents N] [--windows N] [--json] [--keep FOLDER]

Makes a results file with random tokens, activations and verdicts (detection and embedding, one
control each), writes its page, and opens that in headless Chromium (CHROMIUM=/path/to/it): time
to the first row of the table, to the answer of a search, to a sorted table, to an open latent, and
the frames while it scrolls from end to end. Without a Chromium the browser's times are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlite_utils import Database

from lite_interp.db.file import add, open_results
from lite_interp.report.making import make_report
from lite_interp.terminal import Terminal

CACHE, WIDTH, N_CONTROLS = "b2:cache", 32, 1
SCORERS = {"detection": "engine_id", "embedding": "embedder_id"}
SYLLABLES = ["ka", "lo", "mi", "ne", "ru", "ta", "so", "ve", "pa", "di", "ge", "hu"]


METRICS = json.dumps(
    {
        "strata": {f"decile_{n}": {"auroc": 0.6, "n": 2} for n in range(10)},
        **dict.fromkeys(("balanced_accuracy", "f1", "recall", "precision"), [0.6, 0.5, 0.7]),
    }
)


def vocabulary(random: np.random.Generator, n: int = 20_000) -> list[str]:
    """Made-up tokens, most of them with a space before."""
    counts = random.integers(1, 4, n)
    return [
        (" " if place % 3 else "") + "".join(random.choice(SYLLABLES, count))
        for place, count in enumerate(counts)
    ]


def add_study(db: Database, n_latents: int) -> None:
    """What a cache refers to."""
    subject = {"id": "s", "name": "subject", "architecture": "a", "d_model": 8, "provenance": {}}
    add(db, "subjects", subject)
    coder = {"id": "c", "name": "coder", "format": "f", "hookpoint": "h", "activation": "relu"}
    sizes = {"k": None, "d_in": 8, "n_latents": n_latents, "fit": {}, "provenance": {}}
    add(db, "coders", {**coder, **sizes})
    corpus = {"id": "o", "name": "corpus", "source_hash": "", "tokenizer_hash": "", "n_ctx": 128}
    counts = dict.fromkeys(
        ("add_bos", "packed", "max_tokens", "n_documents", "n_skipped", "n_contexts", "n_tokens"), 1
    )
    add(db, "corpora", {**corpus, **counts})
    cache = {"id": CACHE, "corpus_id": "o", "subject_id": "s", "coder_id": "c", "settings": {}}
    add(db, "caches", {**cache, "number": 1, "n_counted": 1_000_000, "n_masked": 0})
    add(db, "engines", {"id": "e", "name": "engine", "provenance": {}})
    add(db, "embedders", {"id": "m", "name": "embedder", "provenance": {}})


def latent_tables(
    latent: int, n_windows: int, random: np.random.Generator, words: list[str]
) -> dict[str, list[tuple]]:
    """Rows of each table about one latent: a third of its windows is shown, all others judged."""
    tables: dict[str, list[tuple]] = {}
    counts = json.dumps(random.integers(0, 40, 20).tolist())
    stats = (CACHE, latent, 200, 90, float(10 ** random.uniform(-4, -2)), 9.0, 2.0, counts, None)
    tables["latents"] = [stats]
    named = json.dumps([[words[int(n)], 0.1] for n in random.integers(len(words), size=10)])
    near = json.dumps([[int(n), 0.5] for n in random.integers(10_000, size=10)])
    details = (CACHE, latent, json.dumps([*range(11)]), named, 0.1, 0.01, "[]", named, named)
    tables["latent_details"] = [(*details, near, near)]
    tables["example_sets"] = [(f"x{latent}", CACHE, latent, "quantiles", '{"width":32}', 0)]
    tables["windows"], tables["example_set_windows"] = [], []
    n_shown = n_windows // 3
    strength = np.maximum(0, random.normal(-0.5, 1.5, (n_windows, WIDTH))).round(4)
    strength[n_shown + (n_windows - n_shown) // 2 :] = 0
    for place in range(n_windows):
        tokens = [words[int(n)] for n in random.integers(len(words), size=WIDTH)]
        acts, name = strength[place].tolist(), f"w{latent}/{place}"
        window = (name, CACHE, latent, place, 0, max(acts), "", json.dumps(tokens))
        tables["windows"].append((*window, json.dumps(acts)))
        role, number = ("shown", place) if place < n_shown else ("scored", place - n_shown)
        stratum = f"decile_{place % 10}" if max(acts) else "random"
        tables["example_set_windows"].append((f"x{latent}", role, number, name, stratum, 2.0))
    text = " ".join(words[int(n)].strip() for n in random.integers(len(words), size=8))
    explained = (f"p{latent}", CACHE, latent, f"x{latent}", "llm", None, "e", "{}", text, text)
    tables["explanations"] = [(*explained, None, 500, 12, 1.5, None)]
    return tables


def trial_tables(
    latent: int, n_latents: int, tables: dict[str, list[tuple]], random: np.random.Generator
) -> None:
    """Add the verdicts of each scorer, own explanation and controls, and made-up scores."""
    tables["trials"], tables["verdicts"], tables["scores"] = [], [], []
    judged = [row for row in tables["example_set_windows"] if row[1] == "scored"]
    for scorer, column in SCORERS.items():
        model = ("e", None) if column == "engine_id" else (None, "m")
        for variant in ("raw", "relative"):
            area = round(float(random.uniform(0.4, 0.9)), 6)
            key = (f"x{latent}", f"p{latent}", scorer, "{}", model[0] or model[1], variant)
            ends = (area - 0.1, min(1.0, area + 0.1), 0.5, area - 0.5, area - 0.6, area - 0.4)
            row = (*key, "auroc", area, *ends, 0.03, 0.2, 13, 14, 0, N_CONTROLS, METRICS)
            tables["scores"].append((*row, None, 1860, 2.0))
        for step in range(1 + N_CONTROLS):
            name, whose = f"t{latent}/{scorer}/{step}", f"p{(latent + step) % n_latents}"
            trial = (name, scorer, "{}", whose, f"x{latent}", int(step > 0), None, *model)
            tables["trials"].append((*trial, 900, 30, 1.0))
            for row in judged:
                active = row[4] != "random"
                value = float(random.normal(0.7 * active * (step == 0)))
                tables["verdicts"].append((name, row[3], "", int(active), value, None, None))


def make_file(path: Path, n_latents: int, n_windows: int) -> None:
    """The synthetic results file."""
    random = np.random.default_rng(0)
    words = vocabulary(random)
    with open_results(path, create=True) as db:
        db.execute("pragma synchronous = off")
        db.execute("pragma foreign_keys = off")
        add_study(db, n_latents)
        for start in range(0, n_latents, 500):
            with db.atomic():
                for latent in range(start, min(n_latents, start + 500)):
                    tables = latent_tables(latent, n_windows, random, words)
                    trial_tables(latent, n_latents, tables, random)
                    for table, rows in tables.items():
                        marks = ", ".join("?" * len(rows[0]))
                        db.conn.executemany(f"insert into {table} values ({marks})", rows)
        db.execute("insert into scorings values (?, ?, ?)", [CACHE, 0, "bench"])


def chromium() -> str | None:
    """Where a Chromium is; None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    return next((path for path in found if path), None)


ROW = ".rows tbody:not(.space) tr"
FRAMES = """async () => {
  const box = document.querySelector(".rows"), gaps = [];
  const most = box.scrollHeight - box.clientHeight;
  let before = await new Promise(requestAnimationFrame);
  for (let n = 1; n <= 120; n += 1) {
    box.scrollTop = (most * n) / 120;
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""
TIMED = """(act) => {
  const started = performance.now();
  if (act === "search") {
    const field = document.getElementById("search");
    field.value = "kalo";
    field.dispatchEvent(new Event("input", { bubbles: true }));
  } else {
    [...document.querySelectorAll(".rows thead button")][2].click();
  }
  document.querySelector(".rows").getBoundingClientRect();
  return performance.now() - started;
}"""


def in_browser(page_path: Path, path: str) -> dict[str, Any]:
    """Times in milliseconds, medians of three loads."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            started = time.perf_counter()
            page.goto(page_path.as_uri(), wait_until="commit")
            page.wait_for_selector(ROW)
            found.setdefault("first_row_ms", []).append(1000 * (time.perf_counter() - started))
            page.wait_for_load_state("load", timeout=120_000)
            found.setdefault("loaded_ms", []).append(1000 * (time.perf_counter() - started))
            gaps = page.evaluate(FRAMES)
            found.setdefault("scroll_frame_ms", []).append(statistics.median(gaps))
            found.setdefault("scroll_worst_frame_ms", []).append(max(gaps))
            for act in ("search", "sort"):
                found.setdefault(f"{act}_ms", []).append(page.evaluate(TIMED, act))
            link = page.locator(f"{ROW} a").first
            started = time.perf_counter()
            link.click()
            page.wait_for_selector("#latent")
            found.setdefault("open_latent_ms", []).append(1000 * (time.perf_counter() - started))
            page.close()
        browser.close()
    return {name: round(statistics.median(times), 1) for name, times in found.items()}


def main() -> None:
    """Make the file, its page, and open it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=40, help="windows of a latent")
    parser.add_argument("--json", action="store_true", help="a JSON line instead of a table")
    parser.add_argument("--keep", type=Path, help="folder for the file and the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        results, out = place / f"report-{options.latents}-{options.windows}.db", place / "page.html"
        if not results.exists():
            make_file(results, options.latents, options.windows)
        started = time.perf_counter()
        made = make_report(results, out, Terminal(), force=True)
        found: dict[str, Any] = {
            "latents": made.n_latents,
            "windows": options.windows,
            "results_mb": round(results.stat().st_size / 1e6, 1),
            "report_s": round(time.perf_counter() - started, 1),
            "page_mb": round(made.n_bytes / 1e6, 1),
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        path = chromium()
        if path:
            found |= in_browser(out, path)
        else:
            print("no Chromium: the browser's times are left out", file=sys.stderr)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:24} {value:>12,}")


if __name__ == "__main__":
    main()
