"""The command that runs a grid of studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import AsJson
from lite_interp.cli.records import print_records

if TYPE_CHECKING:
    from lite_interp.study import Study

Grid = Annotated[
    str,
    typer.Argument(
        help="Name of the grid: paper.",
        show_default=False,
        autocompletion=completing.one_of(*completing.GRIDS),
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Results file; made, or gone on with.")]
Base = Annotated[
    Path | None, typer.Option(help="Study file that is varied; left out = the shipped example.")
]
N = Annotated[int | None, typer.Option("--latents", help="Latents, drawn by seed; 24.", min=1)]
Windows = Annotated[
    int | None,
    typer.Option(help="Scored windows of each kind for each latent; 16.", min=2),
]
Shown = Annotated[
    int | None, typer.Option(help="Windows shown to the explainer in the base; 20.", min=1)
]
Engine = Annotated[
    str,
    typer.Option(help="Engine; empty = that of the study file.", autocompletion=completing.engines),
]
OtherEngine = Annotated[
    str,
    typer.Option(
        help="A second engine, to explain and to judge; empty = none.",
        autocompletion=completing.engines,
    ),
]
Scorers = Annotated[
    str,
    typer.Option(help="Names with commas; detection,embedding.", autocompletion=completing.scorers),
]
Controls = Annotated[
    int | None,
    typer.Option(help="Other latents' explanations judged in the base; 3.", min=0),
]
DrawnBy = Annotated[int | None, typer.Option("--seed", help="Seed of every draw; 0.", min=0)]
Part = Annotated[
    list[str] | None, typer.Option(help="Only this part of the grid, or condition; repeat.")
]
TableOnly = Annotated[bool, typer.Option("--table", help="Run nothing: print what is there.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]


def study(
    grid: Grid,
    out: Out,
    base: Base = None,
    latents: N = None,
    windows: Windows = None,
    shown: Shown = None,
    engine: Engine = "",
    other_engine: OtherEngine = "qwen2.5-coder-0.5b-instruct",
    scorers: Scorers = "",
    controls: Controls = None,
    part: Part = None,
    seed: DrawnBy = None,
    table: TableOnly = False,
    as_json: AsJson = False,
    markdown: Markdown = False,
) -> None:
    """A grid of studies: one thing varied at a time, each against one base; one table.

    Goes on where it stopped. Sizes, scorers and seed that no option names are those of the study
    file, or without one those that the options tell.
    """
    from lite_interp.data import data_folder
    from lite_interp.grid.conditions import find_conditions
    from lite_interp.grid.page import grid_records, print_grid
    from lite_interp.study import read_study
    from lite_interp.terminal import Screen, Terminal

    whole = read_study(base or data_folder("models") / "demo" / "study.toml")
    if base is None:
        whole = _changed(whole, 24, 16, 20, "detection,embedding", 3)
    whole = _changed(whole, latents, windows, shown, scorers, controls)
    asked = {"model": engine or whole.engine.model, "n_ctx": max(4096, whole.engine.n_ctx)}
    update: dict[str, Any] = {"engine": whole.engine.model_copy(update=asked)}
    whole = whole.model_copy(update=update if seed is None else {**update, "seed": seed})
    conditions = find_conditions(grid, whole, other_engine, part or ())
    if not table:
        from lite_interp.grid.running import run_grid

        run_grid(out, grid, whole, conditions, Terminal())
    if as_json:
        print_records(grid_records(out, grid))
    else:
        print_grid(out, grid, "markdown" if markdown else "terminal", Screen())


def _changed(
    whole: Study,
    latents: int | None,
    windows: int | None,
    shown: int | None,
    scorers: str,
    controls: int | None,
) -> Study:
    """A study with what is named changed; a number of latents goes before those it names."""
    from lite_interp.grid.conditions import changed

    names = tuple(name.strip() for name in scorers.split(",") if name.strip())
    asked = {
        "latents": {"n": latents, "indices": None if latents is None else ()},
        "examples": {"n_shown": shown, "n_active": windows, "n_silent": windows},
        "score": {"scorers": names or None, "n_controls": controls},
    }
    return changed(
        whole,
        {
            section: {key: value for key, value in settings.items() if value is not None}
            for section, settings in asked.items()
        },
    )
