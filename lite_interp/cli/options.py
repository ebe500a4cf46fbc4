"""What several commands share: how errors are shown, and options with one meaning everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lite_interp.errors import LiteInterpError, UsageError, one_line


class ErrorGroup(TyperGroup):
    """Print a LiteInterpError as one line and a hint; let every other exception be a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LiteInterpError as error:
            typer.echo(f"Error: {one_line(error)}", err=True)
            if error.hint:
                typer.echo(f"\nhint: {one_line(error.hint)}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; the same command goes on from here", err=True)
            raise typer.Exit(130) from None


OPTIONS: dict[str, Any] = {
    "cls": ErrorGroup,
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
"""How every group of commands behaves."""

Results = Annotated[Path, typer.Argument(help="Results file.", show_default=False)]
CacheId = Annotated[
    str, typer.Option("--cache", help="Beginning of a cache's id, if the file holds several.")
]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
EngineModel = Annotated[
    str, typer.Option("--engine", help="Model that is installed, or a GGUF file.")
]
EngineContext = Annotated[int, typer.Option("--n-ctx", help="Longest prompt with answer, tokens.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 = physical cores.")]
Latents = Annotated[
    str, typer.Option(help="Indices with commas, e.g. 12,99; empty = drawn or all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="CSV on stdout.")]


def parse_indices(text: str) -> tuple[int, ...]:
    """Latents as `12,99`; empty = none named."""
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UsageError(
            f"not a list of latents: {one_line(text)}", "indices with commas: 12,99"
        ) from None
