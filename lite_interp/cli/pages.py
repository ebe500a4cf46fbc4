"""Commands that make pages of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli.options import (
    AsJson,
    CacheId,
    CoderPlace,
    EmbedderModel,
    Results,
    SubjectPlace,
    parse_indices,
)
from lite_interp.cli.records import print_records


def report(
    results: Results,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the page goes.")] = Path(
        "report.html"
    ),
    latents: Annotated[
        str, typer.Option(help="Indices with commas, e.g. 12,99; empty = all that were explained.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
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
    if as_json:
        print_records([{**made._asdict(), "path": str(made.path)}])


def serve(
    results: Results,
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 = any that is free.", min=0, max=65535)
    ] = 0,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Let people rate; answers are written to the file.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--open", help="Open the address in a browser, too.")
    ] = False,
    subject: SubjectPlace = "",
    coder: CoderPlace = "",
    embedder: EmbedderModel = "all-minilm-l6-v2",
    cache: CacheId = "",
) -> None:
    """The report, live in a browser on this machine, for files of any size.

    Also search by words and meaning, and which latents fire on a text; with --annotate, blinded
    rating. The address has a secret in it; whoever knows it and is on this machine may look. The
    file is read only, but for ratings. Ctrl-C stops it.
    """
    import webbrowser

    from lite_interp.reopening import Places
    from lite_interp.serve.live import Models
    from lite_interp.serve.running import serve as run

    def ready(address: str) -> None:
        typer.echo(address)
        typer.echo("Ctrl-C stops it", err=True)
        if browser:
            webbrowser.open(address)

    run(results, cache, Models(Places(subject, coder), embedder), port, annotate, ready)
