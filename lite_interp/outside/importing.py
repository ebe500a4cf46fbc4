"""Explanations that others wrote, into the results file, to be scored and compared like ours.

    files ─outside─▶ records ─▶ checked against the cache ─▶ example sets ─▶ explanations

They are put to the windows that most explanations of the file were made for, so that theirs and
ours are judged on the same ones. All are stored, or none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import stages
from lite_interp.db import caches, studies
from lite_interp.db.caches import CacheInfo
from lite_interp.db.file import read_results
from lite_interp.db.runs import open_run
from lite_interp.errors import LiteInterpError, UsageError, one_line
from lite_interp.ids import content_id
from lite_interp.loading import Reporter, cache_tokenizer
from lite_interp.outside.belonging import of_this_coder
from lite_interp.outside.fields import Absent, Flaw, Record
from lite_interp.outside.formats import EXPLAINER, read_outside
from lite_interp.records import Explanation, Usage
from lite_interp.samplers import DrawSettings, example_set_id

N_TOLD = 5
"""Flaws that are told one by one; of the others only how many."""
N_SOURCES_TOLD = 12


class ImportJob(NamedTuple):
    """What is imported, and what of it."""

    paths: Sequence[Path]
    """Files and folders."""
    source: str = ""
    """Who wrote all of it; empty = as the lines say, or the file's name."""
    coder: str = ""
    """What the lines call the coder of the cache, if the files hold several or name it otherwise
    than the cache does: a coder, a hookpoint, or Neuronpedia's source id."""
    seed: int | None = None
    """Seed of the windows' draw; None = that of most example sets of the cache, or 0."""
    skip_bad: bool = False
    """Import the good lines and tell the bad ones."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    subject: str = ""
    """Where the subject is now, if not where it was when the cache was made."""


class Imported(NamedTuple):
    """What became of the explanations of one source."""

    source: str
    """Who wrote them."""
    n_new: int
    """Explanations that are in the file now and were not before."""
    n_known: int
    """Explanations that were there already."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How the example sets are drawn that explanations are put to, and those that are there."""

    settings: DrawSettings
    """Settings of most example sets of the cache."""
    seed: int
    """Seed of these."""
    known: dict[int, str]
    """Latent → its example set of these settings and seed."""

    def example_set_id(self, cache: CacheInfo, latent: int) -> str:
        """The example set of a latent, whether it is drawn yet or not."""
        known = self.known.get(latent)
        return known or example_set_id(cache.id, latent, self.settings, self.seed)


def import_explanations(
    results: Path, wanted: str, job: ImportJob, tell: Reporter
) -> list[Imported]:
    """Store what others say about latents of a cache; returns what became of it, by source.

    A second call with the same files adds nothing.

    Args:
        results: the results file.
        wanted: beginning of the cache's id; empty if there is only one.
        job: what to import.
        tell: who is told.

    Raises:
        LiteInterpError: a file cannot be read, or a line cannot be imported and `skip_bad` is
            not wanted; then nothing is stored.
    """
    found = _read(job, tell)
    with _opened(results, job) as db:
        cache = caches.the_cache(db, wanted)
        records = _good(found, cache, job, tell)
        draw = choose_draw(db, cache, job.seed)
        explanations: dict[str, Explanation] = {}
        for record in records:
            made = make_explanation(record, draw.example_set_id(cache, record.latent))
            explanations.setdefault(made.id, made)
        known = {name for name in explanations if studies.known(db, "explanations", name)}
        new = [each for name, each in explanations.items() if name not in known]
        _tell_silent(db, cache, new, tell)
        _write_examples(db, cache, sorted({each.latent for each in new}), draw, job, tell)
        if not job.dry_run:
            nothing = Usage(0, 0, 0.0)
            studies.store_explanations(db, cache.id, [(each, nothing) for each in new])
    outcome = _by_source(explanations.values(), known)
    _tell_outcome(outcome, job, tell)
    return outcome


def _read(job: ImportJob, tell: Reporter) -> list[Record | Flaw]:
    """What the files hold, before a results file is opened."""
    source = one_line(job.source)
    found: list[Record | Flaw] = []
    n_absent = 0
    for each in (each for path in job.paths for each in read_outside(path)):
        if isinstance(each, Absent):
            n_absent += 1
        elif source and isinstance(each, Record):
            found.append(each._replace(source=source))
        else:
            found.append(each)
    if n_absent:
        tell.say(f"left out: {n_absent:,} lines that say why there is no explanation")
    if not found:
        raise LiteInterpError(
            f"no explanation in: {one_line(', '.join(map(str, job.paths)))}",
            "they hold nothing but blank lines" if not n_absent else "",
        )
    return found


def _opened(results: Path, job: ImportJob) -> AbstractContextManager[Database]:
    return read_results(results) if job.dry_run else open_run(results, "import")


def _good(
    found: Sequence[Record | Flaw], cache: CacheInfo, job: ImportJob, tell: Reporter
) -> list[Record]:
    """What can be imported; the rest is refused, or told if the user wants to skip it."""
    sorted_out = of_this_coder(
        [each for each in found if isinstance(each, Record)], cache, job.coder
    )
    for note in sorted_out.notes:
        tell.say(note)
    place = {each.place: number for number, each in enumerate(found)}
    flaws = [each for each in found if isinstance(each, Flaw)] + sorted_out.flaws
    flaws.sort(key=lambda flaw: place[flaw.place])
    n_good = len(sorted_out.records)
    if flaws:
        told = "; ".join(f"{flaw.place}: {flaw.what}" for flaw in flaws[:N_TOLD])
        more = f"; and {len(flaws) - N_TOLD:,} more" if len(flaws) > N_TOLD else ""
        message = f"{len(flaws):,} of {len(flaws) + n_good:,} cannot be imported: {told}{more}"
        if not job.skip_bad:
            hint = "mend them, or import the others with --skip-bad"
            if any(flaw.what.startswith("another coder") for flaw in flaws):
                hint += "; --layer says what the files call the coder of this cache"
            raise LiteInterpError(one_line(message), hint)
        tell.say(message)
    if not n_good:
        raise LiteInterpError("nothing is left to import")
    return sorted_out.records


def choose_draw(db: Database, cache: CacheInfo, seed: int | None) -> Draw:
    """The settings and seed that most example sets of a cache have; the defaults if it has none.

    Those of rule-made latents do not count. With a seed only its example sets count, and if it
    has none, the settings are those of most others.
    """
    rows = db.query(
        """select id, latent, settings, seed from example_sets
           where cache_id = ? and latent >= 0 order by rowid""",
        [cache.id],
    )
    sets: dict[tuple[DrawSettings, int], dict[int, str]] = {}
    for row in rows:
        key = DrawSettings(**json.loads(row["settings"])), row["seed"]
        sets.setdefault(key, {}).setdefault(row["latent"], row["id"])
    n_sets = Counter({key: len(found) for key, found in sets.items()})
    chosen = Counter({key: n for key, n in n_sets.items() if seed in (None, key[1])})
    if not chosen:
        settings = n_sets.most_common(1)[0][0][0] if n_sets else DrawSettings()
        return Draw(settings, seed or 0, {})
    settings, drawn_with = chosen.most_common(1)[0][0]
    return Draw(settings, drawn_with, sets[settings, drawn_with])


def make_explanation(record: Record, example_set: str) -> Explanation:
    """A record as an explanation that belongs to an example set.

    Its text is part of its name: there is no other question that it answers.
    """
    name = content_id(["explanation", example_set, EXPLAINER, record.source, record.text])
    return Explanation(
        name,
        record.latent,
        example_set,
        EXPLAINER,
        None,
        None,
        {"source": record.source},
        record.text,
        record.raw,
        None,
    )


def _tell_silent(
    db: Database, cache: CacheInfo, explanations: Iterable[Explanation], tell: Reporter
) -> None:
    """Say which latents never fire: no window can speak for what is said about them."""
    silent = {each.latent for each in explanations}
    silent &= set(caches.latents_by_density(db, cache.id, 0.0, 0.0))
    if silent:
        first = ", ".join(map(str, sorted(silent)[:N_SOURCES_TOLD]))
        more = ", …" if len(silent) > N_SOURCES_TOLD else ""
        tell.say(f"latents that never fire, and cannot be scored: {first}{more}")


def _write_examples(
    db: Database,
    cache: CacheInfo,
    latents: Sequence[int],
    draw: Draw,
    job: ImportJob,
    tell: Reporter,
) -> None:
    """Draw the example sets that are not there."""
    unknown = [latent for latent in latents if latent not in draw.known]
    pending = stages.pending_draws(db, cache, unknown, draw.settings, draw.seed)
    if job.dry_run and pending:
        tell.say(f"latents that would get windows first: {len(pending):,}")
    if job.dry_run or not pending:
        return
    tokenizer = cache_tokenizer(cache, job.subject)
    width, embedder_id = draw.settings.width, draw.settings.embedder_id
    source = stages.open_source(db, cache, tokenizer, width, embedder_id)
    if draw.settings.n_near and source.near is None:
        raise UsageError(
            "near windows are wanted, but not all windows of the file are embedded",
            f"`lite-interp explain --latents {pending[0]} --near {draw.settings.n_near}` with the "
            "other settings of this file embeds them",
        )
    done = stages.write_examples(db, cache, source, pending, draw.settings, draw.seed)
    for _ in tell.track(done, len(pending), "drawing windows"):
        pass


def _by_source(explanations: Iterable[Explanation], known: set[str]) -> list[Imported]:
    n_new: Counter[str] = Counter()
    n_known: Counter[str] = Counter()
    for each in explanations:
        (n_known if each.id in known else n_new)[each.settings["source"]] += 1
    return [Imported(name, n_new[name], n_known[name]) for name in sorted({*n_new, *n_known})]


def _tell_outcome(outcome: Sequence[Imported], job: ImportJob, tell: Reporter) -> None:
    done = "to import" if job.dry_run else "imported"
    for each in outcome[:N_SOURCES_TOLD]:
        tell.say(f"{each.source}: {each.n_new:,} {done}, {each.n_known:,} already there")
    if len(outcome) > N_SOURCES_TOLD:
        n_new, n_known = (sum(column) for column in list(zip(*outcome, strict=True))[1:])
        tell.say(f"… {len(outcome):,} sources in all: {n_new:,} {done}, {n_known:,} already there")
    if not job.dry_run:
        tell.say("next: `lite-interp score --explainer import`")
