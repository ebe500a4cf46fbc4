"""Commands for people who rate explanations."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import AsJson, CacheId, ExplainerName, Results, parse_indices
from lite_interp.cli.records import print_records
from lite_interp.errors import UsageError

LONGEST_LINE = 1000
"""Bytes of an answer that are read at once."""


def annotate(
    results: Results,
    rater: Annotated[str, typer.Option(help="Your name, or what stands for it.")] = "",
    task: Annotated[
        str,
        typer.Option(
            help="explanation, detection, fuzzing or intruder.",
            autocompletion=completing.one_of("explanation", "detection", "fuzzing", "intruder"),
        ),
    ] = "explanation",
    latents: Annotated[
        str, typer.Option(help="Indices with commas, e.g. 12,99; empty = all.")
    ] = "",
    explainer: ExplainerName = "",
    status: Annotated[
        bool, typer.Option("--status", help="Who has answered how much, and end.")
    ] = False,
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """Rate explanations, or do the judge's work yourself: one question at a time, source hidden.

    explanation: how well does it fit windows of every strength and silent ones, 1 to 4. detection:
    does this text contain what it describes. fuzzing: are the marked words what it describes.
    intruder: which of five marked texts does not belong. Each answer is stored at once; the same
    command goes on where it stopped. --json belongs to --status.
    """
    if status:
        _print_status(results, cache, as_json)
        return
    if as_json:
        raise UsageError("--json belongs to --status", "`lite-interp export` writes files")
    from lite_interp.annotate import Request, checked_rater

    request = Request(task, parse_indices(latents), explainer)
    again = ["lite-interp", "annotate", str(results), "--rater", checked_rater(rater)]
    given = {"--task": task, "--latents": latents, "--explainer": explainer, "--cache": cache}
    again += [word for name, value in given.items() if value for word in (name, value)]
    _sit(results, checked_rater(rater), request, cache, shlex.join(again))


def _sit(results: Path, rater: str, request, cache: str, again: str) -> None:
    """Ask, and say at the end, however it comes, how much was answered and how to go on."""
    from rich.text import Text

    from lite_interp.annotate import Turn, open_sitting, open_to_answer, open_to_ask
    from lite_interp.annotate.asking import ask
    from lite_interp.db.caches import the_cache
    from lite_interp.render import terminal_safe
    from lite_interp.terminal import Screen, Terminal

    console = Screen()
    with open_to_answer(results):
        pass  # an older file is brought up to date; one that cannot be written to is refused
    with open_to_ask(results) as db:
        found = the_cache(db, cache)
        sitting = open_sitting(db, found, rater, request, Terminal())
    turns: list[Turn] = []
    try:
        for turn in ask(results, found, sitting, _line, console):
            turns.append(turn)
    except KeyboardInterrupt:
        console.print()
        raise
    finally:
        if turns:
            last = turns[-1]
            n_now = max(0, last.n_answered - turns[0].n_answered)
            console.print(
                f"answered now: {n_now:,}; in all {last.n_answered:,} of {last.n_questions:,}"
            )
            if last.question is not None:
                console.print(Text(f"to go on: {terminal_safe(again)}"), soft_wrap=True)


def _line() -> str:
    """A line of stdin, what is no UTF-8 in it replaced; empty at its end."""
    return sys.stdin.buffer.readline(LONGEST_LINE).decode("utf-8", "replace")


def _print_status(results: Path, cache: str, as_json: bool) -> None:
    from lite_interp.annotate import open_to_ask
    from lite_interp.annotate.terminal_page import status_table
    from lite_interp.db.caches import the_cache
    from lite_interp.db.ratings import count_ratings
    from lite_interp.terminal import Screen

    with open_to_ask(results) as db:
        counts = count_ratings(db, the_cache(db, cache).id)
    if as_json:
        print_records(
            {"rater": each.rater, "task": each.task, "answers": each.n} for each in counts
        )
    else:
        Screen().print(status_table(counts))
