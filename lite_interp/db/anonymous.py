"""Which columns of a results file may say where and by whom it was made, and what becomes of them.

Every text column is looked at, but for three kinds: ids and hashes, which are made of hashes; the
texts that are the study itself (`STUDY`); and columns of JSON that hold nothing but numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlite_utils import Database

from lite_interp.anonymizing import Anonymizer, names_in
from lite_interp.db.attaching import FACTS, JSON
from lite_interp.db.ratings import rating_id
from lite_interp.ids import content_id
from lite_interp.records import Question

STUDY = {
    "windows": {"marked", "tokens"},
    "explanations": {"text", "raw", "detail"},
    "prompts": {"text"},
    "continuations": {"prompt", "text"},
    "verdicts": {"detail"},
    "steerings": {"promoted"},
    "latent_details": {"top_tokens", "promoted", "suppressed"},
}
"""Texts of the corpus, of models, of prompts: they are what was found, and stay as they are."""

NUMBERS = {
    "windows": {"acts"},
    "latents": {"histogram"},
    "latent_details": {"quantiles", "flags", "decoder_neighbours", "cofiring_neighbours"},
}
"""JSON of numbers and of words of ours."""

IDS = ("_id", "_ids", "_hash")
"""What names of columns end with that hold hashes."""

PLACES = {
    ("subjects", "name"), ("subjects", "provenance"), ("coders", "name"), ("coders", "provenance"),
    ("corpora", "name"), ("engines", "provenance"), ("embedders", "name"),
    ("embedders", "provenance"), ("conditions", "settings"),
}  # fmt: skip
"""Columns in which any text with a slash may be a path."""

BLANK = {("runs", "argv"): "[]", ("runs", "machine"): "{}"}
"""Columns that are emptied."""

SETTINGS = {"settings", "metrics", "versions"}
"""Columns of JSON in every table."""


def is_kept(table: str, column: str) -> bool:
    """Whether a text column is left as it is."""
    kept = STUDY.get(table, set()) | NUMBERS.get(table, set())
    return column in kept or column == "id" or column.endswith(IDS)


def text_columns(db: Database, schema: str, table: str) -> list[str]:
    """The text columns of a table."""
    rows = db.execute(f"pragma {schema}.table_xinfo('{table}')").fetchall()
    return [name for _, name, kind, *_ in rows if kind.lower() == "text"]


def find_names(db: Database, schema: str) -> set[str]:
    """Users and hosts that paths and addresses of a file give away."""
    found: set[str] = set()
    for table in FACTS:
        for column in text_columns(db, schema, table):
            if is_kept(table, column):
                continue
            rows = db.execute(
                f"""select distinct {column} from {schema}.{table} where instr({column}, '://')
                    or {column} like '%home%' or {column} like '%users%'"""
            )
            for (text,) in rows:
                found |= names_in(text)
    return found


class Hider:
    """Makes the texts of one file anonymous."""

    def __init__(self, db: Database, schema: str, names: Iterable[str]) -> None:
        """Look at the whole file first: who is to be hidden.

        Args:
            db: the connection.
            schema: `main` or what the file is attached as.
            names: users and hosts to take out beside those that the file gives away.
        """
        self._texts = Anonymizer({*names, *find_names(db, schema)})
        self._raters = _rater_names(db, schema)
        self._ratings: dict[str, str] = {}
        files = db.execute(
            f"select file from {schema}.conflicts group by file order by min(found_utc), file"
        )
        self._files = {name: f"file {number}" for number, (name,) in enumerate(files, 1)}

    def column(self, table: str, column: str, value: Any) -> Any:
        """What stands in the place of a value."""
        if not isinstance(value, str) or is_kept(table, column):
            return value
        if (table, column) in BLANK:
            return BLANK[table, column]
        if (table, column) == ("conflicts", "file"):
            return self._files[value]
        if (table, column) == ("ratings", "rater"):
            return self._raters.get(value, "rater")
        places = (table, column) in PLACES
        if column in SETTINGS or column in JSON.get(table, ()):
            return self._texts.json(value, places)
        return self._texts.place(value) if places else self._texts.text(value)

    def row(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row, ids of ratings and what conflicts say of other rows included."""
        if table == "conflicts":
            row = {**row, **self._conflict(row)}
            return {
                name: value if name in ("key", "other") else self.column(table, name, value)
                for name, value in row.items()
            }
        hidden = {name: self.column(table, name, value) for name, value in row.items()}
        if table == "ratings":
            hidden["id"] = _id_of_rating(hidden)
            self._ratings[row["id"]] = hidden["id"]
        return hidden

    def _conflict(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Key and other answer of a conflict; of a rating those that it has now."""
        table, key, other = (row["table_name"], json.loads(row["key"]), json.loads(row["other"]))
        if table == "ratings" and isinstance(other, dict):
            other = self.row(table, other)
            key = {"id": other["id"]}
        elif isinstance(other, dict):
            other = self.row(table, other)
            key = self.row(table, key)
        return {"key": _plain_json(key), "other": _plain_json(other)}


def _plain_json(value: Any) -> str:
    """As `merging` writes it: columns in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _id_of_rating(row: Mapping[str, Any]) -> str:
    asked = Question(
        row["task"],
        row["explanation_id"],
        row["example_set_id"],
        json.loads(row["settings"]),
        row["window_id"],
        row["item"],
    )
    return rating_id(row["rater"], asked)


def _rater_names(db: Database, schema: str) -> dict[str, str]:
    """Rater → `rater` and six digits.

    They are a hash of the person's first answer, which stays in the file: they follow from no name,
    stay the same when the person answers more, and are others' in another file, so that two shared
    files never take two people for one.
    """
    rows = db.execute(
        f"""select rater, task, explanation_id, example_set_id, window_id, item, answer, seconds,
                   answered_utc
            from {schema}.ratings order by answered_utc, rowid"""
    ).fetchall()
    names: dict[str, str] = {}
    for rater, *first in rows:
        if rater not in names:
            asked = ["rater", *first]
            while (name := f"rater {content_id(asked)[3:9]}") in names.values():
                asked.append("another")
            names[rater] = name
    return names
