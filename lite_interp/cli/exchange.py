"""The command that brings in what others made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli.options import CacheId, Results, SubjectPlace


def import_explanations(
    results: Results,
    files: Annotated[list[Path], typer.Argument(help="Files or folders.", show_default=False)],
    source: Annotated[
        str, typer.Option(help="Who wrote them; empty = as the lines say, or the file's name.")
    ] = "",
    layer: Annotated[
        str, typer.Option(help="What the files call this cache's coder, e.g. 9-res-16k.")
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good lines, tell the bad.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and end.")
    ] = False,
    subject: SubjectPlace = "",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the windows; left out = as most of the file.", min=0),
    ] = None,
    cache: CacheId = "",
) -> None:
    """Explanations by people or other tools → the file, to be scored and compared like ours.

    JSON lines and tables name `latent` (or `index`, `feature`), `explanation` (or `description`,
    `text`) and perhaps `source` and `coder`; Neuronpedia's `explanations/batch-<n>.jsonl.gz` are
    read as they are, and so is Delphi's folder `explanations`. All lines are imported, or none;
    what is there already is not imported twice.
    """
    from lite_interp.outside.importing import ImportJob
    from lite_interp.outside.importing import import_explanations as import_all
    from lite_interp.terminal import Terminal

    job = ImportJob(files, source, layer, seed, skip_bad, dry_run, subject)
    import_all(results, cache, job, Terminal())
