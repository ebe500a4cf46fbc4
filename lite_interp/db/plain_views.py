"""Views of a shared file that are the same in every file: scores, windows, verdicts, raters."""

from __future__ import annotations

from typing import NamedTuple


def quoted_name(name: str) -> str:
    """A name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text for SQL; it may hold no NUL."""
    return "'" + text.replace("'", "''") + "'"


class Column(NamedTuple):
    """A column of a view."""

    name: str
    """What it is called."""
    sql: str
    """What it holds."""
    told: str
    """The same for people."""
    unit: str = ""
    """As Datasette knows it: `s`."""


class View(NamedTuple):
    """A view, and how it is shown."""

    name: str
    """What it is called."""
    told: str
    """One sentence."""
    columns: tuple[Column, ...]
    """Its columns."""
    rows: str
    """SQL, from `from` on."""
    facets: tuple[str, ...] = ()
    """Columns with few values, to filter by."""
    sort_down: str = ""
    """Column that it is sorted by, greatest first; empty = as the rows lie."""

    @property
    def sql(self) -> str:
        """The statement that makes it."""
        names = (f"{each.sql} as {quoted_name(each.name)}" for each in self.columns)
        return f"create view {self.name} as select\n    " + ",\n    ".join(names) + self.rows


CODER = Column("coder", "coders.name", "sparse coder")
OF_CACHE = """
join caches on caches.id = {0}.cache_id join coders on coders.id = caches.coder_id"""
JUDGE = "coalesce(engines.name, embedders.name)"
SCORES = View(
    "v_scores",
    "A row for each score, with the explanation that it is about.",
    (
        Column("latent", "example_sets.latent", "index of the latent"),
        Column("explainer", "explainer", "who wrote the explanation; null: judged without one"),
        Column("explanation", "explanations.text", "what was judged"),
        Column("scorer", "scorer", "how it was judged"),
        Column("variant", "variant", "reading of the verdicts: raw, relative, per_token"),
        Column("statistic", "statistic", "what the number is: auroc, pearson, nats, accuracy"),
        *(
            Column(name, name, told)
            for name, told in (
                ("value", "the score"),
                ("low", "lower end of its 95 % interval"),
                ("high", "upper end of its 95 % interval"),
                ("null_value", "the same number for other latents' explanations"),
                ("difference", "value less null, paired by window"),
                ("difference_low", "lower end of its 95 % interval"),
                ("difference_high", "upper end of its 95 % interval"),
                ("p_value", "one-sided: no better than its null"),
                ("q_value", "the same over latents, by Benjamini and Hochberg"),
                ("n_active", "activating windows"),
                ("n_silent", "silent windows"),
                ("n_failed", "items without an answer"),
                ("n_controls", "explanations of other latents that the null is made of"),
                ("reason", "why there is no value"),
                ("tokens", "engine tokens, controls included"),
            )
        ),
        Column("seconds", "scores.seconds", "time that it took, controls included", "s"),
        Column("judge", JUDGE, "engine or embedder"),
        Column("settings", "scores.settings", "settings of the scorer, JSON"),
        Column("coder", "coders.name", "sparse coder"),
        Column("density", "latents.density", "firings of the latent per counted position"),
        Column("explanation_id", "explanation_id", "key in explanations"),
    ),
    f"""
from scores join example_sets on example_sets.id = scores.example_set_id
{OF_CACHE.format("example_sets")}
left join latents
  on latents.cache_id = example_sets.cache_id and latents.latent = example_sets.latent
left join explanations on explanations.id = explanation_id
left join engines on engines.id = model_id left join embedders on embedders.id = model_id
where example_sets.latent >= 0""",
    ("scorer", "variant", "explainer", "judge", "coder"),
)

WINDOWS = View(
    "v_windows",
    "A row for each window of an example set; << >> stand around the tokens that activate.",
    (
        Column("latent", "example_sets.latent", "index of the latent"),
        Column("role", "role", "shown to the explainer, held out for it, or kept for scoring"),
        Column("stratum", "stratum", "activation decile, or kind of silent window"),
        Column("peak", "max_value", "greatest activation in it; 0: the latent is silent"),
        Column("text", "marked", "the text, marked"),
        Column("ordinal", "ordinal", "place in its role"),
        Column("weight", "weight", "windows of the stratum that this one stands for"),
        Column("context", "context", "context of the corpus, from 0"),
        Column("start", "start", "first token of it in the context"),
        Column("sampler", "sampler", "how the set was drawn"),
        Column("coder", "coders.name", "sparse coder"),
        Column("window_id", "windows.id", "key in windows"),
        Column("example_set_id", "example_sets.id", "key in example_sets"),
    ),
    f"""
from example_sets{OF_CACHE.format("example_sets")}
join example_set_windows on example_set_id = example_sets.id
join windows on windows.id = window_id
where example_sets.latent >= 0""",
    ("role", "stratum", "sampler", "coder"),
)

VERDICTS = View(
    "v_verdicts",
    "What a judge said of one window: the right answer beside its own.",
    (
        Column("latent", "example_sets.latent", "latent whose windows were judged"),
        Column("scorer", "scorer", "how it was asked"),
        Column("explanation", "explanations.text", "explanation that was judged; null: none"),
        Column("text", "windows.marked", "the window, marked as the latent fires"),
        Column("item", "item", "tells items of one window apart"),
        Column("truth", "case active when 1 then 'active' else 'silent' end", "right answer"),
        Column("value", "value", "what the judge said, in the scorer's unit"),
        Column("whose", "case control when 1 then 'control' else 'own' end",
               "own: the latent's explanation; control: another latent's, part of the null"),
        Column("stratum", """(select stratum from example_set_windows placed
        where placed.example_set_id = trials.example_set_id and role = 'scored'
        and placed.window_id = verdicts.window_id limit 1)""",
               "activation decile, or kind of silent window"),
        Column("failure", "verdicts.failure", "why there is no answer"),
        Column("judge", JUDGE, "engine or embedder"),
        Column("detail", "verdicts.detail", "what else it said, JSON"),
        Column("trial_id", "trial_id", "key in trials"),
        Column("window_id", "window_id", "key in windows"),
    ),
    """
from verdicts join trials on trials.id = trial_id
join example_sets on example_sets.id = trials.example_set_id
join windows on windows.id = window_id
left join explanations on explanations.id = trials.explanation_id
left join engines on engines.id = trials.engine_id
left join embedders on embedders.id = trials.embedder_id
where example_sets.latent >= 0""",
    ("scorer", "truth", "whose", "stratum", "failure", "judge"),
)  # fmt: skip

RATERS = View(
    "v_raters",
    "What each person answered of each task.",
    (
        Column("number", "dense_rank() over (order by begun, ratings.rater)", "number, by time"),
        Column("rater", "ratings.rater", "who"),
        Column("task", "task", "what was asked"),
        Column("n_answers", "count(*)", "answers"),
        Column("share_right", "avg(case when right_answer is not null"
               " then answer = right_answer end)", "share of right answers; null: opinions"),
        Column("mean_answer", "avg(case when task <> 'intruder' then answer end)",
               "mean of ratings 1 to 4, or share of yes; null: places"),
        Column("seconds", "sum(seconds)", "time that it took", "s"),
        Column("first_utc", "min(answered_utc)", "first answer, UTC"),
        Column("last_utc", "max(answered_utc)", "last answer, UTC"),
    ),
    """
from ratings join (select rater, min(answered_utc) as begun from ratings group by rater) firsts
  on firsts.rater = ratings.rater
group by ratings.rater, begun, task""",
    ("task",),
)  # fmt: skip
