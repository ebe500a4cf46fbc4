"""Several results files into one: parts of a study, several raters, several studies.

Rows are named by their questions, so merging is adding the answers that are not there yet. It
does not matter in which order files come, and a file that is merged twice adds nothing. Where two
files answer one question differently, the answer that is there stays and the other is noted in
the table `conflicts`. Scores are not merged: they are computed again from all verdicts.

A file is merged in one transaction, all or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import analysis
from lite_interp.db import cached, caches, merging, merging_caches
from lite_interp.db.attaching import attached, copy_file, refuse_other
from lite_interp.db.merging import Merged, Noted
from lite_interp.db.merging_caches import CacheState
from lite_interp.db.runs import open_run
from lite_interp.errors import UsageError, one_line
from lite_interp.grid.conditions import BASE
from lite_interp.loading import Reporter
from lite_interp.terminal import duration

NONE = Merged(0, 0, 0)
N_TOLD = 10
"""Conflicts of a file that are told one by one; all of them are in the table `conflicts`."""


class MergedFile(NamedTuple):
    """What became of one file."""

    file: str
    """Its name."""
    n_bytes: int
    """Its size."""
    seconds: float
    """How long it took."""
    tables: dict[str, Merged]
    """Table → its rows; only tables that have any."""
    conflicts: Noted
    """Questions that it answers otherwise."""
    notes: list[str]
    """What was left out, and why."""

    @property
    def rows_per_second(self) -> float:
        """Rows that were taken or compared."""
        n_rows = sum(map(sum, self.tables.values()))
        return n_rows / max(self.seconds, 1e-3)


class Outcome(NamedTuple):
    """What became of all of it."""

    files: list[MergedFile]
    """One by one."""
    bytes_before: int
    """Size of the results file; 0 if it was not there."""
    bytes_after: int
    """Size of the results file now."""
    seconds: float
    """How long it took, scores included."""
    notes: list[str]
    """Caches that are not complete, and what ends them."""


class CachePlan(NamedTuple):
    """What is taken of a cache that another file has."""

    shards: bool
    """Its shards that are not here, with their firings."""
    statistics: bool
    """What is counted over all shards, where nothing is here."""
    note: str = ""
    """What is left out, and why."""


def merge_files(
    results: Path, others: Sequence[Path], tell: Reporter, *, dry_run: bool = False
) -> Outcome:
    """Bring other files into a results file, one after the other.

    Args:
        results: the results file; made if it is not there.
        others: the files; they are only read.
        tell: who is told.
        dry_run: do it in a temporary copy of the results file.

    Raises:
        UsageError: a file is named twice.
        ResultsError: a file cannot be merged: then nothing of it was; or the results file cannot
            be written.
    """
    _refuse_repeated(results, others)
    for path in others:
        refuse_other(path)
    started, before = time.monotonic(), _size(results)
    with ExitStack() as stack:
        place = results
        if dry_run:
            place = Path(stack.enter_context(TemporaryDirectory())) / "copy.db"
            if before:
                refuse_other(results)
                copy_file(results, place)
        with open_run(place, "merge", create=True) as db:
            done = tell.track(_merge_each(db, others), len(others), "merging")
            files = [_told(each, tell) for each in done]
            judged = merging.judged_caches(db)
            if any(each.tables.get("trials", NONE).n_new for each in files):
                tell.say("computing the scores from all verdicts")
            for name in judged:
                analysis.write_scores(db, name)
            notes = [note for cache in caches.load_caches(db) if (note := _unfinished(db, cache))]
        after = _size(place)
    outcome = Outcome(files, before, after, time.monotonic() - started, notes)
    _tell_outcome(results, outcome, dry_run, tell)
    return outcome


def _refuse_repeated(results: Path, others: Sequence[Path]) -> None:
    seen = [results]
    for path in others:
        for known in seen:
            if path.resolve() == known.resolve() or _is_same(path, known):
                what = "into itself" if known is results else "twice"
                raise UsageError(f"a file cannot be merged {what}: {one_line(path)}")
        seen.append(path)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _merge_each(db: Database, others: Sequence[Path]) -> Iterator[MergedFile]:
    for path in others:
        started = time.monotonic()
        merging.prepare(db)
        with attached(db, path):
            tables, notes = merge_attached(db)
            conflicts = merging.store_conflicts(db, path.name)
        tables = {name: each for name, each in tables.items() if any(each)}
        seconds = time.monotonic() - started
        yield MergedFile(one_line(path), _size(path), seconds, tables, conflicts, notes)


def merge_attached(db: Database) -> tuple[dict[str, Merged], list[str]]:
    """Take what is new of the file that is attached; returns counts by table, and notes."""
    counts: dict[str, Merged] = {}
    foreign = merging_caches.foreign_cuts(db)
    notes: list[str] = []
    for table in merging.copied_tables(db):
        if table.name == "caches":
            counts["caches"] = merging_caches.add_caches(db)
        elif table.name in ("latents", "latent_details"):
            continue
        elif table.name in merging.SAID:
            counts[table.name] = merging.merge_said(db, table)
        elif table.name == "window_vectors":
            counts[table.name] = merging.merge_rows(db, table, merging_caches.SAME_CUT)
        else:
            counts[table.name] = merging.merge_rows(db, table)
    here, there = (merging_caches.cache_states(db, schema) for schema in ("main", "other"))
    for name, theirs in there.items():
        found, note = _merge_cache(db, here[name], theirs, name in foreign)
        for table, merged in found.items():
            known = counts.get(table, NONE)
            counts[table] = Merged(*map(sum, zip(known, merged, strict=True)))
        notes += [note] if note else []
    if n_renamed := merging.n_renamed_ratings(db):
        notes.append(
            f"{n_renamed:,} answers are here under another name too, and count twice: "
            "was one of the files made anonymous?"
        )
    counts["conditions"] = merging.merge_conditions(db, BASE)
    counts["runs"] = merging.merge_runs(db)
    return counts, notes


def plan_cache(ours: CacheState, theirs: CacheState, is_foreign: bool) -> CachePlan:
    """What can be taken of a cache; `is_foreign`: its corpus is cut into other shards there."""
    is_fresh = not ours.n_shards and not ours.is_counted
    left_out = "its firings there are left out"
    if is_foreign:
        note = f"its corpus is cut into other shards there: {left_out}"
        return CachePlan(False, is_fresh, note if theirs.has_firings else "")
    if is_fresh:
        return CachePlan(True, True)
    if ours.n_shards and theirs.n_shards and ours.span != theirs.span:
        note = f"its shards hold {theirs.span} of the corpus's there and {ours.span} here"
        return CachePlan(False, False, f"{note}: {left_out}")
    if theirs.is_counted and not theirs.has_firings:
        note = "" if ours.is_counted else "it is complete there, but without firings: left out"
        return CachePlan(False, ours.is_counted, note)
    if ours.is_counted and not ours.has_firings and not theirs.is_counted:
        return CachePlan(False, False, f"it is complete here, without firings: {left_out}")
    # What a reservoir kept of all shards is not mixed with single shards, nor needs them.
    return CachePlan(not ours.is_thinned, True)


def _merge_cache(
    db: Database, ours: CacheState, theirs: CacheState, is_foreign: bool
) -> tuple[dict[str, Merged], str]:
    plan = plan_cache(ours, theirs, is_foreign)
    n_shards, n_firings, disagree = 0, 0, (0, 0)
    if ours.n_shards and ours.span == theirs.span and not is_foreign:
        disagree = merging_caches.compare_shards(db, ours, theirs)
    if any(disagree) and plan.shards:
        what = "its statistics there are left out"
        if theirs.is_thinned and not ours.is_thinned:
            plan, what = plan._replace(shards=False), "it is left out"
        plan = plan._replace(statistics=False, note=f"its shards here and there disagree: {what}")
    if plan.shards:
        n_shards, n_firings = merging_caches.take_shards(db, ours, theirs)
    total = merging_caches.count_theirs(db, theirs)
    counts = {
        "cache_shards": Merged(n_shards, theirs.n_shards - n_shards - disagree[0], disagree[0]),
        "firings": Merged(n_firings, max(0, total - n_firings - disagree[1]), disagree[1]),
    }
    for table in ("latents", "latent_details"):
        counts[table] = merging_caches.merge_statistics(db, ours.id, table, plan.statistics)
    if plan.statistics and theirs.is_counted:
        merging_caches.count_as_there(db, ours.id)
    return counts, f"{theirs.name} ({ours.id[3:11]}): {plan.note}" if plan.note else ""


def _unfinished(db: Database, cache: caches.CacheInfo) -> str:
    if cache.n_counted is not None:
        return ""
    name = f"{cache.coder_name} on {cache.corpus.name} ({cache.id[3:11]})"
    n_shards, missing = cached.n_shards(db, cache), len(cached.pending_shards(db, cache))
    if not n_shards:
        return f"{name}: its corpus is not in this file"
    if missing:
        return f"{name}: {missing} of {n_shards} shards are not in this file"
    return (
        f"{name}: all shards are here but not counted: the same `lite-interp cache` command "
        "without --shard ends it"
    )


def _told(each: MergedFile, tell: Reporter) -> MergedFile:
    n_new, n_known, _ = map(sum, zip(NONE, *each.tables.values(), strict=True))
    tell.say(
        f"{each.file} ({_megabytes(each.n_bytes)}): {n_new:,} rows new, {n_known:,} already there,"
        f" {each.conflicts.n:,} conflicts; {each.seconds:.1f} s, {each.rows_per_second:,.0f} rows/s"
    )
    for note in each.notes:
        tell.say(f"  {note}")
    for conflict in each.conflicts.listed[:N_TOLD]:
        tell.say(f"  another answer: {conflict.table} {conflict.key}")
    if each.conflicts.n:
        more = each.conflicts.n - N_TOLD
        rest = f"{more:,} more, and " if more > 0 else ""
        tell.say(f"  {rest}all of them are kept in the table `conflicts`")
    return each


def _tell_outcome(results: Path, outcome: Outcome, dry_run: bool, tell: Reporter) -> None:
    for note in outcome.notes:
        tell.say(note)
    tell.say(
        f"{one_line(results)}: {_megabytes(outcome.bytes_before)} → "
        f"{_megabytes(outcome.bytes_after)} in {duration(outcome.seconds)}"
    )
    if dry_run:
        tell.say("nothing was changed: that is what would be done")


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def records(outcome: Outcome) -> Iterator[dict[str, object]]:
    """The outcome for machines: a record for each file, each listed conflict, and the whole."""
    for each in outcome.files:
        yield {
            "kind": "file",
            "file": each.file,
            "bytes": each.n_bytes,
            "seconds": round(each.seconds, 3),
            "rows_per_second": round(each.rows_per_second),
            "tables": {name: merged._asdict() for name, merged in sorted(each.tables.items())},
            "n_conflicts": each.conflicts.n,
            "n_new_conflicts": each.conflicts.n_new,
            "notes": each.notes,
        }
        for conflict in each.conflicts.listed:
            yield {"kind": "conflict", **conflict._asdict()}
    yield {
        "kind": "results",
        "bytes_before": outcome.bytes_before,
        "bytes_after": outcome.bytes_after,
        "seconds": round(outcome.seconds, 3),
        "n_conflicts": sum(each.conflicts.n for each in outcome.files),
        "notes": outcome.notes,
    }
