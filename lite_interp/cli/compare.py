"""The command that compares two ways to explain, or two judges."""

from __future__ import annotations

from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.look import VARIANTS
from lite_interp.cli.options import AsJson, Results
from lite_interp.cli.records import print_records
from lite_interp.errors import UsageError, one_line


def compare(
    results: Results,
    first: Annotated[
        str, typer.Argument(metavar="A", help="An arm; without A and B all are listed.")
    ] = "",
    second: Annotated[str, typer.Argument(metavar="B", help="The other arm.")] = "",
    scorer: Annotated[
        str, typer.Option(help="Only this scorer.", autocompletion=completing.scorers)
    ] = "",
    variant: Annotated[
        str,
        typer.Option(
            help="raw, relative or per_token scores; empty = all.",
            autocompletion=completing.one_of(*VARIANTS),
        ),
    ] = "",
    top: Annotated[int, typer.Option(help="Latents to name, of each sign.", min=0)] = 5,
    as_json: AsJson = False,
) -> None:
    """Two ways to explain on the same latents and windows: is the difference real?

    An arm is what one explainer, prompt, engine, settings and draw of windows made. A and B are
    names from the list, or terms with commas: a bare word is an explainer, else key=value, where
    key is prompt, engine, sampler, shown, width, seed, coder, corpus, cache or any other setting:
    `llm,sampler=top`. With judge=MODEL only that engine's or embedder's verdicts count, so
    `llm,judge=qwen2.5-coder-0.5b llm,judge=qwen2.5-coder-1.5b` compares two judges.

    Each line says whether the two are told apart, and if not, which difference would have been.
    """
    from lite_interp.compare import page
    from lite_interp.compare.arms import find_arm, load_arms
    from lite_interp.compare.comparing import compare as compare_arms
    from lite_interp.compare.judged import Judged
    from lite_interp.db.file import read_results
    from lite_interp.terminal import Screen

    if first and not second:
        raise UsageError("there is only one arm to compare", "name two, or none for a list")
    if variant and variant not in VARIANTS:
        raise UsageError(f"no such variant: {one_line(variant)}", ", ".join(VARIANTS))
    console = Screen()
    with read_results(results) as db:
        arms = load_arms(db)
        if not first:
            rows, shown = page.arm_rows(arms), page.arms_page(arms)
        else:
            both = find_arm(arms, first), find_arm(arms, second)
            found = compare_arms(Judged(db), *both, scorer, variant)
            rows = page.comparison_rows(found, both)
            shown = page.comparison_page(found, both, top)
    if as_json:
        print_records(rows)
    else:
        console.print(shown)
