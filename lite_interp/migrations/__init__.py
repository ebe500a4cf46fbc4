"""The schema of a results file: the only place that creates or changes a table.

Append-only: a migration that was released is never edited; a change is a new one.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from lite_interp.migrations.all_scorers import ALL_SCORERS
from lite_interp.migrations.first_schema import FIRST_SCHEMA
from lite_interp.migrations.held_out import HELD_OUT
from lite_interp.migrations.merged import MERGED
from lite_interp.migrations.packed_keys import PACKED_KEYS
from lite_interp.migrations.ratings import RATINGS
from lite_interp.migrations.search_index import SEARCH_INDEX
from lite_interp.migrations.search_prefixes import SEARCH_PREFIXES

APPLICATION_ID = 0x4C495445
"""`LITE` in ASCII: what `PRAGMA application_id` of a results file says."""

SCHEMA_VERSION = 8
"""Number of migrations below: what `PRAGMA user_version` says."""

migrations = Migrations("lite_interp")

TABLES = {
    "subjects": "Language models under study.",
    "coders": "Sparse autoencoders and transcoders, with their fit measured when they were loaded.",
    "corpora": "Documents cut into contexts with one tokenizer.",
    "context_shards": "The tokens of consecutive contexts of a corpus, stored once.",
    "caches": "One corpus seen by one subject through one coder: the question that firings answer.",
    "cache_shards": "Which shards of contexts a cache has finished, and what they cost.",
    "firings": "Where a latent fired in a shard, packed: firing_codec.py says how.",
    "latents": "Statistics of each latent over a whole cache.",
    "latent_details": "What else a cache says about each latent: tokens, lens, neighbours, flags.",
    "window_vectors": "Every window of a corpus as a direction, by one embedder.",
    "windows": "Short stretches of text that people and engines were shown, readable as they are.",
    "example_sets": "What was drawn for one latent: windows to show, to hold out, and to score.",
    "example_set_windows": "Which windows an example set holds, in which role and stratum.",
    "prompts": "Whole prompt files, as they were used.",
    "engines": "Local models that explained and judged, with the settings that change numbers.",
    "embedders": "Sentence-embedding models that were used for scoring.",
    "explanations": "What a latent means, in words, or why there is no answer.",
    "steerings": "The subject steered along a latent: how strongly, and with what effect.",
    "continuations": "What the subject wrote behind a prompt, steered and not.",
    "trials": "One scorer, one explanation, one example set: verdicts that were written together.",
    "verdicts": "One scorer's answer on one window, as it was shown.",
    "scores": "One scorer's number on one explanation with interval and null; from verdicts alone.",
    "scorings": "From how many trials the scores of a cache were computed: whether they are fresh.",
    "ratings": "What people said of explanations, windows and intruders: a row for each answer.",
    "conditions": "Rows of a grid of studies that differ in one thing each: what was compared.",
    "conflicts": "Answers of merged files that differ from those of this one: both are kept.",
    "search_explanations": "Full-text index of the explanations; a virtual table without texts.",
    "search_windows": "Full-text index of the texts of activating windows; the same.",
    "search_texts": "Which texts are in search_windows, by their hash.",
    "search_places": "Which windows have a text of search_windows.",
    "search_vectors": "Explanations as directions, by one embedder, a block of them in a row.",
    "search_marks": "How far the index of search, whose tables begin with search_, has come.",
    "runs": "Commands that wrote to this file: arguments, versions, machine, times.",
}
"""One sentence for each table; docs/schema.md prints them."""


@migrations()
def m001_first_schema(db: Database) -> None:
    """Everything of version 0.1."""
    _run(db, FIRST_SCHEMA)


@migrations()
def m002_all_scorers(db: Database) -> None:
    """Several items of one window, scores without an explanation, steering, latents in detail.

    Scores are dropped: every command that writes them computes them again from the verdicts.
    """
    _run(db, ALL_SCORERS)


@migrations()
def m003_held_out(db: Database) -> None:
    """A third role of windows; a detail of explanations; the conditions of a grid."""
    _run(db, HELD_OUT)


@migrations()
def m004_packed_keys(db: Database) -> None:
    """Short keys for firings, longer shards of wide caches, windows that a reservoir keeps."""
    _run(db, PACKED_KEYS)


@migrations()
def m005_merged(db: Database) -> None:
    """Where answers are kept that differ from those of the file they were merged into."""
    _run(db, MERGED)


@migrations()
def m006_search_index(db: Database) -> None:
    """Full text and meaning of explanations and windows, filled by the first search."""
    _run(db, SEARCH_INDEX)


@migrations()
def m007_ratings(db: Database) -> None:
    """Answers of people."""
    _run(db, RATINGS)


@migrations()
def m008_search_prefixes(db: Database) -> None:
    """An index of beginnings of words; the next search fills it again."""
    _run(db, SEARCH_PREFIXES)


def _run(db: Database, script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            db.execute(statement)
