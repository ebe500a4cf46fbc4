"""Commands that bring in what others made, and write results for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import (
    AsJson,
    CacheId,
    Latents,
    Results,
    SubjectPlace,
    parse_indices,
)
from lite_interp.cli.records import print_records
from lite_interp.errors import UsageError


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
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """Explanations by people or other tools → the file, to be scored and compared like ours.

    JSON lines and tables name `latent` (or `index`, `feature`), `explanation` (or `description`,
    `text`) and perhaps `source` and `coder`; Neuronpedia's `explanations/batch-<n>.jsonl.gz` are
    read as they are, and so is Delphi's folder `explanations`. All lines are imported, or none;
    what is there already is not imported twice. Delphi's folder `latents`, or one hookpoint of it,
    becomes a cache, in a new file if need be; --subject names whose tokenizer made its tokens.
    """
    from lite_interp.outside.cache_importing import import_caches, is_delphi_cache
    from lite_interp.terminal import Terminal

    if any(map(is_delphi_cache, files)):
        if not all(map(is_delphi_cache, files)) or dry_run:
            raise UsageError(
                "caches of Delphi are imported by themselves",
                "name explanations in another command",
            )
        cached = import_caches(results, files, subject, Terminal())
        if as_json:
            print_records({"kind": "cache", **each._asdict()} for each in cached)
        return
    from lite_interp.outside.importing import ImportJob
    from lite_interp.outside.importing import import_explanations as import_all

    job = ImportJob(files, source, layer, seed, skip_bad, dry_run, subject)
    found = import_all(results, cache, job, Terminal())
    if as_json:
        print_records({"kind": "source", **each._asdict()} for each in found)


def merge(
    results: Results,
    others: Annotated[list[Path], typer.Argument(help="Files to merge.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do it in a temporary copy, and say what came of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Other files → this one: parts of a study, several raters, several studies.

    Their order does not matter, and a file that is merged twice adds nothing. Where a file answers
    a question otherwise, the answer that is there stays; the other is listed, and kept in the
    table `conflicts`. Each file is merged whole or not at all; none but the first is changed.
    """
    from lite_interp.merge import merge_files, records
    from lite_interp.terminal import Terminal

    outcome = merge_files(results, others, Terminal(), dry_run=dry_run)
    if as_json:
        print_records(records(outcome))


def share(
    results: Results,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The copy, e.g. small.db.", show_default=False)
    ],
    anonymize: Annotated[
        bool, typer.Option("--anonymize", help="Take out paths, hosts, users, raters' names.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier copy.")] = False,
    as_json: AsJson = False,
) -> None:
    """A small copy to send: every window, explanation, verdict and score, how all came to be.

    Firings, the corpus's tokens and indices stay behind; what is left out is said. Everything that
    reads results works on the copy, and it can be merged. Beside it stands OUT.metadata.json, with
    which Datasette shows it: views to read, facets, questions with their answers.
    """
    from lite_interp.share import record
    from lite_interp.share import share as share_file
    from lite_interp.terminal import Terminal

    done = share_file(results, out, Terminal(), anonymize=anonymize, force=force)
    if as_json:
        print_records([record(done)])


def export(
    results: Results,
    format: Annotated[  # noqa: A002
        str,
        typer.Argument(
            help="jsonl, csv, parquet, markdown, neuronpedia, circuit-tracer, delphi or "
            "delphi-cache.",
            show_default=False,
            autocompletion=completing.formats,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File or folder to write.", show_default=False)
    ],
    latents: Latents = "",
    explainer: Annotated[
        str,
        typer.Option(
            help="Only explanations by this explainer.", autocompletion=completing.explainers
        ),
    ] = "",
    model_id: Annotated[
        str, typer.Option(help="Neuronpedia's id of the subject; empty = from its name.")
    ] = "",
    source_id: Annotated[
        str, typer.Option(help="Neuronpedia's id of the coder, e.g. 9-res-16k; empty = as above.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier export.")] = False,
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """Results → files of other tools; the results file is only read.

    jsonl, csv, parquet and markdown have a row for each explanation; named latents have one in any
    case. neuronpedia, circuit-tracer, delphi and delphi-cache are folders as these tools read
    them. `import` reads all of them back but markdown, parquet and circuit-tracer. What a format
    cannot hold is said. An export that fails leaves nothing behind.
    """
    from lite_interp.export.base import ExportJob
    from lite_interp.export.running import export_results
    from lite_interp.terminal import Terminal

    wanted = parse_indices(latents)
    job = ExportJob(format, str(out), wanted, explainer, force, model_id, source_id)
    done = export_results(results, cache, job, Terminal())
    if as_json:
        print_records([done._asdict()])
