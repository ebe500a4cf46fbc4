"""What a page about a cache reads: all latents at a glance, or everything about one."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlite_utils import Database


class Glance(NamedTuple):
    """A latent in one row of a table."""

    density: float
    """Firings per counted position."""
    n_firings: int
    """Positions at which it fired."""
    flags: Any
    """What to know before its explanation is read, a list; None without details."""
    top_tokens: Any
    """[text, share of the activation], most first; None without details."""


class Judged(NamedTuple):
    """A verdict with what is needed to know whose it is."""

    trial_id: str
    """The trial."""
    scorer: str
    """Name of the scorer."""
    settings: str
    """Its settings, JSON."""
    model_id: str
    """Engine or embedder."""
    explanation_id: str | None
    """What was judged; None if the latent was judged without one."""
    control: bool
    """Whether the explanation belongs to another latent."""
    window_id: str
    """The window."""
    item: str
    """What tells items of one window apart."""
    active: bool
    """The right answer."""
    value: float | None
    """The scorer's number."""
    failure: str | None
    """Why there is none."""
    detail: Any
    """What else the scorer says, plain JSON."""


def plain(text: str | None) -> Any:
    """What a JSON column holds; None where it holds no JSON."""
    try:
        return json.loads(text or "null")
    except ValueError:  # another's file
        return None


def glances(db: Database, cache_id: str) -> dict[int, Glance]:
    """Every latent of a cache at a glance."""
    rows = db.execute(
        """select latents.latent, density, n_firings, flags, top_tokens
           from latents left join latent_details
             on latent_details.cache_id = latents.cache_id
             and latent_details.latent = latents.latent
           where latents.cache_id = ?""",
        [cache_id],
    )
    return {
        latent: Glance(density, n_firings, plain(flags), plain(tokens))
        for latent, density, n_firings, flags, tokens in rows
    }


def example_sets_by_latent(db: Database, cache_id: str) -> dict[int, list[str]]:
    """Latent → its example sets, in the order they were drawn; rule-made latents are left out."""
    found: dict[int, list[str]] = {}
    for latent, name in db.execute(
        "select latent, id from example_sets where cache_id = ? and latent >= 0 order by rowid",
        [cache_id],
    ):
        found.setdefault(latent, []).append(name)
    return found


def scored_variants(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """Every way to score with each variant and statistic, as rows; rule-made latents left out."""
    return list(
        db.query(
            """select distinct scorer, scores.settings, model_id, variant, statistic
               from scores join example_sets on example_sets.id = example_set_id
               where cache_id = ? and latent >= 0""",
            [cache_id],
        )
    )


def set_scores(db: Database, example_set_id: str) -> list[dict[str, Any]]:
    """The scores that were made on one example set."""
    rows = db.query(
        "select * from scores where example_set_id = ? order by scorer, settings, variant",
        [example_set_id],
    )
    return [{**row, "metrics": plain(row["metrics"]) or {}} for row in rows]


def set_verdicts(db: Database, example_set_id: str) -> list[Judged]:
    """Every verdict on the windows of one example set, own and controls, trial by trial."""
    rows = db.execute(
        """select trials.id, scorer, settings, coalesce(engine_id, embedder_id), explanation_id,
                  control, window_id, item, active, value, failure, detail
           from trials join verdicts on trial_id = trials.id
           where example_set_id = ? order by scorer, settings, trials.rowid, window_id, item""",
        [example_set_id],
    )
    found = map(Judged._make, rows)
    return [
        each._replace(
            control=bool(each.control), active=bool(each.active), detail=plain(each.detail)
        )
        for each in found
    ]


def set_steerings(db: Database, example_set_id: str) -> list[str]:
    """Ids of the steerings of one example set."""
    rows = db.execute(
        "select id from steerings where example_set_id = ? order by settings, id", [example_set_id]
    )
    return [name for (name,) in rows]


def explaining_costs(db: Database, cache_id: str) -> dict[str, tuple[int, float]]:
    """Explanation → engine tokens and seconds that it took."""
    rows = db.execute(
        """select id, prompt_tokens + output_tokens, seconds from explanations
           where cache_id = ?""",
        [cache_id],
    )
    return {name: (tokens, seconds) for name, tokens, seconds in rows}


def steering_cost(db: Database, cache_id: str) -> tuple[int, float]:
    """How often a latent of a cache was steered, and the seconds that it took."""
    row = db.execute(
        """select count(*), coalesce(sum(seconds), 0) from steerings
           join example_sets on example_sets.id = example_set_id where cache_id = ?""",
        [cache_id],
    )
    return row.fetchone()


def provenance(db: Database, cache_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of what took part: the cache with its subject, coder and corpus, models, prompts, runs.

    Only models and prompts that explained or judged latents of this cache; all runs of the file.
    """
    used = """select explanations.{0} from explanations where cache_id = :cache
              union select trials.{0} from trials
              join example_sets on example_sets.id = example_set_id where cache_id = :cache"""
    judged = """select embedder_id from trials
                join example_sets on example_sets.id = example_set_id where cache_id = :cache"""
    queries = {
        "cache": """select subjects.name as subject, architecture, d_model,
                           subjects.provenance as subject_provenance, coders.name as coder, format,
                           hookpoint, activation, k, d_in, n_latents, fit,
                           coders.provenance as coder_provenance, caches.settings, n_counted,
                           n_masked
                    from caches join coders on coders.id = coder_id
                    join subjects on subjects.id = subject_id where caches.id = :cache""",
        "engines": f"select * from engines where id in ({used.format('engine_id')}) order by name",
        "embedders": f"select * from embedders where id in ({judged}) order by name",
        "prompts": f"select * from prompts where id in ({used.format('prompt_id')}) order by name",
        "runs": "select * from runs where :cache is not null order by id",
    }
    return {name: list(db.query(sql, {"cache": cache_id})) for name, sql in queries.items()}
