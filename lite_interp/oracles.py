"""Rule-made latents in the results file, and what judges reach on them.

    corpus ─rule─▶ firings ─▶ example set ─▶ four explanations: true, broader, narrower, false

Scorers judge them like any other: fuzzing, simulation and surprisal see activations of 1. Only
intervention cannot, because a rule has no decoder direction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sqlite_utils import Database

from lite_interp.db import studies
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import one_line
from lite_interp.ids import content_id
from lite_interp.loading import Reporter, cache_tokenizer
from lite_interp.measures import EQUAL
from lite_interp.oracle_rules import KINDS, RULES, Rule, oracle_latent, rule_firings
from lite_interp.records import ExampleSet, Explanation, Firings, Usage
from lite_interp.samplers import DrawSettings, Source, draw_example_set, example_set_id
from lite_interp.stages import open_source
from lite_interp.tokenizer import Tokenizer

EXPLAINER = "oracle"
"""Explainer of the explanations that are known to be true, or not."""

SETTINGS = DrawSettings(width=32, sampler="quantiles", n_shown=1, n_active=10, n_silent=10)
"""Few windows: it is the mean over rules that counts."""

SEED = 0

BREAK = "\n"
"""What rules see in place of a special token: `<s>` is no text of the corpus."""


def write_oracles(
    db: Database,
    cache: CacheInfo,
    subject_path: str,
    tell: Reporter,
    settings: DrawSettings = SETTINGS,
) -> None:
    """Let every rule fire on the corpus of a cache; store its windows and explanations.

    A rule whose example set has too few windows to say anything gets explanations without a text,
    so that nobody judges them. A second call does nothing.

    Args:
        db: the file.
        cache: a complete cache.
        subject_path: where the subject is now; empty = where it was when the cache was made.
        tell: who is told.
        settings: how windows are drawn.

    Raises:
        SubjectError: another tokenizer than the one that cut the corpus.
    """
    pending = [number for number in range(len(RULES)) if _pending(db, cache.id, number, settings)]
    if not pending:
        return
    tokenizer = cache_tokenizer(cache, subject_path)
    # Where a rule fires is known everywhere, whatever was kept of the latents.
    source = replace(open_source(db, cache, tokenizer, settings.width), kept=None)
    firings = rule_firings([RULES[number] for number in pending], _contexts(source, tokenizer))
    done = _write(db, cache, source, dict(zip(pending, firings, strict=True)), settings)
    few = [
        RULES[number].name
        for number, failed in tell.track(done, len(pending), "rule-made latents")
        if failed
    ]
    if few:
        tell.say(f"too few windows to judge the rule-made latents: {', '.join(few)}")


def _pending(db: Database, cache_id: str, number: int, settings: DrawSettings) -> bool:
    name = example_set_id(cache_id, oracle_latent(number), settings, SEED)
    return not all(
        studies.known(db, "explanations", explanation_id(name, kind, text))
        for kind, text in RULES[number].meanings._asdict().items()
    )


def explanation_id(example_set: str, kind: str, text: str) -> str:
    """Name of an explanation that a rule brings with it."""
    return content_id([EXPLAINER, example_set, kind, text])


def _contexts(source: Source, tokenizer: Tokenizer) -> Iterator[list[str]]:
    """Texts of the tokens of each context, special tokens left out."""
    for context, length in enumerate(source.grid.lengths):
        ids = source.token_ids[context, :length]
        yield [
            BREAK if token in tokenizer.special_ids else text
            for token, text in zip(ids.tolist(), source.texts(ids), strict=True)
        ]


def _write(
    db: Database,
    cache: CacheInfo,
    source: Source,
    firings: Mapping[int, Firings],
    settings: DrawSettings,
) -> Iterator[tuple[int, bool]]:
    """Store rule by rule, each whole; yields its number and whether it has too few windows."""
    for number, found in firings.items():
        examples = draw_example_set(source, oracle_latent(number), found, settings, SEED)
        failure = None if _enough(examples) else "no_windows"
        explanations = _explanations(RULES[number], examples, failure)
        with db.atomic():
            studies.store_example_set(db, cache.id, examples)
            studies.store_explanations(
                db, cache.id, ((each, Usage(0, 0, 0.0)) for each in explanations)
            )
        yield number, failure is not None


def _enough(examples: ExampleSet) -> bool:
    n_active = sum(placed.window.peak > 0 for placed in examples.scored)
    return min(n_active, len(examples.scored) - n_active) >= studies.FEW


def _explanations(rule: Rule, examples: ExampleSet, failure: str | None) -> Iterator[Explanation]:
    for kind, text in rule.meanings._asdict().items():
        yield Explanation(
            explanation_id(examples.id, kind, text),
            examples.latent,
            examples.id,
            EXPLAINER,
            None,
            None,
            {"kind": kind},
            None if failure else text,
            text,
            failure,
        )


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one judge reaches on latents whose meaning is known: means of its scores over rules."""

    scorer: str
    """Name in SCORERS."""
    settings: str
    """Its settings, JSON."""
    model_id: str
    """The engine or embedder that judged."""
    variant: str
    """Which reading of the verdicts; see `records.Score`."""
    statistic: str
    """What the numbers are; see `records.Score`."""
    n_rules: int
    """Rules in each mean: those with a score for every kind."""
    true: float
    """Mean score of explanations known to be true; of a scorer that judges latents without an
    explanation, its mean score. What scores of real latents are to be measured by."""
    broader: float | None
    """Mean of those that say more than is true; None for a scorer that sees no explanation."""
    narrower: float | None
    """Mean of those that say only a part."""
    false: float | None
    """Mean of those that are false."""
    ordered: bool | None
    """Whether true > broader > false and true > narrower > false."""


class _Judge(NamedTuple):
    """One way to score, by one model, and one reading of the verdicts."""

    scorer: str
    settings: str
    model_id: str
    variant: str
    statistic: str


def ceilings(rows: Iterable[Mapping[str, Any]]) -> list[Ceiling]:
    """What each judge reaches on rule-made latents.

    Args:
        rows: scores as `db.trials.load_scores` gives them; those of real latents are passed over.
            `explained_settings` are the settings of the explanation, JSON.

    Rules that lack the score of a kind are left out, so that all means are over the same rules.
    """
    found: dict[_Judge, dict[int, dict[str, float]]] = {}
    for row in rows:
        value = _value(row)
        if row["latent"] >= 0 or value is None:
            continue
        rules = found.setdefault(_Judge(*(row[name] for name in _Judge._fields)), {})
        rules.setdefault(row["latent"], {})[_kind(row)] = value
    made = (_ceiling(judge, list(rules.values())) for judge, rules in found.items())
    return [ceiling for ceiling in made if ceiling]


def _value(row: Mapping[str, Any]) -> float | None:
    """A score; a judge that says the same of all windows tells them apart as well as chance."""
    if row["value"] is None and row["statistic"] == "auroc" and row.get("reason") == EQUAL:
        return 0.5
    return row["value"]


LATENT = "latent"
"""Kind of a score that judges the latent itself."""


def _kind(row: Mapping[str, Any]) -> str:
    if row["explanation_id"] is None:
        return LATENT
    return json.loads(row["explained_settings"])["kind"]


def _ceiling(judge: _Judge, rules: Sequence[Mapping[str, float]]) -> Ceiling | None:
    latents = [kinds[LATENT] for kinds in rules if LATENT in kinds]
    if latents:
        return Ceiling(*judge, len(latents), float(np.mean(latents)), None, None, None, None)
    whole = [[kinds[kind] for kind in KINDS] for kinds in rules if set(KINDS) <= kinds.keys()]
    if not whole:
        return None
    true, broader, narrower, false = np.mean(whole, axis=0).tolist()
    ordered = true > max(broader, narrower) and min(broader, narrower) > false
    return Ceiling(*judge, len(whole), true, broader, narrower, false, ordered)


def ceiling_lines(found: Sequence[Ceiling]) -> list[str]:
    """Plain text for the terminal: a heading, then a line for each judge; empty without any."""
    if not found:
        return []
    several = len({(each.scorer, each.variant) for each in found}) < len(found)
    return [
        "latents made by rule: mean scores of explanations that are known to be …",
        *(_line(each, several) for each in found),
    ]


def _line(ceiling: Ceiling, several: bool) -> str:
    judge = f"{ceiling.scorer} {ceiling.variant} {ceiling.statistic}"
    if several:
        judge += f" {one_line(ceiling.settings)} by {ceiling.model_id.removeprefix('b2:')[:8]}"
    if ceiling.broader is None:
        return f"  {judge}, {ceiling.n_rules} latents: {ceiling.true:.3f}, asked without any"
    means = ", ".join(f"{kind} {getattr(ceiling, kind):.3f}" for kind in KINDS)
    line = f"  {judge}, {ceiling.n_rules} latents: {means}"
    return line if ceiling.ordered else f"{line} (not in the order of truth)"
