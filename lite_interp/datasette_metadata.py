"""What Datasette is told about a shared file: titles, columns, facets, questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database

from lite_interp.db.caches import load_caches
from lite_interp.db.plain_views import View
from lite_interp.db.shared_queries import make_queries
from lite_interp.db.shared_views import score_columns
from lite_interp.db.sharing import NOT_SHARED
from lite_interp.errors import one_line
from lite_interp.migrations import TABLES
from lite_interp.migrations.search_index import INDEX_TABLES

HIDDEN = (*NOT_SHARED, *INDEX_TABLES, "cache_shards", "scorings", "_sqlite_migrations")
"""Tables that say nothing to people."""

STYLE = (
    "dl.column-descriptions{columns:16em;font-size:.85em}"
    "dl.column-descriptions dt{break-after:avoid}"
    "td.col-explanation,td.col-text{min-width:22em}"
)
"""So that what columns mean does not push the rows off the screen, and texts have room."""

SEVERAL_LINES = re.compile(r"(?m)^\s*(\w+) (?:text|integer|real|blob)\b.*?--\s*(.+)$")
WITHIN_A_LINE = re.compile(r"(\w+) (?:text|integer|real|blob)\b[^,/]*/\*\s*(.+?)\s*\*/")

UNITS = {"seconds": "s"}
"""Column → unit, as Datasette knows it."""

FACETS = {
    "windows": ("cache_id",),
    "example_sets": ("sampler",),
    "example_set_windows": ("role", "stratum"),
    "explanations": ("explainer", "engine_id", "prompt_id", "failure"),
    "steerings": ("failure",),
    "trials": ("scorer", "control", "engine_id", "embedder_id"),
    "verdicts": ("active", "failure"),
    "scores": ("scorer", "variant", "statistic"),
    "ratings": ("task", "rater"),
    "conditions": ("grid", "part"),
    "conflicts": ("table_name",),
    "runs": ("command", "outcome"),
}
"""Columns with few values."""

LABELS = {"explanations": "text", "windows": "marked", "trials": "scorer", "example_sets": "latent"}
"""Column that stands for a row where others refer to it; a `name` does so anyway."""

SORTED_DOWN = {"latents": "density", "windows": "max_value", "runs": "id"}
"""Column that a table is sorted by, greatest first."""


def column_comments(schema: str) -> dict[str, str]:
    """Column → what the statement that makes a table says of it."""
    return dict(SEVERAL_LINES.findall(schema)) | dict(WITHIN_A_LINE.findall(schema))


def make_metadata(db: Database, name: str, views: Sequence[View]) -> dict[str, Any]:
    """The metadata of a shared file, for `datasette -m`.

    Args:
        db: the file.
        name: its name without ending, as Datasette calls it.
        views: what `shared_views.add_views` put into it.
    """
    caches = load_caches(db)
    what = "; ".join(f"{each.coder_name} on {each.corpus.name}" for each in caches)
    tables = {table: _table(db, table) for table in [*TABLES, "_sqlite_migrations"]}
    tables |= {view.name: _view(view) for view in views}
    queries = {
        query.name: {
            "title": query.title,
            "description": query.told,
            "sql": query.sql,
            "hide_sql": True,
        }
        for query in make_queries(score_columns(db))
    }
    return {
        "title": f"lite-interp: {one_line(name)}",
        "description": "Latents of sparse autoencoders: explanations, windows, verdicts, scores.",
        "extra_css_urls": [f"data:text/css,{quote(STYLE)}"],
        "databases": {
            name: {
                "description": f"{one_line(what)}. The views, whose names begin with v_, are for "
                "reading; the tables are what they are made of.",
                "tables": tables,
                "queries": queries,
            }
        },
    }


def _table(db: Database, name: str) -> dict[str, Any]:
    told: dict[str, Any] = {"description": TABLES.get(name, "Which changes of tables it has seen.")}
    if name in HIDDEN:
        return {**told, "hidden": True}
    known = db[name].columns_dict
    comments = column_comments(db[name].schema)
    told["columns"] = {column: comments[column] for column in known if column in comments}
    told["units"] = {column: unit for column, unit in UNITS.items() if column in known}
    told["facets"] = list(FACETS.get(name, ()))
    if name in LABELS:
        told["label_column"] = LABELS[name]
    if name in SORTED_DOWN:
        told["sort_desc"] = SORTED_DOWN[name]
    return told


def _view(view: View) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": view.told,
        "columns": {column.name: column.told for column in view.columns},
        "units": {column.name: column.unit for column in view.columns if column.unit},
        "facets": list(view.facets),
    }
    if view.sort_down:
        told["sort_desc"] = view.sort_down
    return told
