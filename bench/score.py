"""What each scorer costs on real windows, and how many tokens a decision takes.

    lite-interp score FILE --scorers all …           the scorers whose cost is wanted
    lite-interp score FILE --scorers detection …     with many windows, for the decisions
    lite-interp score FILE --scorers detection --list 5 --controls 1
    python bench/score.py FILE [--json]

Costs come from the own trials in the file, scaled to 100 items, beside Table 1 of arXiv
2410.13928. Tokens are those the engine evaluated: what trials share is evaluated once.

Decisions are replayed from the verdicts of detection in the file. Windows of a latent are drawn
from those in the file, with replacement, up to 100 activating and 100 silent ones, 100 times, and
judged until it is decided at 95 % whether the explanation is above its null or below it, or no
window is left. Tokens of the explanation and of its controls count. A latent has in the replay
just the effect that its windows in the file show; few windows exaggerate effects, so the more
windows the file has, the fairer the figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import sequential, stats
from lite_interp.correlations import pearson
from lite_interp.db import caches, trials
from lite_interp.db.file import read_results
from lite_interp.ids import generator
from lite_interp.records import Estimate

N_WINDOWS = 100
"""Windows of each kind that may be judged, as in the paper."""
N_REPLAYS = 100
WIDTH = 0.16
"""An interval of an AUROC of ± 0.08."""
PAPER = {
    "detection": (17_000, 11_900, 240),
    "fuzzing": (19_600, 14_200, 249),
    "simulation": (104_900, 87_500, 5),
}
"""Input tokens, those of them that can be cached, output tokens, for 100 contexts: Table 1."""


class Judged(NamedTuple):
    """Detection on one latent."""

    active: NDArray[np.bool_]
    """(n,) the truth."""
    values: NDArray[np.float64]
    """(1 + c, n) margins, or answers of lists: the explanation's, then the controls'."""
    tokens: float
    """Tokens evaluated and written for one window under one explanation."""


class Way(NamedTuple):
    """One way to come to a decision."""

    name: str
    """What it is called."""
    n_controls: int
    """Controls that are judged beside the explanation."""
    n_looks: int
    """Looks, equally spaced; 1 = all windows are judged."""
    lists: bool = False
    """Whether five windows are judged in one list."""
    relative: bool = False
    """Whether margins are read less the mean of the controls."""


WAYS = (
    Way("fixed, 100 + 100 windows, 2 controls", 2, 1),
    Way("fixed, 100 + 100 windows, 1 control", 1, 1),
    Way("until sure, 5 looks, 2 controls", 2, 5),
    Way("until sure, 5 looks, 1 control", 1, 5),
    Way("until sure, 10 looks, 1 control", 1, 10),
    Way("until sure, 20 looks, 1 control", 1, 20),
    Way("until sure, 5 looks, 2 controls, relative", 2, 5, relative=True),
    Way("until sure, 20 looks, 2 controls, relative", 2, 20, relative=True),
    Way("lists of five, fixed", 1, 1, lists=True),
    Way("lists of five, until sure, 5 looks", 1, 5, lists=True),
)


def costs(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """Tokens and seconds of own trials for 100 items, by scorer and settings."""
    rows = db.execute(
        """select scorer, trials.settings, count(*), sum(n), sum(prompt_tokens),
                  sum(output_tokens), sum(seconds)
           from trials join example_sets on example_sets.id = example_set_id
           join (select trial_id, count(*) as n from verdicts group by trial_id) as counted
           on counted.trial_id = trials.id
           where cache_id = ? and control = 0 and latent >= 0
           group by scorer, trials.settings order by scorer""",
        [cache_id],
    )
    found = []
    for scorer, settings, n_trials, n_items, prompt, output, seconds in rows.fetchall():
        row = {
            "scorer": scorer,
            "settings": {k: v for k, v in json.loads(settings).items() if k != "prompt"},
            "latents": n_trials,
            "items_a_latent": round(n_items / n_trials, 1),
            "tokens": round(100 * prompt / n_items),
            "written": round(100 * output / n_items),
            "seconds": round(100 * seconds / n_items, 2),
        }
        names = ("paper_input", "paper_cacheable", "paper_output")
        found.append(row | dict(zip(names, PAPER.get(scorer, ()), strict=False)))
    return found


def judged(db: Database, cache_id: str, lists: bool, scorer: str = "detection") -> Iterator[Judged]:
    """One scorer on every latent whose trials are in the file, those with the most windows."""
    most: dict[int, Judged] = {}
    for group in trials.scored_groups(db, cache_id):
        settings = json.loads(group.settings)
        if group.scorer != scorer or group.latent < 0 or "until_sure" in settings:
            continue
        if bool(settings.get("list")) != lists:
            continue
        found = trials.load_trials(db, *group[2:])
        own = next(t for t in found if not t.control and t.explanation_id == group.explanation_id)
        rows = [own, *(trial for trial in found if trial.control)]
        table = np.array([[_number(v.value) for v in trial.verdicts] for trial in rows])
        kept = ~np.isnan(table).any(axis=0)
        active = np.array([verdict.active for verdict in own.verdicts])[kept]
        spent = sum(t.usage.prompt_tokens + t.usage.output_tokens for t in rows)
        known = most.get(group.latent)
        if known is None or len(active) > len(known.active):
            most[group.latent] = Judged(active, table[:, kept], spent / table.size)
    yield from (each for each in most.values() if len(each.values) > 1)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def decision(own: Estimate, difference: Estimate) -> bool:
    """Whether it is known on which side of its null an explanation is."""
    return sequential.decide(own, difference, 0.0) != ""


def narrow(own: Estimate, difference: Estimate) -> bool:
    """Whether the score is known to ± 0.08."""
    return own.high - own.low < WIDTH


def replay(
    each: Judged, way: Way, done: Callable[[Estimate, Estimate], bool], random: np.random.Generator
) -> tuple[float, bool]:
    """Tokens until done, and whether it ever was, in one order of windows."""
    places = [
        random.choice(np.flatnonzero(each.active == side), N_WINDOWS) for side in (True, False)
    ]
    values = each.values[: 1 + way.n_controls]
    for n_active, n_silent in sequential.looks(N_WINDOWS, N_WINDOWS, way.n_looks):
        seen = np.concatenate([places[0][:n_active], places[1][:n_silent]])
        active, values_seen = each.active[seen], values[:, seen]
        one, others = values_seen[0], values_seen[1:]
        if way.relative:
            one, others = stats.relative(one, others), stats.relative_controls(others)
        own = sequential.area_interval(active, one, way.n_looks)
        difference = sequential.difference_interval(active, one, others, way.n_looks)
        if done(own, difference):
            return len(seen) * len(values) * each.tokens, True
    return 2 * N_WINDOWS * len(values) * each.tokens, False


def replays(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """Tokens to a decision, and to ± 0.08, mean over latents and orders, for each way."""
    found = []
    known = {lists: list(judged(db, cache_id, lists)) for lists in (False, True)}
    for way in WAYS:
        latents = [each for each in known[way.lists] if len(each.values) > way.n_controls]
        if not latents:
            continue
        row: dict[str, Any] = {"way": way.name, "latents": len(latents)}
        row["windows_in_file"] = round(float(np.mean([len(each.active) for each in latents])), 1)
        row["tokens_a_window"] = round(float(np.mean([each.tokens for each in latents])), 1)
        for name, done in (("decision", decision), ("plus_minus_.08", narrow)):
            ran = [
                [replay(each, way, done, generator(0, number, turn)) for turn in range(N_REPLAYS)]
                for number, each in enumerate(latents)
            ]
            table = np.array(ran, float)
            row[f"tokens_to_{name}"] = round(float(table[:, :, 0].mean()))
            row[f"share_{name}"] = round(float(table[:, :, 1].mean()), 3)
            by_latent = table[:, :, 0].mean(axis=1)
            row[f"tokens_to_{name}_by_latent"] = [round(float(value)) for value in by_latent]
        found.append(row)
    return found


def gains(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """AUROC less null of each latent that the replays are of, with its interval."""
    return [
        {
            "windows": len(each.active),
            "difference": [
                round(value, 3)
                for value in stats.difference_test(
                    stats.gain_table(each.active, each.values[0], each.values[1:])
                )[0]
            ],
        }
        for each in judged(db, cache_id, False)
    ]


def control_variate(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """How much of the variance of a difference would be left if embeddings explained the rest.

    Cosines cost no engine tokens, so their difference is known on all windows; the part of
    detection's that goes with it need not be estimated. What is left is 1 − r², r the correlation
    of what single windows gain under either scorer; mean over latents and kinds of windows.
    """
    left = []
    both = zip(judged(db, cache_id, False), judged(db, cache_id, False, "embedding"), strict=False)
    for margins, cosines in both:
        if len(margins.active) != len(cosines.active) or margins.values.shape[0] < 2:
            continue
        one, other = (
            stats.gain_table(each.active, each.values[0], each.values[1:])
            for each in (margins, cosines)
        )
        for axis in (0, 1):
            r = pearson(one.mean(axis=axis), other.mean(axis=axis))
            if np.isfinite(r):
                left.append(1 - r**2)
    if not left:
        return []
    return [{"latents": len(left) // 2, "variance_left": round(float(np.mean(left)), 3)}]


def main() -> None:
    """Print costs and decisions of one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--cache", default="")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with read_results(options.results) as db:
        cache = caches.the_cache(db, options.cache)
        report = {
            "costs": costs(db, cache.id),
            "decisions": replays(db, cache.id),
            "differences": gains(db, cache.id),
            "control_variate": control_variate(db, cache.id),
        }
    if options.json:
        print(json.dumps(report))
        return
    for name, rows in report.items():
        print(f"\n{name}")
        for row in rows:
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
