"""Everything that people's ratings of one cache say.

ratings ─same question─▶ people with each other    alpha, share right
        ─same explanation─▶ people with scorers    correlations
        ─same item─▶ people with judges            areas, shares
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db.rated import rated_verdicts
from lite_interp.errors import UsageError
from lite_interp.raters.asked import load_asked
from lite_interp.raters.reliability import Reliability, reliability
from lite_interp.raters.scorers import WithJudge, WithScorer, with_judges, with_scorers
from lite_interp.ways import way_names

WIDEST = 2.0
"""Width of an interval that says nothing of a correlation."""


class People(NamedTuple):
    """What the ratings of one cache say."""

    explainer: str
    """Whose explanations; empty = of all explainers."""
    variant: str
    """Which scores."""
    width: float
    """How narrow a 95 % interval is wanted."""
    tasks: tuple[Reliability, ...]
    """People with each other, a task each; empty if nobody rated anything."""
    scorers: tuple[WithScorer, ...]
    """People with each way to score."""
    judges: tuple[WithJudge, ...]
    """People with each judge, on the same items."""


def check_width(width: float) -> None:
    """Refuse a width that no interval could have.

    Raises:
        UsageError: it is not above 0, or above 2.
    """
    if not 0 < width <= WIDEST:
        raise UsageError(
            f"not a width of an interval: {width:g}", "above 0 and at most 2, e.g. 0.2"
        )


def people_agree(
    db: Database,
    cache_id: str,
    scores: Sequence[Mapping[str, Any]],
    variant: str = "raw",
    explainer: str = "",
    width: float = 0.2,
) -> People:
    """What people's ratings of one cache say; nothing if there are none.

    Args:
        db: the file.
        cache_id: the cache.
        scores: its scores, as `load_scores` gives them.
        variant: which scores people are held against.
        explainer: only ratings of explanations by this one; empty = of all.
        width: how narrow a 95 % interval is wanted.

    Raises:
        UsageError: no interval could be that wide.
    """
    check_width(width)
    asked = load_asked(db, cache_id, explainer)
    if not asked:
        return People(explainer, variant, width, (), (), ())
    verdicts = rated_verdicts(db, cache_id)
    names = way_names([*scores, *(each._asdict() for each in verdicts)])
    return People(
        explainer,
        variant,
        width,
        tuple(reliability(asked, width)),
        tuple(with_scorers(asked, scores, names, variant, width)),
        tuple(with_judges(asked, verdicts, names)),
    )
