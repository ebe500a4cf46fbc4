"""One export: look at the file, write beside the place that is wanted, give it its name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lite_interp.db.caches import the_cache
from lite_interp.db.file import read_results
from lite_interp.errors import LiteInterpError, UsageError, nearest, one_line
from lite_interp.export.base import Export, ExportJob, open_export
from lite_interp.export.formats import FORMATS, Format
from lite_interp.export.writing import refuse_place, size_of, staged

if TYPE_CHECKING:
    from lite_interp.loading import Reporter


class Exported(NamedTuple):
    """What was written."""

    format: str
    """Name of the format."""
    path: str
    """File or folder."""
    n_files: int
    """Files."""
    n_bytes: int
    """Their bytes."""
    left_out: tuple[str, ...]
    """What the format does not hold, a line each."""


def export_results(results: Path, wanted: str, job: ExportJob, tell: Reporter) -> Exported:
    """Write a cache of a results file in the format of another tool.

    Args:
        results: the results file; it is only read.
        wanted: beginning of the cache's id; empty if there is only one.
        job: the format, where to, and what.
        tell: who is told.

    Raises:
        UsageError: no such format or latent, or something is at the place already.
        LiteInterpError: it cannot be written, or the file lacks what the format wants; then
            nothing is left behind.
    """
    if job.format not in FORMATS:
        raise UsageError(f"no such format: {one_line(job.format)}", nearest(job.format, FORMATS))
    kind, out = FORMATS[job.format], Path(job.out)
    if kind.below is None:
        refuse_place(out, job.force)
    with read_results(results) as db:
        export = open_export(db, the_cache(db, wanted), job, tell)
        made: list[Path] = []
        try:
            place = _place(export, kind, out, made)
            with staged(place, job.force) as new:
                if kind.is_folder:
                    new.mkdir()
                kind.write(export, new)
        except BaseException:
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()
            raise
    left_out = (kind.lost, *export.lost)
    done = Exported(job.format, str(place), *size_of(place), left_out)
    tell.say(f"{place}: {done.n_files:,} files, {done.n_bytes:,} bytes")
    for line in left_out:
        tell.say(f"not in it: {line}" if line == kind.lost else f"note: {line}")
    return done


def _place(export: Export, kind: Format, out: Path, made: list[Path]) -> Path:
    """Where the export stands; folders above it are made, and named in `made`."""
    if kind.below is None:
        return out
    place = out / kind.below(export)
    if not out.absolute().parent.is_dir():
        raise LiteInterpError(f"no such folder: {one_line(out.parent)}", "make it first")
    try:
        for folder in reversed(place.parents):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
    except OSError as error:
        raise LiteInterpError(
            f"cannot be written: {one_line(out)}: {one_line(error.strerror or error)}"
        ) from error
    return place
