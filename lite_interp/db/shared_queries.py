"""Questions that a shared file answers at once, for a browser of databases: named SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lite_interp.db.plain_views import literal
from lite_interp.db.shared_views import ScoreColumn

MOST_ROWS = 500


class Query(NamedTuple):
    """A question with its answer in SQL; `:words` are asked for."""

    name: str
    """What its address ends with."""
    title: str
    """The question."""
    told: str
    """How to read the answer, and what to type; empty if that is plain."""
    sql: str
    """One select statement."""


def make_queries(ways: Sequence[ScoreColumn]) -> list[Query]:
    """All questions for a file with these ways to score."""
    judged = [way.way.scorer for way in ways if not way.of_latent]
    plain = next((name for name in judged if name.isidentifier()), "detection")
    by_window = ("detection", "fuzzing", "embedding", "surprisal")
    margins = next((name for name in judged if name in by_window), plain)
    return [
        Query(
            "worst_explanations",
            "Worst explanations",
            f"Lowest raw scores first. scorer: its name; empty = {plain}.",
            f"""select latent, explainer, explanation, scorer, value, null_value, difference,
  q_value, n_active, n_silent, judge
from v_scores
where variant = 'raw' and value is not null
  and scorer = coalesce(nullif(:scorer, ''), {literal(plain)})
order by value, latent limit {MOST_ROWS}""",
        ),
        Query(
            "density_against_score",
            "Density against score",
            f"A point for each explanation. scorer: its name; empty = {plain}.",
            f"""select density, value, latent, explainer, explanation, null_value
from v_scores
where variant = 'raw' and value is not null
  and scorer = coalesce(nullif(:scorer, ''), {literal(plain)})
order by density desc, latent""",
        ),
        _mistakes(margins),
        *FIXED,
    ]


def _mistakes(margins: str) -> Query:
    """Windows that a judge was wrong about; of the scorer `margins` if none is named."""
    return Query(
        "mistakes_of_the_judge",
        "Mistakes of the judge",
        "Under the latent's own explanation: activating windows that it believed least, silent "
        "ones it believed most. wrong: 1 = last of its trial. "
        f"scorer: its name; empty = {margins}. latent: one; empty = all.",
        # Verdicts alone are ranked: with their texts it would take too long.
        f"""with asked as (
  select trials.id, latent, explanation_id, trials.example_set_id, engine_id, embedder_id
  from trials join example_sets on example_sets.id = trials.example_set_id
  where control = 0 and latent >= 0
    and scorer = coalesce(nullif(:scorer, ''), {literal(margins)})
    and (:latent = '' or latent = cast(:latent as integer))
), placed as (
  select trial_id, window_id, active, value,
    percent_rank() over (partition by trial_id order by value) as place
  from verdicts
  where value is not null and trial_id in (select id from asked)
), mistakes as (
  select *, round(case active when 1 then 1 - place else place end, 3) as wrong
  from placed
  where (active = 1) = (place < 0.5)
  order by wrong desc, trial_id limit {MOST_ROWS}
)
select asked.latent, explanations.text as explanation, marked as text,
  case active when 1 then 'active' else 'silent' end as truth, round(value, 3) as value, wrong,
  (select stratum from example_set_windows each
   where each.example_set_id = asked.example_set_id and role = 'scored'
   and each.window_id = mistakes.window_id) as stratum,
  coalesce(engines.name, embedders.name) as judge
from mistakes join asked on asked.id = trial_id join windows on windows.id = window_id
left join explanations on explanations.id = explanation_id
left join engines on engines.id = asked.engine_id
left join embedders on embedders.id = asked.embedder_id
order by wrong desc, asked.latent""",
    )


FIXED = (
    Query(
        "latents_on_token",
        "Latents that fire on a token",
        "token: as it is written, without blanks around it. share: of the latent's activation.",
        f"""select latent, round(json_extract(each.value, '$[1]'), 4) as share,
  (select text from explanations where explanations.cache_id = latent_details.cache_id
   and explanations.latent = latent_details.latent and text is not null
   order by explanations.rowid desc limit 1) as explanation,
  density, n_firings, coders.name as coder
from latent_details join json_each(top_tokens) as each
join latents using (cache_id, latent)
join caches on caches.id = cache_id join coders on coders.id = coder_id
where instr(top_tokens, trim(json_quote(:token), '"')) and :token <> ''
  and trim(json_extract(each.value, '$[0]')) = trim(:token)
order by share desc, latent limit {MOST_ROWS}""",
    ),
    Query(
        "windows_of_a_latent",
        "Windows of a latent",
        "latent: its index. Shown windows first, strongest first.",
        """select role, stratum, peak, text, coder, window_id
from v_windows
where latent = cast(:latent as integer)
group by role, window_id
order by coder, role desc, peak desc""",
    ),
    Query(
        "score_by_explainer",
        "Score by explainer",
        "Raw scores, means over explanations. n_certain: above the null, q < .05.",
        """select explainer, scorer, judge, statistic, count(value) as n_scores,
  round(avg(value), 4) as mean, round(avg(null_value), 4) as mean_null,
  round(avg(difference), 4) as mean_difference,
  sum(q_value < 0.05 and difference > 0) as n_certain, sum(n_failed) as n_failed,
  sum(tokens) as tokens, round(sum(seconds), 1) as seconds, settings
from v_scores
where variant = 'raw'
group by explainer, scorer, settings, judge, statistic
order by scorer, settings, mean desc""",
    ),
    Query(
        "same_words",
        "Explanations that several latents share",
        "Words that say so little that they fit several.",
        f"""select explanation, count(distinct latent) as n_latents,
  group_concat(latent, ', ') as latents
from v_explanations
where explanation is not null
group by explanation
having n_latents > 1
order by n_latents desc, explanation limit {MOST_ROWS}""",
    ),
    Query(
        "cost_of_commands",
        "What each command cost",
        "",
        """select command, started_utc,
  round(86400 * (julianday(ended_utc) - julianday(started_utc))) as seconds, outcome
from runs
order by id""",
    ),
    Query(
        "cost_of_methods",
        "What explaining and scoring cost",
        "Trials with controls. tokens: of the engine.",
        """select 'explain' as stage, explainer as method, count(*) as n,
  sum(prompt_tokens + output_tokens) as tokens, round(sum(seconds), 1) as seconds
from explanations group by explainer
union all
select 'score', scorer, count(*), sum(prompt_tokens + output_tokens), round(sum(seconds), 1)
from trials group by scorer
union all
select 'steer', settings, count(*), 0, round(sum(seconds), 1) from steerings group by settings
order by 1, 5 desc""",
    ),
)
