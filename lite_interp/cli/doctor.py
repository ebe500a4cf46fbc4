"""The command that looks at this machine, or at a sparse coder."""

from __future__ import annotations

from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import AsJson, Device, Dtype
from lite_interp.cli.records import print_records
from lite_interp.errors import UsageError


def doctor(
    engine: Annotated[
        str,
        typer.Option(
            help="Model that is installed, or a GGUF file.", autocompletion=completing.engines
        ),
    ] = "",
    coder: Annotated[str, typer.Option(help="Folder or file of a sparse coder.")] = "",
    subject: Annotated[
        str,
        typer.Option(
            help="Its subject: installed model, Hub-layout folder or GGUF file.",
            autocompletion=completing.subjects,
        ),
    ] = "",
    corpus: Annotated[str, typer.Option(help="Text to read; empty = the demo's.")] = "",
    hookpoint: Annotated[str, typer.Option(help="Where it reads; empty = its files say.")] = "",
    text_field: Annotated[str, typer.Option(help="Field of JSON lines with the text.")] = "text",
    context: Annotated[int, typer.Option(help="Longest context, tokens.")] = 128,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS first; else as the tokenizer does.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """What this machine is for an engine, or whether a sparse coder fits a subject.

    With --engine: times a few layers of the model in several quantisations, up to a minute. With
    --coder and --subject: what the coder is, FVU, L0 and densities on 2,000 tokens beside what its
    config declares, and which site or scale fits better. Nothing is written.
    """
    of_coder = [bool(each) for each in (coder, subject)]
    if len({not engine, *of_coder}) > 1 or (engine and (corpus or hookpoint)):
        raise UsageError("doctor looks at one thing", "--engine, or --coder with --subject")
    if engine:
        _look_at_engine(engine, as_json)
        return
    from lite_interp import study
    from lite_interp.coder_check import demo_corpus

    sections = study.parse_study(
        {
            "subject": {"model": subject, "device": device, "dtype": dtype},
            "coder": {"path": coder, "hookpoint": hookpoint},
            "corpus": {
                "paths": [corpus or str(demo_corpus())],
                "text_field": text_field,
                "n_ctx": context,
                "add_bos": bos,
            },
        },
        "options",
    )
    _look_at_coder(sections, as_json)


def _look_at_coder(sections, as_json: bool) -> None:
    """Check a coder and print its report."""
    from lite_interp.coder_check import check_coder, warnings
    from lite_interp.coder_check import showing as show
    from lite_interp.loading import CacheJob
    from lite_interp.render import terminal_safe
    from lite_interp.terminal import Screen, Terminal

    job = CacheJob(sections.subject, sections.coder, sections.corpus)
    report = check_coder(job, Terminal())
    if as_json:
        print_records([show.as_plain(report)])
        return
    console = Screen()
    console.print(show.facts_table(report))
    for table in (show.declared_table(report), show.tried_table(report)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    for line in warnings(report) or ["It fits: nothing that was looked at disagrees."]:
        console.print(terminal_safe(line), soft_wrap=True)


def _look_at_engine(engine: str, as_json: bool) -> None:
    """Time an engine and print what would be faster."""
    from lite_interp import doctor as look
    from lite_interp.engine.speed import measure
    from lite_interp.fetch import model_path
    from lite_interp.terminal import Screen, Terminal

    path = model_path(engine, "engine")
    file, machine = look.look_at_file(path), look.look_at_machine()
    console = Screen()
    if not as_json:
        console.print(look.facts_table(machine, file))
    Terminal().say("timing a few layers in each quantisation, up to a minute")
    speeds = measure(path)
    if as_json:
        print_records([look.as_plain(machine, file, speeds, engine)])
        return
    console.print()
    console.print(look.speeds_table(speeds))
    console.print()
    for line in look.advice(speeds, engine):
        console.print(line, soft_wrap=True)
