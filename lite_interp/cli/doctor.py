"""The command that looks at this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lite_interp.cli.options import AsJson


def doctor(
    engine: Annotated[
        str,
        typer.Option(
            "--engine", help="Model that is installed, or a GGUF file.", show_default=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """What this machine is for an engine, and whether another quantisation would be faster.

    Times a few layers of the model in several quantisations; takes up to a minute.
    """
    from rich.console import Console

    from lite_interp import doctor as look
    from lite_interp.engine.speed import measure
    from lite_interp.fetch import model_path
    from lite_interp.terminal import Terminal

    path = model_path(engine, "engine")
    file, machine = look.look_at_file(path), look.look_at_machine()
    console = Console(highlight=False, markup=False)
    if not as_json:
        console.print(look.facts_table(machine, file))
    Terminal().say("timing a few layers in each quantisation, up to a minute")
    speeds = measure(path)
    if as_json:
        typer.echo(json.dumps(look.as_plain(machine, file, speeds, engine)))
        return
    console.print()
    console.print(look.speeds_table(speeds))
    console.print()
    for line in look.advice(speeds, engine):
        console.print(line, soft_wrap=True)
