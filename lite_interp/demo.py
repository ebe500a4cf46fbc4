"""The shipped example, and what `run` prints at its end."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from lite_interp.data import data_folder
from lite_interp.errors import ModelFileError
from lite_interp.fetch import fetch, installed, verify
from lite_interp.manifests import Manifest, Role, find_manifest, load_manifests
from lite_interp.terminal import Screen, Terminal, duration

BELIEF = (
    "What to believe: a judge is only as good as the distance between its score and its null,\n"
    "the same score for explanations of other latents. Where the interval of the difference\n"
    "holds 0, the judge says nothing about these explanations, however good they read."
)


def fetch_models(names: Sequence[str], terminal: Terminal) -> None:
    """Fetch the named models that are not installed, with a bar for each; paths are left alone."""
    for manifest in [find_manifest(name) for name in names if not Path(name).exists()]:
        there = installed(manifest)
        if there is not None:
            terminal.say(f"{manifest.name}: installed at {there}")
            continue
        with terminal.reading(f"fetching {manifest.name}", manifest.size) as bar:
            path = fetch(manifest, lambda state, bar=bar: bar.reach(state.done))
        terminal.say(f"{manifest.name}: fetched, hash right, at {path}")


def verify_model(manifest: Manifest, terminal: Terminal) -> list[str]:
    """What is wrong with a model that is installed, a line each, found with a bar of its bytes."""
    with terminal.reading(f"reading {manifest.name}", manifest.size) as bar:
        return verify(manifest, bar.add)


def model_records(names: Collection[str] | None = None) -> list[dict[str, object]]:
    """Models that are known, or those with these names, and where they are installed."""
    return [
        {
            "name": manifest.name,
            "roles": list(manifest.roles),
            "licence": manifest.licence,
            "bytes": manifest.size,
            "installed": str(installed(manifest) or ""),
        }
        for manifest in load_manifests()
        if names is None or manifest.name in names
    ]


def run_demo(results: Path, engine: str, terminal: Terminal) -> str:
    """The shipped study with the chosen engine and its table; returns what to read next."""
    from lite_interp.estimate import estimate
    from lite_interp.pipeline import run_study
    from lite_interp.study import read_study

    study = read_study(data_folder("models") / "demo" / "study.toml")
    study = study.model_copy(update={"engine": study.engine.model_copy(update={"model": engine})})
    wanted: tuple[tuple[str, Role], ...] = (
        (study.subject.model, "subject"),
        (engine, "engine"),
        (study.score.embedder, "embedder"),
    )
    for name, role in wanted:
        if not Path(name).exists() and installed(find_manifest(name, role)) is None:
            raise ModelFileError(
                f"a model of the demo is not installed: {name}",
                f"`lite-interp models fetch {name}` fetches it; `make demo` fetches them all",
            )
    started = time.monotonic()
    seconds, loaded = estimate(study, terminal)
    terminal.say(
        f"estimate: {duration(seconds.total)} (reading {duration(seconds.cache)}, explaining "
        f"{duration(seconds.explain)}, judging {duration(seconds.score)}); less if some is done"
    )
    cache_id, latents = run_study(results, study, terminal, loaded)
    print_results(results, cache_id, latents)
    terminal.say(f"done in {duration(time.monotonic() - started)}")
    first = latents[0]
    return (
        f"\n{BELIEF}\n\nEverything is in {results}. Try next:\n"
        f"  lite-interp show {results} {first}\n"
        f"  lite-interp list {results} --sort detection --down --variant relative\n"
        f"  lite-interp info {results}"
    )


def print_results(results: Path, cache_id: str, latents: Sequence[int]) -> None:
    """The table of the latents of a run, the means over them, and what the judges can reach."""
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.db.trials import load_scores
    from lite_interp.list_page import latents_table
    from lite_interp.oracles import ceiling_lines, ceilings
    from lite_interp.overview import latent_rows, summary_lines

    with read_results(results) as db:
        cache = the_cache(db, cache_id)
        rows = latent_rows(db, cache, "raw", latents)
        scores = load_scores(db, cache.id)
    console = Screen()
    console.print()
    console.print(latents_table(rows, console.width))
    console.print()
    for line in summary_lines([row for row in scores if row["latent"] in latents]):
        console.print(line)
    known = ceiling_lines(ceilings(scores))
    for line in ["", *known] if known else []:
        console.print(line)
