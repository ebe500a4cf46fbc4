"""Commands that write to a results file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lite_interp.cli.options import (
    AllowRemote,
    CacheId,
    CoderPlace,
    EmbedderModel,
    EngineContext,
    EngineModel,
    EngineValues,
    ExplainPlan,
    Latents,
    Results,
    Seed,
    SubjectPlace,
    Threads,
    engine_section,
    latents_section,
)

if TYPE_CHECKING:
    from lite_interp.planning import PlannedUnit


def print_plan(units: Sequence[PlannedUnit]) -> None:
    """Print a plan on stdout: a line for each unit, and the sums."""
    from rich.console import Console

    from lite_interp.planning import plan_table

    Console(highlight=False, markup=False).print(plan_table(units))


def demo(
    results: Annotated[Path, typer.Option(help="Results file.")] = Path("demo.db"),
    engine: Annotated[
        str, typer.Option(help="Engine; smollm2-135m is the quick, weak one.")
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
) -> None:
    """The whole pipeline from one study file; a second run goes on where the first stopped."""
    from lite_interp.demo import print_results
    from lite_interp.pipeline import run_study
    from lite_interp.study import read_study
    from lite_interp.terminal import Terminal

    whole = read_study(study)
    path = results or study.with_suffix(".db")
    cache_id, latents = run_study(path, whole, Terminal())
    print_results(path, cache_id, latents)


def cache(
    results: Results,
    subject: Annotated[str, typer.Option(help="Installed model, Hub-layout folder or GGUF file.")],
    coder: Annotated[str, typer.Option(help="Folder of the sparse coder.")],
    corpus: Annotated[list[str], typer.Option(help="File or folder of text; may be repeated.")],
    hookpoint: Annotated[str, typer.Option(help="Where it reads; empty = its files say.")] = "",
    text_field: Annotated[str, typer.Option(help="Field of JSON lines with the text.")] = "text",
    context: Annotated[int, typer.Option(help="Longest context, tokens.")] = 128,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS first; else as the tokenizer does.")
    ] = None,
    pack: Annotated[bool, typer.Option(help="Join documents in one context.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Read no more tokens; 0 = all.")] = 0,
    force: Annotated[bool, typer.Option(help="Go on although the coder does not fit.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
) -> None:
    """Corpus × subject × coder → firings. Goes on where it stopped."""
    from lite_interp import study
    from lite_interp.loading import CacheJob
    from lite_interp.pipeline import cache_corpus
    from lite_interp.terminal import Terminal

    sections = study.parse_study(
        {
            "subject": {"model": subject, "device": device, "dtype": dtype},
            "coder": {"path": coder, "hookpoint": hookpoint, "force": force},
            "corpus": {
                "paths": corpus,
                "text_field": text_field,
                "n_ctx": context,
                "add_bos": bos,
                "packed": pack,
                "max_tokens": max_tokens,
            },
        },
        "options",
    )
    cache_corpus(results, CacheJob(sections.subject, sections.coder, sections.corpus), Terminal())


def explain(
    results: Results,
    explainer: Annotated[list[str] | None, typer.Option(help="token_list, llm, output.")] = None,
    engine: EngineModel = "",
    latents: Latents = "",
    n: Annotated[int, typer.Option(help="How many latents to draw.")] = 8,
    min_density: Annotated[float, typer.Option(help="Draw from latents this dense…")] = 0.0005,
    max_density: Annotated[float, typer.Option(help="…to this dense.")] = 0.02,
    sampler: Annotated[str, typer.Option(help="quantiles, top, random.")] = "quantiles",
    width: Annotated[int, typer.Option(help="Tokens in a window.")] = 32,
    shown: Annotated[int, typer.Option(help="Windows shown to the explainer.")] = 20,
    active: Annotated[int, typer.Option(help="Activating windows kept for scoring.")] = 50,
    silent: Annotated[int, typer.Option(help="Random silent windows kept for scoring.")] = 50,
    same_token: Annotated[int, typer.Option(help="Silent windows with the latent's token.")] = 0,
    sibling: Annotated[int, typer.Option(help="Silent windows where a similar latent fires.")] = 0,
    near: Annotated[int, typer.Option(help="Silent windows near to the shown ones.")] = 0,
    embedder: EmbedderModel = "all-minilm-l6-v2",
    prompt: Annotated[str, typer.Option(help="Prompt name or .toml file.")] = "",
    subject: SubjectPlace = "",
    coder: CoderPlace = "",
    n_ctx: EngineContext = 4096,
    threads: Threads = 0,
    values: EngineValues = None,
    allow_remote: AllowRemote = False,
    explain_plan: ExplainPlan = False,
    seed: Seed = 0,
    cache: CacheId = "",
) -> None:
    """Example sets → explanations, for the named latents or for some drawn by seed."""
    from lite_interp import study
    from lite_interp.pipeline import ExplainJob, explain_latents
    from lite_interp.terminal import Terminal

    chosen = latents_section(latents, n, min_density, max_density)
    drawn = study.parse_section(
        study.ExamplesSection,
        width=width,
        sampler=sampler,
        n_shown=shown,
        n_active=active,
        n_silent=silent,
        n_same_token=same_token,
        n_sibling=sibling,
        n_near=near,
        embedder=embedder,
    )
    names = tuple(explainer or ("llm",))
    asked = study.parse_section(study.ExplainSection, explainers=names, prompt=prompt)
    judge = engine_section(engine, n_ctx, threads, allow_remote, values)
    job = ExplainJob(seed, chosen, drawn, judge, asked, subject, coder)
    if explain_plan:
        from lite_interp.planning import plan_explanations

        print_plan(plan_explanations(results, cache, job, Terminal()))
        return
    explain_latents(results, cache, job, Terminal())
