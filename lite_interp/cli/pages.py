"""Commands that make pages of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli.options import CacheId, Results, parse_indices


def report(
    results: Results,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the page goes.")] = Path(
        "report.html"
    ),
    latents: Annotated[
        str, typer.Option(help="Indices with commas, e.g. 12,99; empty = all that were explained.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    cache: CacheId = "",
) -> None:
    """One page with everything: opens in any browser, needs no network, can be sent and printed.

    Scores with their nulls, agreement, costs, where all came from, and a table of latents that is
    sorted, searched and filtered; for each latent its explanations, windows with activations and
    what judges said of each, histogram, tokens, neighbours, and what steering does.
    """
    from lite_interp.report.making import make_report
    from lite_interp.terminal import Terminal

    terminal = Terminal()
    made = make_report(results, out, terminal, cache, parse_indices(latents), force)
    size = f"{made.n_bytes / 1e6:.1f} MB"
    terminal.say(f"{made.n_latents:,} latents, {size}: {made.path}")
