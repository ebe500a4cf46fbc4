"""Commands for the models on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lite_interp.cli.options import AsJson


def models_list(as_json: AsJson = False) -> None:
    """Models that are known, what they are for, and which are installed."""
    from lite_interp.fetch import installed
    from lite_interp.manifests import load_manifests

    rows = [
        {
            "name": manifest.name,
            "roles": list(manifest.roles),
            "licence": manifest.licence,
            "bytes": manifest.size,
            "installed": str(installed(manifest) or ""),
        }
        for manifest in load_manifests()
    ]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    from rich.console import Console

    from lite_interp.view import models_table

    Console(highlight=False, markup=False).print(models_table(rows))


def models_fetch(
    names: Annotated[list[str], typer.Argument(help="Names of models.", show_default=False)],
) -> None:
    """Fetch models from where their manifests say, check every byte, keep them in the data folder.

    The only command, besides `demo`, that uses the network.
    """
    from lite_interp.demo import fetch_models
    from lite_interp.terminal import Terminal

    fetch_models(names, Terminal())


def models_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; left out = installed.")] = None,
) -> None:
    """Compare installed models with the hashes in their manifests."""
    from lite_interp.errors import ModelFileError
    from lite_interp.fetch import installed, verify
    from lite_interp.manifests import find_manifest, load_manifests

    if names:
        wanted = [find_manifest(name) for name in names]
    else:
        wanted = [manifest for manifest in load_manifests() if installed(manifest)]
    wrong = 0
    for manifest in wanted:
        problems = verify(manifest)
        wrong += bool(problems)
        for line in problems or ["ok"]:
            typer.echo(f"{manifest.name}: {line}")
    if wrong:
        raise ModelFileError(
            f"models with wrong or missing files: {wrong}", "`lite-interp models fetch` mends them"
        )
