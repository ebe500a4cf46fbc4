"""What judges said of the items that people answered too."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db.report import plain


class RatedVerdict(NamedTuple):
    """A verdict on an item that at least one person was asked about."""

    scorer: str
    """Name of the scorer, which is the people's task."""
    settings: str
    """Its settings, JSON."""
    model_id: str
    """Engine or embedder."""
    explanation_id: str | None
    """What was judged; None if the latent was judged without one."""
    example_set_id: str
    """Whose windows."""
    window_id: str
    """The window."""
    item: str
    """What tells items of one window apart."""
    active: bool
    """The right answer."""
    value: float
    """The scorer's number."""
    detail: Any
    """What else the scorer says, plain JSON."""


def rated_verdicts(db: Database, cache_id: str) -> list[RatedVerdict]:
    """Verdicts of own trials, however judged, on what people answered about one cache.

    Joined by scorer, explanation, example set, window and item. Settings may differ from those of
    the question, so whether it is the same item is for the caller to see. Failures are left out.
    """
    rows = db.execute(
        """select scorer, trials.settings, coalesce(engine_id, embedder_id), trials.explanation_id,
                  trials.example_set_id, verdicts.window_id, verdicts.item, active, value, detail
           from (select distinct task, ratings.explanation_id, example_set_id, window_id, item
                 from ratings join example_sets on example_sets.id = example_set_id
                 where cache_id = ? and window_id is not null) as asked
           join trials on trials.example_set_id = asked.example_set_id and scorer = task
             and trials.explanation_id is asked.explanation_id and control = 0
           join verdicts on trial_id = trials.id and verdicts.window_id = asked.window_id
             and verdicts.item = asked.item
           where value is not null
           order by scorer, trials.settings, trials.rowid, verdicts.window_id, verdicts.item""",
        [cache_id],
    )
    found = map(RatedVerdict._make, rows)
    return [each._replace(active=bool(each.active), detail=plain(each.detail)) for each in found]
