"""How the scorers agree: correlations over latents, with the paper's beside them.

    scores ─one explainer, one explanation a latent─▶ scorer × latent ─▶ a pair of scorers a row

A correlation over few latents says little: read the interval. That two scorers agree does not make
them right, for they may share the engine's faults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lite_interp.correlations import N_PAIRS_MIN, correlation
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import generator
from lite_interp.records import Estimate
from lite_interp.render import terminal_safe
from lite_interp.score_lines import number, short
from lite_interp.terminal import Terminal
from lite_interp.ways import HEADERS, base, way_names, way_of

PAPER: dict[tuple[str, str], tuple[float, float]] = {
    ("fuzzing", "detection"): (0.73, 0.74),
    ("fuzzing", "simulation"): (0.75, 0.74),
    ("fuzzing", "embedding"): (0.41, 0.42),
    ("fuzzing", "surprisal"): (0.30, 0.32),
    ("detection", "simulation"): (0.44, 0.46),
    ("detection", "embedding"): (0.71, 0.70),
    ("detection", "surprisal"): (0.62, 0.62),
    ("simulation", "embedding"): (0.28, 0.30),
    ("simulation", "surprisal"): (0.15, 0.14),
    ("embedding", "surprisal"): (0.79, 0.79),
}
"""Two scorers → Spearman's and Pearson's correlation over 800 explanations of latents of a
Gemma 2 9B SAE, judged by Llama 3.1 70B: arXiv 2410.13928, appendix D.6, tables A1 and A2."""

PAPER_SOURCE = "paper: arXiv 2410.13928, tables A1 and A2, 800 explanations"
"""What stands under the table."""

ORDER = tuple(dict.fromkeys([*(name for pair in PAPER for name in pair), *HEADERS]))
"""Scorers in the order of the paper's tables, then the others."""


MADE = (
    "explainer",
    "explained_by",
    "explained_with",
    "explained_settings",
    "drawn_settings",
    "drawn_seed",
)
"""What tells explanations apart that are not mixed: who made them, how, and from what."""


class Pair(NamedTuple):
    """Two ways to score, and how they agree."""

    first: str
    """Name of the one."""
    second: str
    """Name of the other."""
    n: int
    """Latents with both numbers."""
    spearman: Estimate
    """Correlation of ranks over latents; NaN with fewer than four."""
    pearson: Estimate
    """Correlation of numbers."""
    paper: tuple[float, float] | None
    """Spearman's and Pearson's in the paper; None if it has none."""


class Agreement(NamedTuple):
    """How the ways to score agree on the explanations of one explainer."""

    explainer: str
    """The explainer; empty if there are no scores."""
    others: tuple[str, ...]
    """Explainers that are left out."""
    variant: str
    """Which scores."""
    n_latents: int
    """Latents with a score."""
    pairs: tuple[Pair, ...]
    """Every pair of ways that have scores."""


def agree(
    rows: Sequence[Mapping[str, Any]],
    variant: str = "raw",
    explainer: str = "",
    tell: Terminal | None = None,
) -> Agreement:
    """Correlations between all ways to score, over the latents of one explainer.

    Args:
        rows: scores as `load_scores` gives them; those of rule-made latents are left out.
        variant: which scores; a scorer without this variant is left out.
        explainer: whose explanations; empty = of the explainer that has the most latents.
        tell: who sees how far it is; None = nobody.

    A latent counts once: of an explainer with several engines, prompts, settings, sources or draws
    only the explanations of those with the most latents are taken, and one of each latent. Scores
    of latents without an explanation belong to all explanations made from the same example set.

    Raises:
        UsageError: no explanation of this explainer has such a score.
    """
    names = way_names(rows)
    there = [
        row
        for row in rows
        if row["latent"] >= 0 and row["variant"] == variant and row["value"] is not None
    ]
    explained = [row for row in there if row["explanation_id"] is not None]
    explainers = sorted({row["explainer"] for row in explained})
    if explainer and explainer not in explainers:
        raise UsageError(
            f"no {one_line(variant)} scores of this explainer: {one_line(explainer)}",
            nearest(explainer, explainers),
        )
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in explained:
        if row["explainer"] == (explainer or row["explainer"]):
            made = tuple(str(row.get(name) or "") for name in MADE)
            groups.setdefault(made, []).append(row)
    if not groups:
        return Agreement("", (), variant, 0, ())
    chosen = min(groups, key=lambda made: (-len({row["latent"] for row in groups[made]}), made))
    kept = _one_each(groups[chosen])
    table: dict[str, dict[int, float]] = {}
    for row in there:
        latent, of = row["latent"], row["explanation_id"] or row["example_set_id"]
        if of in kept.get(latent, ()):
            table.setdefault(names[way_of(row)], {})[latent] = row["value"]
    others = tuple(name for name in explainers if name != chosen[0])
    twos = list(combinations(_in_order(table), 2))
    watched = tell.watch(twos, len(twos), "correlating pairs of scorers") if tell else twos
    pairs = tuple(_pair(*two, table, chosen[0]) for two in watched)
    return Agreement(chosen[0], others, variant, len(kept), pairs)


def _one_each(rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, str]]:
    """Latent → explanation and example set: the one with the most scores, then by id."""
    counts: dict[tuple[int, str, str], int] = {}
    for row in rows:
        key = (row["latent"], row["explanation_id"], row["example_set_id"])
        counts[key] = counts.get(key, 0) + 1
    found: dict[int, tuple[str, str]] = {}
    for latent, *names in sorted(counts, key=lambda key: (-counts[key], key)):
        found.setdefault(latent, (names[0], names[1]))
    return found


def _in_order(names: Mapping[str, Any]) -> list[str]:
    places = {scorer: place for place, scorer in enumerate(ORDER)}
    return sorted(names, key=lambda name: (places.get(base(name), len(places)), name))


def _pair(
    first: str, second: str, table: Mapping[str, Mapping[int, float]], explainer: str
) -> Pair:
    latents = sorted(table[first].keys() & table[second].keys())
    x, y = (np.array([table[name][latent] for latent in latents]) for name in (first, second))
    spearman, pearson = (
        correlation(x, y, kind, generator(0, explainer, first, second, kind))
        for kind in ("spearman", "pearson")
    )
    paper = PAPER.get((base(first), base(second)))
    return Pair(first, second, len(latents), spearman, pearson, paper)


def agreement_rows(found: Agreement) -> list[dict[str, Any]]:
    """One plain row for each pair, None for what is not there, for JSON."""
    return [
        {
            "explainer": found.explainer,
            "variant": found.variant,
            "first": pair.first,
            "second": pair.second,
            "n": pair.n,
            **_columns("spearman", pair.spearman),
            "spearman_paper": pair.paper and pair.paper[0],
            **_columns("pearson", pair.pearson),
            "pearson_paper": pair.paper and pair.paper[1],
        }
        for pair in found.pairs
    ]


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    ends = zip(("", "_low", "_high"), estimate, strict=True)
    return {f"{name}{end}": None if math.isnan(value) else value for end, value in ends}


def agreement_head(found: Agreement) -> str:
    """Whose explanations these are; or, in one line, why there is nothing to see."""
    if not found.n_latents:
        return f"no {terminal_safe(found.variant)} scores of explanations"
    whose = f"explanations by {terminal_safe(found.explainer)}"
    if found.n_latents < N_PAIRS_MIN:
        latents = f"latent{'s' * (found.n_latents != 1)}"
        return f"{whose}: {found.n_latents} {latents}, and a correlation needs {N_PAIRS_MIN}"
    if len(found.pairs) < 1:
        return f"{whose}: scores of one kind only, and a correlation needs two"
    head = f"{whose}, {found.n_latents} latents, {terminal_safe(found.variant)} scores"
    if found.others:
        head += f" (--explainer for {', '.join(map(terminal_safe, found.others))})"
    return head


def agreement_page(found: Agreement) -> Group:
    """Whose explanations, then a line for each pair, made to fit 80 columns."""
    head = Text(agreement_head(found))
    if found.n_latents < N_PAIRS_MIN or not found.pairs:
        return Group(head)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("pair", overflow="fold")
    for name in ("n", "Spearman", "paper", "Pearson", "paper"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in found.pairs:
        paper = pair.paper or (None, None)
        table.add_row(
            Text(f"{terminal_safe(pair.first)} – {terminal_safe(pair.second)}"),
            str(pair.n),
            _interval(pair.spearman),
            short(paper[0]),
            _interval(pair.pearson),
            short(paper[1]),
        )
    return Group(head, "", table, "", Text(PAPER_SOURCE, style="dim"))


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    ends = f"[{short(estimate.low)}, {short(estimate.high)}]"
    return f"{short(number(estimate.value))} {ends:>13}"
