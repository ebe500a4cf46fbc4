"""How long a study will take on this machine, measured on a small sample before it starts."""

from __future__ import annotations

import time
from typing import NamedTuple

from lite_interp import study
from lite_interp.documents import Skips
from lite_interp.engine import Engine
from lite_interp.explain import Explainer, find_explainer
from lite_interp.loading import CacheJob, Loaded, Reporter, load_job, open_stream
from lite_interp.records import Sampling
from lite_interp.score import choose_scorers
from lite_interp.tools import find_engine

INSTRUCTION_TOKENS = 60
"""Tokens of an explaining or judging prompt beside its windows, about."""
QUESTION_TOKENS = 4
"""Tokens behind a judged window, about."""
ANSWER_TOKENS = 20
"""Tokens of an explanation, about."""
SAMPLE_TOKENS = 512
SAMPLE_WRITTEN = 12


class Estimate(NamedTuple):
    """Seconds that each stage will take if nothing is done yet."""

    cache: float
    """Reading the corpus."""
    explain: float
    """Explaining."""
    score: float
    """Judging with the engine; the embedder takes seconds."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def estimate(whole: study.Study, tell: Reporter) -> tuple[Estimate, Loaded]:
    """Time a sample of each kind of work; gives back the loaded models for the run itself."""
    named = [
        find_explainer(name, whole.explain.settings.get(name)) for name in whole.explain.explainers
    ]
    asked = [explainer for explainer in named if explainer.prompt]
    scorers = choose_scorers(whole.score.scorers, whole.score.scorer_settings())
    judged = [scorer for scorer in scorers if scorer.needs == "engine"]
    explain_seconds = score_seconds = 0.0
    if asked or judged:
        tell.say("timing the engine")
        with find_engine(whole.engine).open(tell) as engine:
            speed = _engine_speed(engine)
        examples, read = whole.examples, speed[0]
        explain_seconds = whole.latents.n * sum(
            answer_seconds(explainer, examples, speed) for explainer in asked
        )
        windows = examples.n_active + examples.n_silent
        windows += examples.n_same_token + examples.n_sibling + examples.n_near
        trial = windows * (examples.width + QUESTION_TOKENS) + INSTRUCTION_TOKENS
        explanations = len(whole.explain.explainers) * (1 + whole.score.n_controls)
        trials = sum(1 if each.judges == "latent" else explanations for each in judged)
        score_seconds = whole.latents.n * trials * trial / read
    job = CacheJob(whole.subject, whole.coder, whole.corpus, whole.cache)
    loaded = load_job(job, tell)
    stream = open_stream(job, loaded.tokenizer, Skips())
    n_tokens = sum(int(shard.lengths.sum()) for shard in stream)
    cache_seconds = n_tokens / loaded.sample.tokens_per_second
    return Estimate(cache_seconds, explain_seconds, score_seconds), loaded


def answer_seconds(
    explainer: Explainer, examples: study.ExamplesSection, speed: tuple[float, float]
) -> float:
    """Seconds for one latent: what is read and written, and the windows that drafts are tried on.

    Args:
        explainer: with its settings.
        examples: how many windows are shown and held out.
        speed: tokens a second, read and written.
    """
    settings = explainer.settings
    n_answers = settings.get("k", 1 + settings.get("n_rounds", 0))
    n_read = 1 if "k" in settings else n_answers
    n_tried = explainer.n_held_out if examples.n_held_out is None else examples.n_held_out
    n_tried *= 2 * n_answers if explainer.helpers else 0
    tokens = n_read * (examples.n_shown * (1.4 * examples.width) + 2 * INSTRUCTION_TOKENS)
    tokens += n_tried * (examples.width + QUESTION_TOKENS)
    read, written = speed
    return tokens / read + n_answers * ANSWER_TOKENS / written


def _engine_speed(engine: Engine) -> tuple[float, float]:
    """Tokens a second when judging windows, and when writing."""
    text = " ".join(f"the {number}th house on the hill" for number in range(SAMPLE_TOKENS))
    tokens = engine.tokenize(text)[:SAMPLE_TOKENS]
    prefix, rest = tokens[:32], tokens[32:]
    suffixes = [rest[start : start + 40] for start in range(0, len(rest), 40)]
    engine.answers(prefix, suffixes[:1], [[tokens[0]]])
    started, before = time.perf_counter(), engine.n_evaluated
    engine.answers(prefix, suffixes, [[tokens[0]]])
    read = (engine.n_evaluated - before) / (time.perf_counter() - started)
    engine.generate([prefix], Sampling(1))
    started, before = time.perf_counter(), engine.n_written
    engine.generate([prefix], Sampling(SAMPLE_WRITTEN))
    n_written = max(1, engine.n_written - before)
    return read, n_written / (time.perf_counter() - started)
