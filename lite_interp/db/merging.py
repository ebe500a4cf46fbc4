"""Rows of another file, attached as `other`, into this one: those that answer new questions.

A row is new if its key is not here. Rows that were written together are taken together: if this
file has the verdicts of a trial, none is added from elsewhere. A row with another answer stays
out and is noted in `conflicts`; what an answer cost, and on what machine, is no part of it.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db.attaching import FACTS

CIRCUMSTANCES = {
    "name", "provenance", "fit", "seconds", "prompt_tokens", "output_tokens", "batch_tokens",
    "answered_utc",
}  # fmt: skip
"""Columns that may differ though the answer is the same; the first stays. `fit` is measured on the
corpus of the day."""
OF_THIS_FILE = {"caches": {"number", "span"}}
"""Columns that say how this file is laid out."""
WORDS = {"conditions": {"ordinal", "part", "label", "against", "settings"}}
"""Columns that say the question again, with places of this machine in it."""
UNITS = {
    "context_shards": "corpus_id",
    "latents": "cache_id",
    "latent_details": "cache_id",
    "example_set_windows": "example_set_id",
    "verdicts": "trial_id",
    "continuations": "steering_id",
}
"""Tables whose rows are one answer together: those with the same value of this column."""
SAID = {
    "ratings": "theirs.explanation_id",
    "trials": "theirs.explanation_id",
    "verdicts": "(select explanation_id from other.trials where id = theirs.trial_id)",
}
"""Tables of what was said of explanations → SQL, of which: it holds for the words of that file."""
LATER = {"caches": ("n_counted", "n_masked")}
"""Columns that are null until all shards are there."""
NOT_COPIED = ("firings", "cache_shards", "scores", "scorings", "conditions", "conflicts", "runs")
"""Tables that are merged in a way of their own, or computed anew."""
N_LISTED = 1000
"""Conflicts of a file that are listed."""

FOUND = """
create temp table if not exists found (
    table_name text not null, key text not null, other text not null,
    primary key (table_name, key, other)) without rowid
"""


class Conflict(NamedTuple):
    """One question with another answer in another file."""

    table: str
    """Where."""
    key: str
    """Names the question: JSON."""
    file: str
    """Name of the other file."""


class Noted(NamedTuple):
    """The conflicts of one file."""

    n: int
    """All of them."""
    n_new: int
    """Those that had not been noted before."""
    listed: list[Conflict]
    """The first `N_LISTED`; all are in the table `conflicts`."""


class Merged(NamedTuple):
    """What became of the rows of one table."""

    n_new: int
    """Rows that are here now and were not before."""
    n_known: int
    """Rows that were here already, with the same answer."""
    n_conflicts: int
    """Rows with another answer, or for which there is none on one side."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table, as merging takes it."""

    name: str
    """Its name."""
    key: tuple[str, ...]
    """Columns of the primary key."""
    columns: tuple[str, ...]
    """All columns that are stored."""

    @property
    def answers(self) -> list[str]:
        """Columns that make up the answer."""
        rest = CIRCUMSTANCES | OF_THIS_FILE.get(self.name, set()) | WORDS.get(self.name, set())
        return [name for name in self.columns if name not in rest and name not in self.key]

    def same(self, columns: Iterable[str] | None = None) -> str:
        """SQL: the rows `ours` and `theirs` have the same key, or the same of these columns."""
        return " and ".join(f"ours.{name} = theirs.{name}" for name in columns or self.key)

    def differs(self) -> str:
        """SQL: their answers differ."""
        later = LATER.get(self.name, ())
        terms = [
            f"ours.{name} <> theirs.{name}"
            if name in later
            else f"ours.{name} is not theirs.{name}"
            for name in self.answers
        ]
        return " or ".join(terms) or "0"

    def json(self, names: Iterable[str]) -> str:
        """SQL: these columns of `theirs` as JSON."""
        return f"as_json({', '.join(f'{name!r}, theirs.{name}' for name in names)})"

    def key_json(self, alias: str = "theirs") -> str:
        """SQL: the key as JSON."""
        return self.json(self.key).replace("theirs.", f"{alias}.")

    def row_json(self) -> str:
        """SQL: the whole row as JSON, without what is of the other file alone."""
        rest = OF_THIS_FILE.get(self.name, set())
        return self.json(name for name in self.columns if name not in rest)


def prepare(db: Database) -> None:
    """A place for the conflicts of one file, and how a row becomes JSON."""
    db.conn.create_function("as_json", -1, _as_json, deterministic=True)
    db.execute(FOUND)
    db.execute("delete from temp.found")


def _as_json(*pairs: Any) -> str:
    names, values = pairs[::2], pairs[1::2]
    row = {name: _plain(value) for name, value in zip(names, values, strict=True)}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def find_table(db: Database, name: str) -> Table:
    """A table of this file; generated columns are left out."""
    rows = db.execute(f"pragma main.table_xinfo('{name}')").fetchall()
    stored = [row for row in rows if not row[6]]
    keys = sorted((row[5], row[1]) for row in stored if row[5])
    return Table(name, tuple(name for _, name in keys), tuple(row[1] for row in stored))


def copied_tables(db: Database) -> list[Table]:
    """The tables that are merged row by row, parents before children."""
    order: TopologicalSorter[str] = TopologicalSorter()
    for name in FACTS:
        parents = db.execute(f"pragma main.foreign_key_list('{name}')").fetchall()
        order.add(name, *sorted({row[2] for row in parents}))
    return [find_table(db, name) for name in order.static_order() if name not in NOT_COPIED]


def merge_rows(
    db: Database, table: Table, only: str = "1", given: dict[str, Any] | None = None
) -> Merged:
    """Take the new rows of a table, and note those with another answer.

    Args:
        db: this file, with the other one attached.
        table: which table.
        only: SQL, which rows of `theirs` count.
        given: parameters of `only`.
    """
    n_conflicts = note_conflicts(db, table, only, given)
    n_new = copy_rows(db, table, only, given)
    total = db.execute(f"select count(*) from other.{table.name} theirs where {only}", given)
    return Merged(n_new, total.fetchone()[0] - n_new - n_conflicts, n_conflicts)


def note_conflicts(
    db: Database, table: Table, only: str = "1", given: dict[str, Any] | None = None
) -> int:
    """Note the rows that have another answer here; returns how many of theirs."""
    from_both = f"from other.{table.name} theirs join main.{table.name} ours on {table.same()}"
    n = _note(db, table, f"{from_both} where ({only}) and ({table.differs()})", given)
    unit = UNITS.get(table.name)
    if unit is None:
        return n
    # What only one of the two answers holds.
    n += _note(
        db,
        table,
        f"""from other.{table.name} theirs where ({only})
            and exists (select 1 from main.{table.name} ours where {table.same([unit])})
            and not exists (select 1 from main.{table.name} ours where {table.same()})""",
        given,
    )
    db.execute(
        f"""insert or ignore into temp.found
            select '{table.name}', {table.key_json("ours")}, 'null'
            from main.{table.name} ours
            where {unit} in (select {unit} from other.{table.name} theirs where {only})
            and not exists (select 1 from other.{table.name} theirs where {table.same()})""",
        given,
    )
    return n


def _note(db: Database, table: Table, rows: str, given: dict[str, Any] | None) -> int:
    """Note rows of `theirs`; returns how many there are."""
    return db.execute(
        f"""insert into temp.found
            select '{table.name}', {table.key_json()}, {table.row_json()} {rows}""",
        given,
    ).rowcount


def copy_rows(db: Database, table: Table, only: str, given: dict[str, Any] | None) -> int:
    """Take the new rows of a table; returns how many."""
    unit = UNITS.get(table.name)
    names = ", ".join(table.columns)
    return db.execute(
        f"""insert into main.{table.name} ({names}) select {names} from other.{table.name} theirs
            where ({only}) and not exists (select 1 from main.{table.name} ours
                                           where {table.same([unit] if unit else None)})""",
        given,
    ).rowcount


def merge_conditions(db: Database, base: str) -> Merged:
    """Take conditions of grids that are not here, or have the same base; note all others.

    Args:
        db: this file, with the other one attached.
        base: name of the condition that the others of a grid differ from.
    """
    table = find_table(db, "conditions")
    here = "theirs.grid in (select grid from main.conditions)"
    alike = f"""exists (select 1 from main.conditions ours
        join other.conditions bases on ours.grid = bases.grid and ours.name = bases.name
        where bases.grid = theirs.grid and ours.name = :base
        and not ({table.differs().replace("theirs.", "bases.")}))"""
    given = {"base": base}
    n_apart = _note(
        db,
        table,
        f"""from other.conditions theirs where {here} and not {alike} and not exists (
            select 1 from main.conditions ours
            where {table.same()} and not ({table.differs()}))""",
        given,
    )
    merged = merge_rows(db, table, f"not {here} or {alike}", given)
    total = db.execute("select count(*) from other.conditions").fetchone()[0]
    n_conflicts = merged.n_conflicts + n_apart
    return Merged(merged.n_new, total - merged.n_new - n_conflicts, n_conflicts)


def merge_said(db: Database, table: Table) -> Merged:
    """Take what was said of explanations; what is about one that reads otherwise here is noted.

    Args:
        db: this file, with the other one attached.
        table: one of `SAID`, trials before verdicts.
    """
    apart = f"""exists (select 1 from main.explanations ours
        join other.explanations its on its.id = ours.id
        where its.id = {SAID[table.name]} and its.text is not ours.text)"""
    if table.name != "ratings":
        # A trial that is here too is compared as any other row: its verdicts may differ.
        trial = "theirs.id" if table.name == "trials" else "theirs.trial_id"
        apart = f"({apart} and not exists (select 1 from main.trials where id = {trial}))"
    n_apart = _note(db, table, f"from other.{table.name} theirs where {apart}", None)
    merged = merge_rows(db, table, f"not {apart}")
    return merged._replace(n_conflicts=merged.n_conflicts + n_apart)


def n_renamed_ratings(db: Database) -> int:
    """Answers of theirs that are here under another name, given in the same moment."""
    columns = ["task", "explanation_id", "example_set_id", "window_id", "item", "answered_utc"]
    same = " and ".join(f"ours.{name} is theirs.{name}" for name in [*columns, "answer", "seconds"])
    rows = db.execute(
        f"""select count(distinct theirs.id) from other.ratings theirs
            join main.ratings ours on {same} and ours.rater <> theirs.rater"""
    )
    return int(rows.fetchone()[0])


def merge_runs(db: Database) -> Merged:
    """Take the runs that are not here, under new ids."""
    columns = [name for name in find_table(db, "runs").columns if name != "id"]
    names = ", ".join(columns)
    same = " and ".join(f"ours.{name} is theirs.{name}" for name in columns)
    total = db.execute("select count(*) from other.runs").fetchone()[0]
    n_new = db.execute(
        f"""insert into main.runs ({names}) select {names} from other.runs theirs
            where not exists (select 1 from main.runs ours where {same}) order by theirs.id"""
    ).rowcount
    return Merged(n_new, total - n_new, 0)


def store_conflicts(db: Database, file: str) -> Noted:
    """Keep the conflicts that were noted, each once, and those of the other file."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    n_new = db.execute(
        """insert or ignore into main.conflicts
           select table_name, key, other, ?, ? from temp.found""",
        [file, now],
    ).rowcount
    db.execute("insert or ignore into main.conflicts select * from other.conflicts")
    n = db.execute("select count(*) from temp.found").fetchone()[0]
    rows = db.execute(
        "select table_name, key from temp.found order by table_name, key limit ?", [N_LISTED]
    )
    return Noted(n, n_new, [Conflict(table, key, file) for table, key in rows.fetchall()])


def judged_caches(db: Database) -> list[str]:
    """Caches whose explanations or latents were judged."""
    rows = db.execute(
        """select distinct cache_id from trials
           join example_sets on example_sets.id = example_set_id order by cache_id"""
    )
    return [name for (name,) in rows.fetchall()]
