"""Commands that write to a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.explain import print_of_file
from lite_interp.cli.options import AsJson, Device, Dtype, Results, Shard, parse_part
from lite_interp.errors import UsageError

Subject = Annotated[
    str,
    typer.Option(
        help="Installed model, Hub-layout folder or GGUF file.", autocompletion=completing.subjects
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        help="all, or reservoir: a part of each latent.",
        autocompletion=completing.one_of("all", "reservoir"),
    ),
]


def demo(
    results: Annotated[Path, typer.Option(help="Results file.")] = Path("demo.db"),
    engine: Annotated[
        str,
        typer.Option(
            help="Engine; smollm2-135m is the quick, weak one.",
            autocompletion=completing.engines,
        ),
    ] = "qwen2.5-coder-1.5b-instruct",
) -> None:
    """The whole pipeline on the shipped example: 8 latents of a small model's layer 9."""
    from lite_interp.demo import run_demo
    from lite_interp.terminal import Terminal

    typer.echo(run_demo(results, engine, Terminal()))


def run(
    study: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    results: Annotated[
        Path | None, typer.Option(help="Results file; left out = beside the study file, .db.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The whole pipeline from one study file; a second run goes on where the first stopped."""
    from lite_interp.demo import print_results
    from lite_interp.overview import latent_rows
    from lite_interp.pipeline import run_study
    from lite_interp.study import read_study
    from lite_interp.terminal import Terminal

    whole = read_study(study)
    path = results or study.with_suffix(".db")
    cache_id, latents = run_study(path, whole, Terminal())
    if as_json:
        print_of_file(path, cache_id, latent_rows, "raw", latents)
    else:
        print_results(path, cache_id, latents)


def cache(
    results: Results,
    subject: Subject,
    coder: Annotated[list[str], typer.Option(help="Folder, file, neurons:LAYER; may be repeated.")],
    corpus: Annotated[list[str], typer.Option(help="File or folder of text; may be repeated.")],
    hookpoint: Annotated[
        list[str] | None, typer.Option(help="Where each coder reads; left out = its files say.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field of JSON lines with the text.")] = "text",
    context: Annotated[int, typer.Option(help="Longest context, tokens.")] = 128,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS first; else as the tokenizer does.")
    ] = None,
    pack: Annotated[bool, typer.Option(help="Join documents in one context.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Read no more tokens; 0 = all.")] = 0,
    force: Annotated[bool, typer.Option(help="Go on although the coder does not fit.")] = False,
    random_coder: Annotated[
        bool, typer.Option("--random-coder", help="A floor: its shape, with random directions.")
    ] = False,
    keep: Keep = "all",
    shard: Shard = "1/1",
    batch_tokens: Annotated[int, typer.Option(help="Tokens in a pass; 0 = as memory has.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Corpus × subject × coders → firings. Goes on where it stopped.

    Several coders of one subject are read in one pass, each into a cache of its own.
    """
    from lite_interp import study
    from lite_interp.loading import CacheJob
    from lite_interp.pipeline import cache_corpus
    from lite_interp.plain import cache_record
    from lite_interp.terminal import Terminal

    names = {"path": coder, "hookpoint": hookpoint or [""] * len(coder)}
    if len(names["hookpoint"]) != len(coder):
        raise UsageError(
            f"{len(coder)} coders and {len(names['hookpoint'])} hookpoints",
            "name a --hookpoint for each --coder, or for none",
        )
    first, *others = ({key: each[n] for key, each in names.items()} for n in range(len(coder)))
    sections = study.parse_study(
        {
            "subject": {"model": subject, "device": device, "dtype": dtype},
            "coder": {**first, "force": force, "random": random_coder},
            "corpus": {
                "paths": corpus, "text_field": text_field, "n_ctx": context, "add_bos": bos,
                "packed": pack, "max_tokens": max_tokens,
            },
            "cache": {"keep": keep, "batch_tokens": batch_tokens},
        },
        "options",
    )  # fmt: skip
    more = tuple(sections.coder.model_copy(update=each) for each in others)
    job = CacheJob(sections.subject, sections.coder, sections.corpus, sections.cache, more)
    for name in cache_corpus(results, job, Terminal(), part=parse_part(shard)):
        if as_json:
            print_of_file(results, name.removeprefix("b2:"), lambda *place: [cache_record(*place)])
