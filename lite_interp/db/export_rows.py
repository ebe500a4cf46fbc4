"""What exports are made of, read a latent at a time: nothing here grows with the number of latents.

The file may be another's, so JSON in it may be none: that is said in one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlite_utils import Database

from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import ResultsError, one_line

Row = dict[str, Any]


def parsed(text: str | None, what: str) -> Any:
    """A JSON column.

    Raises:
        ResultsError: it is no JSON.
    """
    try:
        return json.loads(text) if text is not None else None
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"the file is damaged: {what} is no JSON: {one_line(error)}", "take a copy from before"
        ) from error


def latents(db: Database, cache_id: str) -> Iterator[int]:
    """Every latent that has statistics, in order."""
    rows = db.execute("select latent from latents where cache_id = ? order by latent", [cache_id])
    return (latent for (latent,) in rows)


def explained(db: Database, cache_id: str) -> Iterator[int]:
    """Every latent that has an explanation, or the reason why there is none, in order."""
    rows = db.execute(
        """select distinct latent from explanations where cache_id = ? and latent >= 0
           order by latent""",
        [cache_id],
    )
    return (latent for (latent,) in rows)


def n_explained(db: Database, cache_id: str) -> int:
    """How many latents have an explanation, or the reason why there is none."""
    row = db.execute(
        "select count(distinct latent) from explanations where cache_id = ? and latent >= 0",
        [cache_id],
    )
    return int(row.fetchone()[0])


def n_latents(db: Database, cache_id: str) -> int:
    """How many latents have statistics."""
    row = db.execute("select count(*) from latents where cache_id = ?", [cache_id])
    return int(row.fetchone()[0])


def explanations(db: Database, cache_id: str, latent: int) -> list[Row]:
    """The explanations of a latent in the order of writing, with what wrote them."""
    rows = db.query(
        """select explanations.id, latent, example_set_id, explainer, explanations.settings,
                  explanations.text, raw, failure, prompt_tokens + output_tokens as tokens, seconds,
                  engines.name as engine, prompts.name as prompt
           from explanations left join engines on engines.id = engine_id
           left join prompts on prompts.id = prompt_id
           where cache_id = ? and latent = ? order by explanations.rowid""",
        [cache_id, latent],
    )
    return [{**row, "settings": parsed(row["settings"], "settings")} for row in rows]


def example_sets(db: Database, cache_id: str) -> Iterator[tuple[int, list[str]]]:
    """Latents with the ids of their example sets, in order of latent."""
    rows = db.execute(
        """select latent, id from example_sets where cache_id = ? and latent >= 0
           order by latent, id""",
        [cache_id],
    )
    for latent, group in groupby(rows, itemgetter(0)):
        yield latent, [name for _, name in group]


def scores(db: Database, example_set_ids: Sequence[str]) -> list[Row]:
    """The scores on some example sets, as `trials.load_scores` gives them, fewer columns."""
    marks = ", ".join("?" * len(example_set_ids))
    rows = db.query(
        f"""select * from scores where example_set_id in ({marks})
            order by scorer, settings, model_id, variant, explanation_id""",
        list(example_set_ids),
    )
    found = [{**row, "metrics": parsed(row["metrics"], "metrics")} for row in rows]
    if not all(isinstance(row["metrics"], dict) for row in found):
        raise ResultsError("the file is damaged: metrics are no JSON object")
    return found


def windows(db: Database, cache_id: str, latent: int) -> list[Row]:
    """The windows of a latent in which it fires, strongest first: tokens and acts are lists."""
    rows = db.query(
        """select id, context, start, max_value, tokens, acts from windows
           where cache_id = ? and latent = ? and max_value > 0
           order by max_value desc, context, start, id""",
        [cache_id, latent],
    )
    return [_with_lists(row) for row in rows]


def _with_lists(row: Row) -> Row:
    tokens, acts = (parsed(row[name], "a window") for name in ("tokens", "acts"))
    try:
        values = [float(act) for act in acts]
        if not isinstance(tokens, list) or len(tokens) != len(values):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ResultsError(f"the file is damaged: window {one_line(row['id'])}") from None
    return {**row, "tokens": [str(token) for token in tokens], "acts": values}


def verdicts(db: Database, explanation_id: str, scorer: str) -> list[Row]:
    """An explanation's verdicts by a scorer on its own windows, with window and stratum.

    If the scorer judged in several ways, of the plainest: fewest settings, then as text.
    """
    rows = db.query(
        """select item, active, value, stratum, windows.id, tokens, acts
           from trials join verdicts on trial_id = trials.id
           join windows on windows.id = verdicts.window_id
           left join example_set_windows on example_set_windows.window_id = windows.id
             and example_set_windows.example_set_id = trials.example_set_id and role = 'scored'
           where trials.id = (
             select id from trials where explanation_id = ? and scorer = ? and control = 0
             order by case when json_valid(settings) then
               (select count(*) from json_each(settings)) else 0 end, settings, rowid limit 1)
           order by active desc, stratum, windows.id, item""",
        [explanation_id, scorer],
    )
    return [_with_lists(row) for row in rows]


def intruders(db: Database, cache_id: str) -> list[Row]:
    """All scores of intruders of a cache as if they were one, for `overview.finds_intruders`."""
    n, n_right, chance = db.execute(
        """select sum(n_active + n_silent), sum(round(value * (n_active + n_silent))),
                  max(null_value)
           from scores join example_sets on example_sets.id = example_set_id
           where cache_id = ? and scorer = 'intruder' and value is not null and latent >= 0""",
        [cache_id],
    ).fetchone()
    if not n or chance is None:
        return []
    row = {"scorer": "intruder", "value": n_right / n, "n_active": n, "n_silent": 0}
    return [{**row, "null_value": chance}]


def n_other_scorers(db: Database, cache_id: str, held: Sequence[str]) -> list[str]:
    """Names of the scorers of a cache that are none of these."""
    rows = db.execute(
        """select distinct scorer from scores join example_sets on example_sets.id = example_set_id
           where cache_id = ? and latent >= 0 order by scorer""",
        [cache_id],
    )
    return [scorer for (scorer,) in rows if scorer not in held]


def n_firings(db: Database, cache_id: str) -> dict[int, int]:
    """Latent → how often it fired, those that did."""
    rows = db.execute(
        "select latent, n_firings from latents where cache_id = ? and n_firings > 0", [cache_id]
    )
    return dict(rows.fetchall())


def has_firings(db: Database, cache: CacheInfo) -> bool:
    """Whether the firings and tokens of a cache are in the file, as a shared copy's are not."""
    first, end = (cached.key(number, 0, 0) for number in (cache.number, cache.number + 1))
    there = db.execute("select 1 from firings where key >= ? and key < ? limit 1", [first, end])
    is_there = there.fetchone() is not None or not n_firings(db, cache.id)
    return is_there and bool(caches.shard_places(db, cache.corpus.id))


def started(db: Database) -> str:
    """When the first command wrote to this file, UTC."""
    found = db.execute("select min(started_utc) from runs").fetchone()[0]
    return str(found or "1970-01-01T00:00:00+00:00")


def sizes(db: Database, cache_id: str) -> Row:
    """What exports say of the study as a whole: subject, coder, settings of the cache."""
    row = next(
        db.query(
            """select subjects.name as subject, architecture, d_model, coders.name as coder,
                      coders.format, hookpoint, activation, caches.settings,
                      coders.provenance as provenance
               from caches join subjects on subjects.id = subject_id
               join coders on coders.id = coder_id where caches.id = ?""",
            [cache_id],
        )
    )
    return {**row, "settings": parsed(row["settings"], "settings of the cache")}
