"""The command that runs a grid of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli.options import AsJson, Seed

Grid = Annotated[str, typer.Argument(help="Name of the grid: paper.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Results file; made, or gone on with.")]
Base = Annotated[
    Path | None, typer.Option(help="Study file that is varied; left out = the shipped example.")
]
N = Annotated[int, typer.Option("--latents", help="Latents.")]
Windows = Annotated[
    int, typer.Option(help="Scored windows of each kind, activating and silent, for each latent.")
]
Shown = Annotated[int, typer.Option(help="Windows shown to the explainer in the base.")]
Engine = Annotated[str, typer.Option(help="Engine; empty = that of the study file.")]
OtherEngine = Annotated[
    str, typer.Option(help="A second engine, to explain and to judge; empty = none.")
]
Scorers = Annotated[str, typer.Option(help="Names with commas.")]
Controls = Annotated[int, typer.Option(help="Other latents' explanations judged in the base.")]
Part = Annotated[
    list[str] | None, typer.Option(help="Only this part of the grid, or condition; repeat.")
]
TableOnly = Annotated[bool, typer.Option("--table", help="Run nothing: print what is there.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]


def study(
    grid: Grid,
    out: Out,
    base: Base = None,
    latents: N = 24,
    windows: Windows = 16,
    shown: Shown = 20,
    engine: Engine = "",
    other_engine: OtherEngine = "qwen2.5-coder-0.5b-instruct",
    scorers: Scorers = "detection,embedding",
    controls: Controls = 3,
    part: Part = None,
    seed: Seed = 0,
    table: TableOnly = False,
    as_json: AsJson = False,
    markdown: Markdown = False,
) -> None:
    """A grid of studies: one thing varied at a time, each against one base; one table.

    Goes on where it stopped.
    """
    from rich.console import Console

    from lite_interp.data import data_folder
    from lite_interp.grid.conditions import find_conditions
    from lite_interp.grid.page import print_grid
    from lite_interp.study import parse_section, read_study
    from lite_interp.study.sections import EngineSection, ExamplesSection, LatentsSection
    from lite_interp.terminal import Terminal

    whole = read_study(base or data_folder("models") / "demo" / "study.toml")
    names = tuple(name.strip() for name in scorers.split(",") if name.strip())
    sizes = {"n_shown": shown, "n_active": windows, "n_silent": windows}
    asked = {"model": engine or whole.engine.model, "n_ctx": max(4096, whole.engine.n_ctx)}
    whole = whole.model_copy(
        update={
            "seed": seed,
            "latents": parse_section(
                LatentsSection, **{**whole.latents.model_dump(), "n": latents}
            ),
            "examples": parse_section(ExamplesSection, **{**whole.examples.model_dump(), **sizes}),
            "engine": parse_section(EngineSection, **{**whole.engine.model_dump(), **asked}),
            "score": whole.score.model_copy(update={"scorers": names, "n_controls": controls}),
        }
    )
    conditions = find_conditions(grid, whole, other_engine, part or ())
    if not table:
        from lite_interp.grid.running import run_grid

        run_grid(out, grid, whole, conditions, Terminal())
    form = "json" if as_json else "markdown" if markdown else "terminal"
    print_grid(out, grid, form, Console(highlight=False, markup=False))
