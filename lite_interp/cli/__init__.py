"""The command line: options in, one call, print. No SQL, no arithmetic, nothing heavy at import.

Exit codes: 0 done; 1 something is wrong with an input; 2 wrong usage; 4 the results file cannot
be used; 130 interrupted, and the same command goes on; 141 nobody reads what is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp import __version__
from lite_interp.cli import (
    compare,
    doctor,
    exchange,
    explain,
    find,
    look,
    models,
    pages,
    people,
    score,
    study,
    work,
)
from lite_interp.cli.options import OPTIONS, forgive_characters, logging_to

__all__ = ["app", "main"]

app = typer.Typer(
    help="Explain the latents of sparse autoencoders on this machine, and score how far the "
    "explanations can be trusted. Results are one SQLite file.",
    **OPTIONS,
)
models_app = typer.Typer(help="Models on this machine: list, fetch, verify, quantize.", **OPTIONS)
for command in (work.demo, work.run, work.cache, explain.explain, score.score, study.study):
    app.command()(command)
for command in (look.show, look.info, look.agree, compare.compare, pages.report):
    app.command()(command)
app.command()(pages.serve)
app.command()(find.search)
app.command()(find.fires)
app.command()(people.annotate)
app.command("list")(look.list_latents)
app.command("import")(exchange.import_explanations)
app.command()(exchange.merge)
app.command()(exchange.export)
app.command()(exchange.share)
app.command()(doctor.doctor)
app.add_typer(models_app, name="models")
models_app.command("list")(models.models_list)
models_app.command("fetch")(models.models_fetch)
models_app.command("verify")(models.models_verify)
models_app.command("quantize")(models.models_quantize)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log on stderr, that of llama.cpp too.")
    ] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", help="Log to the end of this file.")
    ] = None,
) -> None:
    """Explain the latents of sparse autoencoders on this machine."""
    if version:
        typer.echo(f"lite-interp {__version__}")
        raise typer.Exit
    if verbose or log_file:
        context.with_resource(logging_to(log_file))


def main() -> None:
    """Entry point of the command `lite-interp`."""
    forgive_characters()
    app(prog_name="lite-interp")
