"""The command that explains, and how a plan is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lite_interp.cli import completing
from lite_interp.cli.options import (
    AllowRemote,
    AsJson,
    CacheId,
    CoderPlace,
    EmbedderModel,
    EngineContext,
    EngineModel,
    EngineValues,
    ExplainPlan,
    Latents,
    Option,
    Preset,
    Results,
    Seed,
    Shard,
    SubjectPlace,
    Threads,
    engine_section,
    latents_section,
    module_options,
    parse_part,
    preset_section,
)
from lite_interp.cli.records import print_records

if TYPE_CHECKING:
    from lite_interp.planning import PlannedUnit

Explainer = Annotated[
    list[str] | None,
    typer.Option(
        help="token_list, llm, contrastive, output, input+output, revise, best_of; repeat.",
        autocompletion=completing.explainers,
    ),
]
N = Annotated[int, typer.Option(help="How many latents to draw.")]
MinDensity = Annotated[float, typer.Option(help="Draw from latents this dense…")]
MaxDensity = Annotated[float, typer.Option(help="…to this dense.")]
Sampler = Annotated[
    str, typer.Option(help="quantiles, top, random, mix.", autocompletion=completing.samplers)
]
Width = Annotated[int, typer.Option(help="Tokens in a window.")]
Shown = Annotated[int, typer.Option(help="Windows shown to the explainer.")]
Active = Annotated[int, typer.Option(help="Activating windows kept for scoring.")]
Silent = Annotated[int, typer.Option(help="Random silent windows kept for scoring.")]
SameToken = Annotated[int, typer.Option(help="Silent windows with the latent's token.")]
Sibling = Annotated[int, typer.Option(help="Silent windows where a similar latent fires.")]
Near = Annotated[int, typer.Option(help="Silent windows near to the activating ones.")]
HeldOut = Annotated[
    int | None,
    typer.Option(
        help="Windows of each kind held out for explainers that try; else what they want.",
        show_default=False,
    ),
]
Prompt = Annotated[
    str,
    typer.Option(
        help="Prompt name, e.g. paper, or .toml file, of the first that asks.",
        autocompletion=completing.prompts,
    ),
]


def explain(
    context: typer.Context,
    results: Results,
    explainer: Explainer = None,
    engine: EngineModel = "",
    latents: Latents = "",
    n: N = 8,
    min_density: MinDensity = 0.0005,
    max_density: MaxDensity = 0.02,
    sampler: Sampler = "quantiles",
    width: Width = 32,
    shown: Shown = 20,
    active: Active = 50,
    silent: Silent = 50,
    same_token: SameToken = 0,
    sibling: Sibling = 0,
    near: Near = 0,
    held_out: HeldOut = None,
    embedder: EmbedderModel = "all-minilm-l6-v2",
    prompt: Prompt = "",
    preset: Preset = "",
    option: Option = None,
    subject: SubjectPlace = "",
    coder: CoderPlace = "",
    n_ctx: EngineContext = 4096,
    threads: Threads = 0,
    values: EngineValues = None,
    allow_remote: AllowRemote = False,
    explain_plan: ExplainPlan = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    shard: Shard = "1/1",
    cache: CacheId = "",
) -> None:
    """Example sets → explanations, for the named latents or for some drawn by seed."""
    from lite_interp import study
    from lite_interp.explain_pipeline import ExplainJob, explain_latents
    from lite_interp.plain import explained_records
    from lite_interp.terminal import Terminal

    windows = {
        "width": width, "sampler": sampler, "n_shown": shown, "n_active": active,
        "n_silent": silent, "n_same_token": same_token, "n_sibling": sibling, "n_near": near,
        "n_held_out": held_out, "embedder": embedder,
    }  # fmt: skip
    asked = {"explainers": tuple(explainer or ("llm",)), "prompt": prompt}
    asked |= {"settings": module_options(option or [])}
    chosen = latents_section(latents, n, min_density, max_density)
    drawn = preset_section(context, preset, study.ExamplesSection, windows)
    how = preset_section(context, preset, study.ExplainSection, asked)
    asks = engine_section(engine, n_ctx, threads, allow_remote, values)
    job = ExplainJob(seed, chosen, drawn, asks, how, subject, coder, parse_part(shard))
    if explain_plan:
        from lite_interp.planning import plan_explanations

        print_plan(plan_explanations(results, cache, job, Terminal()), as_json)
        return
    done = explain_latents(results, cache, job, Terminal())
    if as_json:
        print_of_file(results, cache, explained_records, done.explanation_ids)


def print_of_file(results: Path, cache: str, records: Callable[..., Any], *about: Any) -> None:
    """Print records that a file holds about a cache."""
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results

    with read_results(results) as db:
        print_records(records(db, the_cache(db, cache), *about))


def print_plan(units: Sequence[PlannedUnit], as_json: bool) -> None:
    """Print a plan on stdout: a line for each unit, and for people the sums."""
    from lite_interp.planning import plan_table
    from lite_interp.terminal import Screen

    if as_json:
        print_records({"kind": "unit", **each._asdict()} for each in units)
    else:
        Screen().print(plan_table(units))
