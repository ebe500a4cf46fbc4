"""Commands that read a results file."""

from __future__ import annotations

import csv
import sys
from typing import Annotated, Any

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import (
    AsCsv,
    AsJson,
    CacheId,
    ExplainerName,
    Results,
    SubjectPlace,
    Variant,
)
from lite_interp.cli.records import print_records
from lite_interp.errors import LiteInterpError, UsageError, one_line

VARIANTS = ("raw", "relative", "per_token")
"""Readings of the same verdicts; a scorer may lack one."""


def show(
    results: Results,
    latent: Annotated[int, typer.Argument(help="Index of the latent.", show_default=False)],
    windows: Annotated[
        int, typer.Option(help="Windows to print; --json has all that are stored.", min=0)
    ] = 10,
    subject: SubjectPlace = "",
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """One latent: statistics, explanations with scores, windows with the strength of each token.

    Also what it promotes, its neighbours, and what the subject writes when it is steered along it.
    Windows of a latent that nobody explained are drawn from the firings, which needs the subject's
    tokenizer.
    """
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.db.studies import load_explanations
    from lite_interp.plain import latent_records
    from lite_interp.terminal import Screen
    from lite_interp.view import latent_page

    console = Screen()
    with read_results(results) as db:
        found = the_cache(db, cache)
        if not 0 <= latent < found.n_latents:
            raise UsageError(
                f"no such latent: {latent}", f"the coder has 0 to {found.n_latents - 1}"
            )
        explained = load_explanations(db, found.id, latent)
        unexplained = () if explained else _drawn(db, found, latent, windows, subject)
        if as_json:
            seen = () if isinstance(unexplained, str) else unexplained
            print_records(latent_records(db, found, latent, seen))
        else:
            console.print(latent_page(db, found, latent, windows, console, unexplained))


def _drawn(db: Any, cache: Any, latent: int, n: int, subject: str) -> Any:
    """Windows from the firings; or, as one line, why there are none."""
    from lite_interp.unexplained import draw_windows

    try:
        return draw_windows(db, cache, latent, n, subject)
    except LiteInterpError as error:
        if subject:
            raise
        return f"{one_line(error)} ({one_line(error.hint)})" if error.hint else one_line(error)


def list_latents(
    results: Results,
    sort: Annotated[str, typer.Option(help="A column; as JSON names it.")] = "latent",
    down: Annotated[bool, typer.Option(help="Greatest first.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(help="A filter such as detection>0.7; may be repeated.")
    ] = None,
    explainer: ExplainerName = "",
    variant: Variant = "raw",
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
        print_records(rows)
    elif as_csv:
        print_csv(rows)
    else:
        from lite_interp.list_page import latents_tables
        from lite_interp.terminal import Screen

        console = Screen()
        for part in latents_tables(rows, console.width):
            console.print(part)


def agree(
    results: Results,
    variant: Variant = "raw",
    explainer: Annotated[
        str,
        typer.Option(
            help="Whose explanations; empty = the one with the most latents.",
            autocompletion=completing.explainers,
        ),
    ] = "",
    width: Annotated[
        float, typer.Option(help="Width of a 95 % interval that more ratings should reach.")
    ] = 0.2,
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """How the scorers agree: correlations over latents with 95 % intervals, and the paper's.

    Where people have rated: how they agree with each other, with each scorer, and with the judge
    on the same items, and how many more ratings would make an interval narrower than --width.
    These are of all explainers, unless one is named.
    """
    from lite_interp import agreement, raters
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.db.trials import load_scores
    from lite_interp.terminal import Screen, Terminal

    _check_variant(variant)
    with read_results(results) as db:
        cache_id = the_cache(db, cache).id
        scores = load_scores(db, cache_id)
        found = agreement.agree(scores, variant, explainer, Terminal())
        people = raters.people_agree(db, cache_id, scores, variant, explainer, width)
    if as_json:
        rows = [{"kind": "scorers", **row} for row in agreement.agreement_rows(found)]
        print_records([*rows, *raters.people_rows(people)])
    else:
        console = Screen()
        console.print(agreement.agreement_page(found))
        if people.tasks:
            console.print("", raters.people_page(people), sep="\n")


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"no such variant: {one_line(variant)}", ", ".join(VARIANTS))


def info(results: Results, as_json: AsJson = False) -> None:
    """What is in this file, and how it came to be."""
    from lite_interp.db.file import read_results
    from lite_interp.plain import info_records
    from lite_interp.terminal import Screen
    from lite_interp.view import info_table

    with read_results(results) as db:
        if as_json:
            print_records(info_records(db))
        else:
            Screen().print(info_table(db))


def print_csv(rows: list[dict[str, Any]]) -> None:
    """Rows as CSV, with every column that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)
