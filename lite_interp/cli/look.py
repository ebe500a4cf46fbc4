"""Commands that read a results file."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any

import typer

from lite_interp.cli.options import AsCsv, AsJson, CacheId, Results
from lite_interp.errors import UsageError, one_line

VARIANTS = ("raw", "relative", "per_token")
"""Readings of the same verdicts; a scorer may lack one."""


def show(
    results: Results,
    latent: Annotated[int, typer.Argument(help="Index of the latent.", show_default=False)],
    windows: Annotated[int, typer.Option(help="Windows to print.")] = 10,
    cache: CacheId = "",
) -> None:
    """One latent: statistics, explanations with scores, windows with the strength of each token.

    Also what it promotes, its neighbours, and what the subject writes when it is steered along it.
    """
    from rich.console import Console

    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.view import latent_page

    console = Console(highlight=False, markup=False)
    with read_results(results) as db:
        found = the_cache(db, cache)
        if not 0 <= latent < found.n_latents:
            raise UsageError(
                f"no such latent: {latent}", f"the coder has 0 to {found.n_latents - 1}"
            )
        console.print(latent_page(db, found, latent, windows, console))


def list_latents(
    results: Results,
    sort: Annotated[str, typer.Option(help="A column; as JSON names it.")] = "latent",
    down: Annotated[bool, typer.Option(help="Greatest first.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(help="A filter such as detection>0.7; may be repeated.")
    ] = None,
    explainer: Annotated[str, typer.Option(help="Only this explainer.")] = "",
    variant: Annotated[str, typer.Option(help="raw, relative or per_token scores.")] = "raw",
    limit: Annotated[int, typer.Option(help="Rows at most; 0 = all.")] = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    cache: CacheId = "",
) -> None:
    """Explained latents as a table: sort and filter by any column.

    The diagnosis says where the fault lies. good: detection, or else fuzzing, is certainly above
    its null. bad explanation: it is not, but intruders among the latent's windows are certainly
    found more often than by guessing, so the windows have something in common that the words miss.
    bad latent: certainly fewer than half of the intruders are found, so the windows seem to have
    nothing in common. unsure: none of these. Raw scores decide, whichever are shown.
    """
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.overview import latent_rows
    from lite_interp.tables import filter_rows, sort_rows

    _check_variant(variant)
    with read_results(results) as db:
        rows = latent_rows(db, the_cache(db, cache), variant)
    rows = [row for row in rows if not explainer or row["explainer"] == explainer]
    rows = sort_rows(filter_rows(rows, where or []), sort, down)
    rows = rows[:limit] if limit else rows
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    elif as_csv:
        print_csv(rows)
    else:
        from rich.console import Console

        from lite_interp.overview import latents_table

        console = Console(highlight=False, markup=False)
        console.print(latents_table(rows, console.width))


def agree(
    results: Results,
    variant: Annotated[str, typer.Option(help="raw, relative or per_token scores.")] = "raw",
    explainer: Annotated[
        str, typer.Option(help="Whose explanations; empty = the one with the most latents.")
    ] = "",
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """How the scorers agree: correlations over latents with 95 % intervals, and the paper's."""
    from rich.console import Console

    from lite_interp import agreement
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.db.trials import load_scores

    _check_variant(variant)
    with read_results(results) as db:
        scores = load_scores(db, the_cache(db, cache).id)
    found = agreement.agree(scores, variant, explainer)
    if as_json:
        for row in agreement.agreement_rows(found):
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        Console(highlight=False, markup=False).print(agreement.agreement_page(found))


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"no such variant: {one_line(variant)}", ", ".join(VARIANTS))


def info(results: Results) -> None:
    """What is in this file, and how it came to be."""
    from rich.console import Console

    from lite_interp.db.file import read_results
    from lite_interp.view import info_table

    with read_results(results) as db:
        Console(highlight=False, markup=False).print(info_table(db))


def print_csv(rows: list[dict[str, Any]]) -> None:
    """Rows as CSV, with every column that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)
