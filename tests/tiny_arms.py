"""Two ways to explain in a results file, with verdicts that are given by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlite_utils import Database
from tiny_results import CACHE, ENGINE, USAGE, make_examples, make_explanation, make_trial

from lite_interp.db import studies, trials
from lite_interp.records import ExampleSet, Explanation

PEAKS = (5.0, 4.0, 3.0, 2.0, 0.0, 0.0, 0.0)
"""The first window is shown; three activating ones and three silent ones are scored."""


def examples_of(
    latent: int, peaks: Sequence[float] = PEAKS, name: str = "", **settings
) -> ExampleSet:
    """An example set; a name makes it another draw, of the same windows."""
    plain = make_examples(latent, peaks)
    strata = (f"decile_{n}" for n in range(10))
    scored = tuple(p._replace(stratum=next(strata)) if p.window.peak else p for p in plain.scored)
    return replace(
        plain,
        id=f"{plain.id}{name}",
        settings={**plain.settings, **settings},
        sampler=settings.get("sampler", plain.sampler),
        scored=scored,
    )


def explain(
    db: Database, examples: ExampleSet, name: str = "x", cache: str = CACHE, **changed
) -> Explanation:
    """An explanation made from an example set, stored."""
    explanation = make_explanation(examples, name, **changed)
    studies.store_example_set(db, cache, examples)
    studies.store_explanations(db, cache, [(explanation, USAGE)])
    return explanation


def judge(
    db: Database,
    explanation: Explanation,
    examples: ExampleSet,
    values: Sequence[float | None],
    by: str = "engine",
    **changed,
) -> None:
    """Verdicts on the scored windows of an example set, in their order."""
    model = changed.get("model_id", ENGINE)
    scorer = changed.get("scorer", "detection")
    name = f"b2:trial/{scorer}/{model}/{explanation.id}/{examples.id}"
    trial = make_trial(explanation, examples, values, **{"id": name, **changed})
    if by == "embedder":
        trial = replace(trial, prompt_id=None)
    trials.store_trials(db, [(trial, USAGE)], by)


def two_arms(
    db: Database,
    first: Mapping[int, Sequence[float | None]],
    second: Mapping[int, Sequence[float | None]],
    **changed,
) -> None:
    """`llm` and `token_list` on the same windows: latent → values of the scored windows."""
    for name, explainer, told in (("a", "llm", first), ("b", "token_list", second)):
        for latent, values in told.items():
            examples = examples_of(latent)
            text = f"{explainer} says {latent}"
            own = explain(db, examples, name, explainer=explainer, text=text)
            judge(db, own, examples, values, **changed)
