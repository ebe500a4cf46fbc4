"""The command that scores."""

from __future__ import annotations

from typing import Annotated

import typer

from lite_interp.cli import completing
from lite_interp.cli.explain import print_of_file, print_plan
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
    Shard,
    SubjectPlace,
    Threads,
    engine_section,
    module_options,
    parse_indices,
    parse_part,
    preset_section,
)

Scorers = Annotated[
    str, typer.Option(help="Names with commas, or all.", autocompletion=completing.scorers)
]
Explainers = Annotated[
    list[str] | None,
    typer.Option(
        "--explainer",
        help="Only explanations of these; repeat.",
        autocompletion=completing.explainers,
    ),
]
Controls = Annotated[
    int, typer.Option(help="Other latents' explanations judged on the same windows: the null.")
]
DetectionPrompt = Annotated[
    str,
    typer.Option(
        help="Prompt name or .toml file for detection.", autocompletion=completing.prompts
    ),
]
Listed = Annotated[
    int, typer.Option("--list", help="Detection with so many windows a prompt; 0 = one.")
]
Marks = Annotated[
    str,
    typer.Option(
        help="Fuzzing: wrong marks in activating windows, or as in the paper.",
        autocompletion=completing.one_of("activating", "paper"),
    ),
]
Kl = Annotated[
    list[float] | None, typer.Option(help="Intervention: KL of the steering, nats; repeat.")
]
Ablate = Annotated[bool, typer.Option("--ablate", help="Intervention: clamp the latent to 0.")]
UntilSure = Annotated[
    float, typer.Option(help="Stop a latent when its interval is narrower, or it is certain.")
]
Oracles = Annotated[bool, typer.Option("--oracles", help="Judge rule-made latents too.")]


def score(
    context: typer.Context,
    results: Results,
    scorers: Scorers = "detection,embedding",
    engine: EngineModel = "",
    embedder: EmbedderModel = "all-minilm-l6-v2",
    explainers: Explainers = None,
    latents: Latents = "",
    controls: Controls = 4,
    prompt: DetectionPrompt = "",
    listed: Listed = 0,
    marks: Marks = "activating",
    kl: Kl = None,
    ablate: Ablate = False,
    until_sure: UntilSure = 0.0,
    oracles: Oracles = False,
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
    shard: Shard = "1/1",
    cache: CacheId = "",
) -> None:
    """Scorers × explanations → verdicts and scores, each with its null."""
    from lite_interp import study
    from lite_interp.intervening import Places
    from lite_interp.plain import mean_records
    from lite_interp.score_pipeline import ScoreJob, score_explanations
    from lite_interp.terminal import Terminal

    wanted = {
        "scorers": tuple(name.strip() for name in scorers.split(",") if name.strip()),
        "explainers": tuple(explainers or ()), "prompt": prompt, "embedder": embedder,
        "n_controls": controls, "list": listed, "marks": marks, "kl": tuple(kl or (1.0,)),
        "ablate": ablate, "until_sure": until_sure, "oracles": oracles,
        "settings": module_options(option or []),
    }  # fmt: skip
    section = preset_section(context, preset, study.ScoreSection, wanted)
    judge = engine_section(engine, n_ctx, threads, allow_remote, values)
    places, part = Places(subject, coder), parse_part(shard)
    job = ScoreJob(judge, section, parse_indices(latents), places, part=part)
    if explain_plan:
        from lite_interp.planning import plan_scores

        print_plan(plan_scores(results, cache, job, Terminal()), as_json)
        return
    score_explanations(results, cache, job, Terminal())
    if as_json:
        print_of_file(results, cache, mean_records)
