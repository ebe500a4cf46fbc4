"""The same windows judged two ways by the same GGUF file on this machine, in one run.

    python bench/engine_peer.py --model FILE --results FILE [--windows N] [--slots N]

Ours: one question a window, answers read as logits, through the detection scorer. The peer's: five
windows a prompt, a list of 0 and 1 read as text, through llama.cpp's own server with its prompt
cache, one request at a time and with slots; the faster of the two counts. The server is that of
the package xllamacpp, which gets an environment of its own. Its wheels are built for any CPU and
may be slower for that alone: the raw speed of both is measured too (one full batch, median over
the rounds), and `--server` takes a `llama-server` built on this machine in its place.

The windows go through in three rounds, and each round runs the three ways in another order, one
after the other, each opened anew. Not timed, for either: opening, and what all questions share,
which is evaluated beforehand (our root; the peer's instruction and solved examples, in each slot).

Human lines go to stderr. The last line, on stdout, is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peer_server
from numpy.typing import NDArray

from lite_interp.db.file import read_results
from lite_interp.db.studies import load_example_set, load_explanations
from lite_interp.engine import EngineSettings, open_engine
from lite_interp.engine.opening import physical_cores
from lite_interp.ids import generator
from lite_interp.prompts import load_prompt
from lite_interp.records import Estimate, Window
from lite_interp.render import plain_text
from lite_interp.score import Item, Tools
from lite_interp.score.detection import DETECTION, score
from lite_interp.stats import auroc, mean_interval

N_ROUNDS = 3
N_CTX = 2048
"""Tokens of our longest sequence and of each of the peer's slots."""
RAW_TOKENS = list(range(1000, 1512))
"""What the raw speed is measured on: one full batch."""


class Group(NamedTuple):
    """Five windows of one latent: what the peer sees in one prompt."""

    latent: int
    """The latent."""
    explanation: str
    """What is said of it."""
    windows: tuple[Window, ...]
    """Activating and silent ones, mixed."""
    active: tuple[bool, ...]
    """Which of them activate."""


class Run(NamedTuple):
    """What one way made of some groups."""

    seconds: float
    """Wall time."""
    values: list[float]
    """One for each window: our margin; the peer's 0 or 1, NaN where its list cannot be read."""
    requests: int
    """Requests to the server; for ours, calls of the scorer."""
    evaluated: int
    """Tokens evaluated that the model did not write."""
    cached: int
    """Tokens that the server found in its cache."""
    written: int
    """Tokens written."""
    raw: float
    """Tokens a second when one full batch is evaluated and nothing else."""


def choose(results: Path, n: int, seed: int) -> list[Group]:
    """Groups with n windows in all: of each latent as many activating as silent ones.

    Args:
        results: a results file; the first explanation by `llm` of each latent is judged.
        n: windows; a multiple of ten.
        seed: order of the windows within a latent.
    """
    groups: list[Group] = []
    with read_results(results) as db:
        (cache,) = db.execute("select id from caches order by rowid").fetchone()
        first = {
            explanation.latent: explanation
            for explanation in reversed(load_explanations(db, cache))
            if explanation.explainer == "llm" and explanation.text
        }
        for latent, explanation in sorted(first.items()):
            examples = load_example_set(db, explanation.example_set_id)
            windows = [placed.window for placed in examples.scored] if examples else []
            most = (n - peer_server.N_TEXTS * len(groups)) // 2
            random = generator(seed, latent, "peer")
            groups += _cut(latent, str(explanation.text), windows, most, random)
    if peer_server.N_TEXTS * len(groups) < n:
        sys.exit(f"not enough windows: {peer_server.N_TEXTS * len(groups)} of {n}")
    return groups


def _cut(
    latent: int, explanation: str, windows: Sequence[Window], most: int, random: np.random.Generator
) -> list[Group]:
    """Groups of one latent, with at most `most` windows of each kind: activating and silent."""
    size = peer_server.N_TEXTS
    kinds = [[one for one in windows if (one.peak > 0) == kind] for kind in (True, False)]
    each = min(most, *map(len, kinds)) // size * size
    drawn = [
        (kind[number], kind[number].peak > 0)
        for kind in kinds
        for number in sorted(random.permutation(len(kind))[:each])
    ]
    mixed = [drawn[number] for number in random.permutation(len(drawn))]
    return [
        Group(latent, explanation, *zip(*mixed[first : first + size], strict=True))
        for first in range(0, len(mixed), size)
    ]


def _items(windows: Sequence[Window]) -> list[Item]:
    return [Item(each, each.peak > 0, "", 1.0) for each in windows]


def run_ours(model: Path, threads: int, groups: Sequence[Group]) -> Run:
    """The detection scorer, all windows of a latent in one call, as `lite-interp score` does."""
    with open_engine(model, EngineSettings(n_ctx=N_CTX, n_threads=threads)) as engine:
        raw = _rate(lambda: engine.answers([], [RAW_TOKENS], [RAW_TOKENS[:1]]))
        tools = Tools(engine=engine, prompt=load_prompt(str(DETECTION.prompt)))
        items = _items(groups[0].windows[:1])
        score("words about rivers", items, tools, DETECTION.settings)
        before, values, calls = engine.n_evaluated, [], 0
        started = time.perf_counter()
        for (_, explanation), same in groupby(groups, key=lambda group: group[:2]):
            windows = [window for group in same for window in group.windows]
            judged = score(explanation, _items(windows), tools, DETECTION.settings)
            values += [float("nan") if one.value is None else one.value for one in judged]
            calls += 1
        seconds = time.perf_counter() - started
        return Run(seconds, values, calls, engine.n_evaluated - before, 0, 0, raw)


def run_peer(
    command: Callable[[int], list[str]], slots: int, folder: Path, groups: Sequence[Group]
) -> Run:
    """The peer's server, as many requests at once as it has slots."""
    with (
        peer_server.running(command(slots), folder / "server.log") as address,
        ThreadPoolExecutor(slots) as pool,
    ):
        raw_body = {"prompt": RAW_TOKENS, "n_predict": 1, "cache_prompt": False}
        raw = _rate(lambda: peer_server.call(address, "/completion", raw_body))
        ask = partial(peer_server.judge, address)
        list(pool.map(ask, ["words about rivers"] * slots, [["a boat"] * 5] * slots))
        texts = [[plain_text(window).strip() for window in group.windows] for group in groups]
        started = time.perf_counter()
        replies = list(pool.map(ask, [group.explanation for group in groups], texts))
        seconds = time.perf_counter() - started
    unread = [float("nan")] * peer_server.N_TEXTS
    values = [float(value) for reply in replies for value in reply["answers"] or unread]
    for reply in replies:
        if reply["answers"] is None:
            _say(f"  not a list of five: {reply['text']!r}")
    evaluated, cached, written = (
        sum(reply[kind] for reply in replies) for kind in ("evaluated", "cached", "written")
    )
    return Run(seconds, values, len(replies), evaluated, cached, written, raw)


def _rate(evaluate: Callable[[], Any]) -> float:
    started = time.perf_counter()
    evaluate()
    return len(RAW_TOKENS) / (time.perf_counter() - started)


def run_rounds(
    ways: dict[str, Callable[[Sequence[Group]], Run]], groups: Sequence[Group]
) -> dict[str, list[Run]]:
    """Each way's runs, one a round; each round begins with another way."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    parts = np.array_split(np.arange(len(groups)), min(N_ROUNDS, len(groups)))
    for number, part in enumerate(parts):
        order = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        for name in order:
            run = ways[name]([groups[index] for index in part])
            runs[name].append(run)
            _say(
                f"round {number + 1}, {name}: {len(run.values)} windows in {run.seconds:.1f} s = "
                f"{len(run.values) / run.seconds:.3f}/s; tokens: {run.evaluated} evaluated, "
                f"{run.cached} cached, {run.written} written; raw {run.raw:.0f} tokens/s"
            )
    return runs


def by_latent(
    groups: Sequence[Group], values: NDArray[np.float64]
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """(truth, values) of each latent's windows."""
    latents = np.repeat([group.latent for group in groups], peer_server.N_TEXTS)
    active = np.array([is_active for group in groups for is_active in group.active])
    return [(active[latents == one], values[latents == one]) for one in np.unique(latents)]


def quality(groups: Sequence[Group], ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Accuracies and AUROCs, means over latents with intervals.

    A latent has as many activating as silent windows here, so the share of right answers is the
    balanced accuracy. What the peer did not answer counts as the wrong answer.
    """
    said = np.array(theirs)
    margins = by_latent(groups, np.array(ours))
    if any(np.isnan(values).any() for _, values in margins):
        sys.exit("the engine failed on a window")
    answers = [
        (active, np.where(np.isnan(values), ~active, values))
        for active, values in by_latent(groups, said)
    ]

    def mean(table: list, number: Callable[[Any, Any], Any]) -> Estimate:
        return mean_interval(np.array([number(*row) for row in table], np.float64))

    def right(active: Any, values: Any, above: float = 0) -> Any:
        return np.mean((values > above) == active)

    estimates = {
        "ours_accuracy": mean(margins, right),
        "ours_accuracy_above_median": mean(
            margins, lambda active, values: right(active, values, np.median(values))
        ),
        "ours_auroc": mean(margins, auroc),
        "peer_accuracy": mean(answers, right),
        "peer_auroc": mean(answers, auroc),
    }
    numbers: dict[str, Any] = {}
    for name, estimate in estimates.items():
        value, *interval = (None if np.isnan(one) else round(float(one), 3) for one in estimate)
        numbers |= {name: value, f"{name}_interval": interval}
        _say(f"{name.replace('_', ' ')}: {value} {interval}")
    n_unread = int(np.isnan(said).sum())
    numbers["peer_failures"] = n_unread // peer_server.N_TEXTS
    numbers["peer_failed_windows"] = n_unread
    numbers["peer_ones"] = int(np.nansum(said))
    return numbers


def speeds(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Windows a second, the ratio overall and in each round, and tokens a window."""
    ours, one, many = runs.values()
    totals = [_windows(way) / _total(way, "seconds") for way in (ours, one, many)]
    faster = one if totals[1] >= totals[2] else many
    rounds = [theirs.seconds / own.seconds for own, theirs in zip(ours, faster, strict=True)]
    ratio = totals[0] / max(totals[1:])
    raw_ours, raw_peer = (float(np.median([run.raw for run in way])) for way in (ours, faster))
    n, written = _windows(faster), _total(faster, "written")
    return {
        "ours_windows_per_second": round(totals[0], 3),
        "peer_one_at_a_time": round(totals[1], 3),
        "peer_slots": round(totals[2], 3),
        "faster_peer": "one_at_a_time" if faster is one else "slots",
        "ratio": round(ratio, 2),
        "ratio_rounds": [round(one, 2) for one in rounds],
        "ratio_median": round(float(np.median(rounds)), 2),
        "ours_raw_tokens_per_second": round(raw_ours, 1),
        "peer_raw_tokens_per_second": round(raw_peer, 1),
        "ratio_at_equal_raw_speed": round(ratio * raw_peer / raw_ours, 2),
        "ours_tokens_per_window": round(_total(ours, "evaluated") / n, 1),
        "peer_tokens_per_window": round((_total(faster, "evaluated") + written) / n, 1),
        "peer_written_per_window": round(written / n, 1),
        "peer_cached_per_request": round(_total(faster, "cached") / _total(faster, "requests"), 1),
    }


def _windows(runs: Sequence[Run]) -> int:
    return sum(len(run.values) for run in runs)


def _total(runs: Sequence[Run], what: str) -> float:
    return sum(getattr(run, what) for run in runs)


def compare(options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """All that is printed at the end."""
    groups = choose(options.results, options.windows, options.seed)
    command, versions = peer_server.prepare(
        options.environment, options.server, options.model, options.threads, N_CTX
    )
    with open_engine(options.model, EngineSettings(n_ctx=N_CTX)) as engine:
        facts = engine.provenance
    _say(f"{options.model.name}, {len({group.latent for group in groups})} latents")
    _say(f"ours: {facts['system']}\npeer: {versions['system']}")
    ways = {
        "ours": partial(run_ours, options.model, options.threads),
        "peer, one at a time": partial(run_peer, command, 1, logs),
        f"peer, {options.slots} slots": partial(run_peer, command, options.slots, logs),
    }
    runs = run_rounds(ways, groups)
    measured = speeds(runs)
    ours, one, many = ([value for run in way for value in run.values] for way in runs.values())
    theirs = one if measured["faster_peer"] == "one_at_a_time" else many
    return {
        "model": options.model.name,
        "n_windows": len(ours),
        "n_latents": len({group.latent for group in groups}),
        **measured,
        **quality(groups, ours, theirs),
        "threads": options.threads,
        "slots": options.slots,
        "ours_versions": {name: facts[name] for name in ("llama_cpp_python", "system")},
        "peer_versions": versions,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Choose windows, run the rounds, print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="GGUF file that judges")
    parser.add_argument("--results", type=Path, required=True, help="results file; only read")
    parser.add_argument("--windows", type=int, default=120, help="a multiple of ten")
    parser.add_argument("--slots", type=int, default=4, help="of the peer's server")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="for either")
    parser.add_argument("--seed", type=int, default=0, help="order of a latent's windows")
    folder = Path(__file__).parent / ".venv-peer"
    parser.add_argument("--environment", type=Path, default=folder, help="the peer's; made once")
    parser.add_argument("--server", type=Path, help="llama-server to use in place of xllamacpp")
    parser.add_argument("--json", action="store_true", help="changes nothing: it is always JSON")
    options = parser.parse_args()
    if options.windows < 10 or options.windows % 10:
        parser.error("--windows must be a multiple of ten")
    with tempfile.TemporaryDirectory() as logs:
        print(json.dumps(compare(options, Path(logs))))


if __name__ == "__main__":
    main()
