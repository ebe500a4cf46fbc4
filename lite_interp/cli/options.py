"""What several commands share: how errors are shown, and options with one meaning everywhere."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from lite_interp.cli import completing
from lite_interp.errors import LiteInterpError, UsageError, one_line

if TYPE_CHECKING:
    from lite_interp.study.sections import Part


class ErrorGroup(TyperGroup):
    """Print a LiteInterpError as one line and a hint; let every other exception be a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except LiteInterpError as error:
            typer.echo(f"Error: {one_line(error)}", err=True)
            if error.hint:
                typer.echo(f"\nhint: {one_line(error.hint)}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; the same command goes on from here", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            if not _silence_closed():
                raise
            raise typer.Exit(NOBODY_READS) from None


NOBODY_READS = 141
"""Exit code when the reader of a pipe has gone, as shells give it for other programs."""


def _silence_closed() -> bool:
    """Let what is left for a pipe that nobody reads go nowhere; False if every pipe is read."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody reads a stream; on Windows that cannot be known, and is so if one asks."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def forgive_characters() -> None:
    """Let a stream that cannot write every character write a ? for it, and not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


OPTIONS: dict[str, Any] = {
    "cls": ErrorGroup,
    "no_args_is_help": True,
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
    str,
    typer.Option(
        "--engine",
        help="Installed model, GGUF file, or http://… of a server.",
        autocompletion=completing.engines,
    ),
]
EngineContext = Annotated[int, typer.Option("--n-ctx", help="Longest prompt with answer, tokens.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 = physical cores.")]
EngineValues = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting of [engine], e.g. n_batch=1024; repeat."),
]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Let the engine be a server on another machine.")
]
ExplainPlan = Annotated[
    bool, typer.Option("--explain-plan", help="Print what the engine would be asked, and end.")
]
Latents = Annotated[
    str, typer.Option(help="Indices with commas, e.g. 12,99; empty = drawn or all.")
]
EmbedderModel = Annotated[
    str,
    typer.Option(
        "--embedder",
        help="Installed model, folder, or .gguf file.",
        autocompletion=completing.embedders,
    ),
]
SubjectPlace = Annotated[
    str,
    typer.Option(
        "--subject",
        help="Subject, if it has moved since caching.",
        autocompletion=completing.subjects,
    ),
]
CoderPlace = Annotated[str, typer.Option("--coder", help="Coder, if it has moved since caching.")]
Shard = Annotated[
    str, typer.Option(help="Part of the work, as 2/3; `merge` puts the parts together.")
]
Preset = Annotated[
    str,
    typer.Option(
        help="Settings of a whole recipe, e.g. paper; options go before them.",
        autocompletion=completing.one_of(*completing.PRESETS),
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(help="Any setting, e.g. simulation.highest=10 or best_of.k=8; repeat."),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, mps.",
        autocompletion=completing.one_of("auto", "cpu", "cuda", "mps"),
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16, float16.",
        autocompletion=completing.one_of("auto", "float32", "bfloat16", "float16"),
    ),
]
ExplainerName = Annotated[
    str, typer.Option(help="Only this explainer.", autocompletion=completing.explainers)
]
Variant = Annotated[
    str,
    typer.Option(
        help="raw, relative or per_token scores.",
        autocompletion=completing.one_of("raw", "relative", "per_token"),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="CSV on stdout.")]


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Log everything, what llama.cpp says too, to the end of a file or to stderr."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    except OSError as error:
        raise UsageError(
            f"cannot log to this file: {one_line(path)}: {one_line(error.strerror or error)}"
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("lite_interp")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def parse_indices(text: str) -> tuple[int, ...]:
    """Latents as `12,99`, or a line each as `search --ids` prints them; empty = none named."""
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(
            f"not a list of latents: {one_line(text)}", "indices with commas: 12,99"
        ) from None


def parse_part(text: str) -> tuple[int, int]:
    """Part of the work as `2/3`: which, from 1, and of how many."""
    index, slash, n = text.partition("/")
    if not (slash and index.isdecimal() and n.isdecimal() and 1 <= int(index) <= int(n)):
        raise UsageError(f"not a part of the work: {one_line(text)}", "e.g. --shard 2/3")
    return int(index), int(n)


def engine_section(model: str, n_ctx: int, threads: int, remote: bool, values: list[str] | None):
    """The [engine] section that the options of a command make up."""
    from lite_interp import study

    options = {"model": model, "n_ctx": n_ctx, "n_threads": threads, "allow_remote": remote}
    given = dict(study.parse_value("--set", text) for text in values or ())
    return study.parse_section(study.EngineSection, **{**options, **given})


def latents_section(indices: str, n: int, min_density: float, max_density: float):
    """The [latents] section that the options of a command make up."""
    from lite_interp import study

    return study.parse_section(
        study.LatentsSection,
        indices=parse_indices(indices),
        n=n,
        min_density=min_density,
        max_density=max_density,
    )


def module_options(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Settings of explainers or scorers given as `name.key=value`."""
    from lite_interp import study

    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        if not dot:
            raise UsageError(
                f"--option wants name.key=value: {one_line(text)}", "e.g. simulation.highest=10"
            )
        key, value = study.parse_value("--option", rest)
        found.setdefault(name.strip(), {})[key] = value
    return found


OPTION_NAMES = {
    "n_shown": "shown",
    "n_active": "active",
    "n_silent": "silent",
    "explainers": "explainer",
    "list": "listed",
}
"""Setting → parameter of the command, where they are called differently."""


def preset_section(
    context: typer.Context, name: str, kind: type[Part], given: dict[str, Any]
) -> Part:
    """A section from options, with the settings of a preset where no option says otherwise."""
    from lite_interp import study

    def is_given(key: str) -> bool:
        source = context.get_parameter_source(OPTION_NAMES.get(key, key))
        return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")

    settings = study.preset(name).get(kind.__name__.removesuffix("Section").lower(), {})
    own = [key for key in settings if is_given(key)]
    changed = {key: value for key, value in study.beside(settings, own).items() if key not in own}
    plain = {key: tuple(each) if isinstance(each, list) else each for key, each in changed.items()}
    return study.parse_section(kind, **{**given, **plain})
