"""Commands that read a results file."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any

import typer

from lite_interp.cli.options import AsCsv, AsJson, CacheId, Results
from lite_interp.errors import UsageError


def show(
    results: Results,
    latent: Annotated[int, typer.Argument(help="Index of the latent.", show_default=False)],
    windows: Annotated[int, typer.Option(help="Windows to print.")] = 10,
    cache: CacheId = "",
) -> None:
    """One latent: statistics, explanations with scores, windows with the strength of each token."""
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
    variant: Annotated[str, typer.Option(help="raw or relative scores.")] = "raw",
    limit: Annotated[int, typer.Option(help="Rows at most; 0 = all.")] = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    cache: CacheId = "",
) -> None:
    """Explained latents as a table: sort and filter by any column."""
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.tables import filter_rows, sort_rows
    from lite_interp.view import latent_rows

    if variant not in ("raw", "relative"):
        raise UsageError(f"no such variant: {variant}", "raw or relative")
    with read_results(results) as db:
        rows = latent_rows(db, the_cache(db, cache), variant)
    rows = [row for row in rows if not explainer or row["explainer"] == explainer]
    rows = sort_rows(filter_rows(rows, where or []), sort, down)
    rows = rows[:limit] if limit else rows
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    elif as_csv:
        _print_csv(rows)
    else:
        from rich.console import Console

        from lite_interp.view import latents_table

        Console(highlight=False, markup=False).print(latents_table(rows))


def info(results: Results) -> None:
    """What is in this file, and how it came to be."""
    from rich.console import Console

    from lite_interp.db.file import read_results
    from lite_interp.view import info_table

    with read_results(results) as db:
        Console(highlight=False, markup=False).print(info_table(db))


def _print_csv(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)
