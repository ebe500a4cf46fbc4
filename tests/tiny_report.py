"""A small results file with everything that a page shows: made by hand, judged by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tiny_results
from sqlite_utils import Database
from tiny_results import CACHE, ENGINE, PROMPT, USAGE, make_explanation

from lite_interp.analysis import write_scores
from lite_interp.db import details, steerings, studies, trials
from lite_interp.db.file import add, open_results
from lite_interp.details import LatentDetails
from lite_interp.records import (
    ExampleSet,
    Explanation,
    Passage,
    Place,
    Placed,
    Steering,
    Trial,
    Verdict,
)
from lite_interp.samplers import DrawSettings, example_set_id
from lite_interp.score import SCORERS
from lite_interp.windows import make_window

TOKENS = (" in", " the", " year", " of", " our", " lord")
ACTIVE, SILENT = 6, 4
JUDGED = ("detection", "fuzzing", "simulation", "intruder")


def draw(latent: int, tokens: Sequence[str] = TOKENS) -> ExampleSet:
    """Two windows shown, one held out, six activating and four silent ones scored."""
    settings = DrawSettings(width=6, n_shown=2, n_active=ACTIVE, n_silent=SILENT)

    def placed(context: int, peak: float, stratum: str) -> Placed:
        values = np.zeros(len(tokens), np.float32)
        if peak:
            values[[context % len(tokens), -1]] = (peak, peak / 7)
        window = make_window(CACHE, latent, Place(context, 0, len(tokens)), tuple(tokens), values)
        return Placed(window, stratum, 2.0)

    active = [placed(n, 9.0 - n - latent / 10, f"decile_{n}") for n in range(ACTIVE)]
    silent = [placed(ACTIVE + n, 0.0, "random") for n in range(SILENT)]
    return ExampleSet(
        example_set_id(CACHE, latent, settings, 0),
        latent,
        settings.sampler,
        asdict(settings),
        0,
        (placed(20, 9.5, "decile_0"), placed(21, 5.0, "decile_4")),
        (*active, *silent),
        (placed(22, 4.0, "decile_5"),),
    )


def judge(examples: ExampleSet, explanation: Explanation | None, scorer: str) -> Trial:
    """A trial by a rule: right of its own latent's windows, but for the weakest; else noise."""
    known = SCORERS[scorer]
    own = explanation is None or explanation.latent == examples.latent
    verdicts = []
    for place, item in enumerate(known.items(examples, known.settings, None)):
        value, detail = float(place % 3), None
        if own:
            value = (1.5 if item.active else -1.5) + place / 10
            value = -2.0 if item.stratum == "decile_5" else value
        if scorer == "simulation":
            expected = [float(each) for each in np.linspace(0, 9, len(item.window.tokens))]
            detail = {"expected": expected, "mass": 0.5}
        if scorer == "intruder":
            value, detail = float(place % 2), {"place": 2, "chosen": 2 - (place + 1) % 2}
            detail |= {"stratum": item.stratum, "log_probabilities": [-1.6] * 5}
        verdicts.append(Verdict(item.window.id, item.active, value, None, item.name, detail))
    whose = explanation.id if explanation else "none"
    return Trial(
        f"b2:trial/{scorer}/{whose}/{examples.id}",
        scorer,
        dict(known.settings),
        explanation.id if explanation else None,
        examples.id,
        not own,
        PROMPT,
        ENGINE,
        tuple(verdicts),
    )


def steer(examples: ExampleSet, text: str = " and so on") -> Steering:
    """What the subject wrote behind two prompts."""
    passages = [
        Passage(each.window.id, "once upon", (" a time", " a hill"), (text, text))
        for each in examples.scored[:2]
    ]
    settings = {"ablate": False, "direction": "decoder", "kl": 1.0}
    told = {"tokens": [[" year", 0.31]], "lens_clean": 0.1, "lens_steered": 0.4}
    name = f"b2:steering{examples.latent}"
    return Steering(name, examples.id, settings, 9.0, 1.0, 0.9, told, None, tuple(passages))


def detail(latent: int, n_latents: int, token: str = " year") -> LatentDetails:
    """Details whose neighbours are the next latent and one that is nowhere."""
    near = (((latent + 1) % n_latents, 0.5), (99, 0.25))
    return LatentDetails(
        latent=latent,
        quantiles=tuple(float(n) for n in range(11)),
        top_tokens=((token, 0.75), (" of", 0.25)),
        single_token_share=0.75,
        position_dependence=0.02,
        flags=("rare",),
        promoted=((token, 3.25),),
        suppressed=((" not", -2.5),),
        decoder_neighbours=near,
        cofiring_neighbours=near[:1],
    )


def fill(db: Database, n_latents: int, texts: Sequence[str], tokens: Sequence[str]) -> None:
    """A complete cache with explained and judged latents; `texts` say what they mean."""
    tiny_results.add_cache(db)
    db.execute("update caches set n_counted = 1000")
    db.execute("update coders set n_latents = 100")
    told, sets = [], []
    for latent in range(n_latents):
        counts = {"n_firings": 150 + latent, "n_contexts": 5, "density": 0.001 * (latent + 1)}
        values = {"max_value": 9.5, "mean_value": 1.234567, "histogram": [*range(20, 0, -1)]}
        add(db, "latents", {"cache_id": CACHE, "latent": latent, **counts, **values})
        examples = draw(latent, tokens)
        studies.store_example_set(db, CACHE, examples)
        explanation = make_explanation(examples, text=texts[latent % len(texts)])
        other = make_explanation(
            examples, "y", explainer="token_list", engine_id=None, prompt_id=None,
            text=None if latent else "year", failure="no_windows" if latent else None,
        )  # fmt: skip
        studies.store_explanations(db, CACHE, [(explanation, USAGE), (other, USAGE)])
        steerings.store_steering(db, steer(examples, texts[latent % len(texts)]), 1.5)
        told.append(explanation)
        sets.append(examples)
    details.store_details(
        db, CACHE, [detail(latent, n_latents, tokens[-1]) for latent in range(n_latents)]
    )
    for place, examples in enumerate(sets):
        others = [told[(place + step) % n_latents] for step in range(min(3, n_latents))]
        for scorer in JUDGED:
            alone = SCORERS[scorer].judges == "latent"
            judged = [judge(examples, each, scorer) for each in ([None] if alone else others)]
            trials.store_trials(db, [(each, USAGE) for each in judged], "engine")
    write_scores(db, CACHE)


def make_results(
    path: Path, n_latents: int = 3, texts: Sequence[str] = ("",), tokens: Sequence[str] = TOKENS
) -> Path:
    """The same in a file."""
    with open_results(path, create=True) as db:
        named = [text or f"meaning {latent}" for latent, text in enumerate(texts * n_latents)]
        fill(db, n_latents, named[:n_latents], tokens)
    return path
