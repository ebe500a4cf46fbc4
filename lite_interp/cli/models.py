"""Commands for the models on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import AsJson
from lite_interp.cli.records import print_records

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File to write; left out = a new model in the models folder, or beside the file.",
        show_default=False,
    ),
]


def models_list(as_json: AsJson = False) -> None:
    """Models that are known, what they are for, and which are installed."""
    from lite_interp.data import models_folder
    from lite_interp.demo import model_records

    rows = model_records()
    if as_json:
        print_records(rows)
        return
    from lite_interp.terminal import Screen
    from lite_interp.view import models_table

    Screen().print(models_table(rows, str(models_folder())))


def models_fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of models.", show_default=False, autocompletion=completing.models
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Fetch models from where their manifests say, check every byte, keep them in the data folder.

    The only command, besides `demo`, that uses the network.
    """
    from lite_interp.demo import fetch_models, model_records
    from lite_interp.terminal import Terminal

    fetch_models(names, Terminal())
    if as_json:
        print_records(model_records(names))


def models_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names; left out = installed.", autocompletion=completing.models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare installed models with the hashes in their manifests."""
    from lite_interp.demo import verify_model
    from lite_interp.errors import ModelFileError
    from lite_interp.fetch import installed
    from lite_interp.manifests import find_manifest, load_manifests
    from lite_interp.terminal import Terminal

    if names:
        wanted = [find_manifest(name) for name in names]
    else:
        wanted = [manifest for manifest in load_manifests() if installed(manifest)]
    wrong = 0
    for manifest in wanted:
        problems = verify_model(manifest, Terminal())
        wrong += bool(problems)
        if as_json:
            print_records([{"name": manifest.name, "problems": problems}])
            continue
        for line in problems or ["ok"]:
            typer.echo(f"{manifest.name}: {line}")
    if wrong:
        raise ModelFileError(
            f"models with wrong or missing files: {wrong}", "`lite-interp models fetch` mends them"
        )


def models_quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="Model that is installed, or a GGUF file.",
            show_default=False,
            autocompletion=completing.engines,
        ),
    ],
    quantisation: Annotated[
        str,
        typer.Argument(
            help="What to make, e.g. q4_0 or q8_0.",
            show_default=False,
            autocompletion=completing.quantisations,
        ),
    ],
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Make a faster or smaller copy of an engine, and say what it costs in judging.

    An installed model NAME gives the model NAME-QUANTISATION, ready for `--engine`. Both files
    then judge the same 40 built-in questions, and their answers are compared.
    """
    from lite_interp.engine.gguf_file import read_header
    from lite_interp.engine.quantize import check_quantisation, quantisation_of, raises_bits
    from lite_interp.fetch import model_path
    from lite_interp.loss import compare, loss_lines
    from lite_interp.requantize import quantize_model
    from lite_interp.terminal import Terminal

    terminal = Terminal()
    quantisation = check_quantisation(quantisation)
    source = model_path(model, "engine")
    if source.is_file() and raises_bits(header := read_header(source), quantisation):
        terminal.say(
            f"warning: the file is {quantisation_of(header)}: {quantisation} is larger and "
            "cannot bring back what the file has lost"
        )
    terminal.say(f"making {quantisation} of {source.name}")
    made = quantize_model(model, quantisation, output)
    if not as_json:
        typer.echo(f"{made.path} ({made.path.stat().st_size / 1e6:,.0f} MB)")
        if made.name:
            typer.echo(f"installed as {made.name}: --engine {made.name}")
    terminal.say("both files judge the same questions, in turn")
    loss = compare(made.source, made.path)
    if as_json:
        place = {"path": str(made.path), "bytes": made.path.stat().st_size, "name": made.name}
        print_records([{**place, **asdict(loss)}])
        return
    for line in loss_lines(loss):
        typer.echo(line)
