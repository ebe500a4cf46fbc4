"""The loop of every stage: what is pending in the file, compute one unit, store it whole.

The only place where computing meets storing. A stage lists its work first, so that a caller can
say how much there is, and then yields once for each unit that was stored: killed at any moment
it loses at most the unit in hand, and the same call goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lite_interp.cache import Reader, latent_stats, read_shard
from lite_interp.cost import Meter, shared_out
from lite_interp.db import caches, studies
from lite_interp.db.caches import CacheInfo
from lite_interp.engine import Engine
from lite_interp.explain import Explainer, explain_group, explanation_id
from lite_interp.ids import content_id, generator
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Explanation, Trial, Verdict
from lite_interp.samplers import DrawSettings, Source, draw_example_set, example_set_id
from lite_interp.score import Judgement, Scorer, Tools
from lite_interp.tokenizer import Tokenizer
from lite_interp.windows import make_grid

GROUP = 4
"""Latents that are explained side by side: a unit of work, lost together when a run is killed."""


def cache_shards(
    db: Database, cache_id: str, corpus_id: str, shards: Sequence[int], reader: Reader
) -> Iterator[None]:
    """Read the given shards of a corpus, each stored in one transaction."""
    for ordinal in shards:
        result = read_shard(caches.load_context_shard(db, corpus_id, ordinal), reader)
        row = {
            "cache_id": cache_id,
            "shard": ordinal,
            "n_firings": result.n_firings,
            "n_counted": result.n_counted,
            "n_masked": result.n_masked,
            "seconds": result.seconds,
        }
        caches.store_cache_shard(db, row, result.packed)
        yield


def finish_cache(db: Database, cache: CacheInfo) -> None:
    """Compute the statistics of every latent, once all shards are there."""
    n_counted = caches.counted_positions(db, cache.id)
    stats = {
        latent: latent_stats(latent, firings, n_counted)
        for latent, firings in caches.iterate_firings(db, cache)
    }
    silent = caches.load_firings(db, cache, -1)
    caches.finish_cache(
        db,
        cache.id,
        (
            stats.get(latent) or latent_stats(latent, silent, n_counted)
            for latent in range(cache.n_latents)
        ),
    )


def open_source(db: Database, cache: CacheInfo, tokenizer: Tokenizer, width: int) -> Source:
    """What example sets of a cache are drawn from: its windows and their texts."""
    lengths, token_ids = caches.load_tokens(db, cache.corpus)
    return Source(
        cache.id,
        make_grid(lengths, width),
        lambda place: token_ids[place.context, place.start : place.start + place.length],
        lambda ids: tokenizer.texts(ids.tolist()),
    )


def pending_draws(
    db: Database, cache: CacheInfo, latents: Sequence[int], settings: DrawSettings, seed: int
) -> list[int]:
    """The latents that have no example set of these settings and seed."""
    return [
        latent
        for latent in latents
        if not studies.known(db, "example_sets", example_set_id(cache.id, latent, settings, seed))
    ]


def write_examples(
    db: Database,
    cache: CacheInfo,
    source: Source,
    latents: Sequence[int],
    settings: DrawSettings,
    seed: int,
) -> Iterator[None]:
    """Draw the example sets of latents, each stored whole."""
    for latent in latents:
        firings = caches.load_firings(db, cache, latent)
        examples = draw_example_set(source, latent, firings, settings, seed)
        studies.store_example_set(db, cache.id, examples)
        yield


def load_examples(
    db: Database, cache: CacheInfo, latents: Sequence[int], settings: DrawSettings, seed: int
) -> list[ExampleSet]:
    """Example sets from the file, so that a fresh and a resumed run see the same numbers."""
    names = [example_set_id(cache.id, latent, settings, seed) for latent in latents]
    found = [studies.load_example_set(db, name) for name in names]
    return [examples for examples in found if examples is not None]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainWork:
    """Explanations that are wanted with one explainer, prompt and engine."""

    groups: tuple[tuple[ExampleSet, ...], ...]
    """Example sets without an explanation yet, those that are explained side by side together."""
    explainer: Explainer
    """How to explain."""
    prompt: Prompt | None
    """Prompt of the explainer, if it has one."""

    @property
    def n(self) -> int:
        """Explanations."""
        return sum(map(len, self.groups))


def pending_explanations(
    db: Database,
    examples: Sequence[ExampleSet],
    explainer: Explainer,
    prompt: Prompt | None,
    engine_id: str | None,
) -> ExplainWork:
    """The example sets that this explainer has not answered.

    Who is explained with whom follows from the whole list, not from what is pending, and a group
    is stored whole; so a run that was killed repeats the same numbers.
    """

    def unknown(example: ExampleSet) -> bool:
        name = explanation_id(example.id, explainer, prompt, engine_id)
        return not studies.known(db, "explanations", name)

    starts = range(0, len(examples), GROUP)
    groups = (tuple(filter(unknown, examples[start : start + GROUP])) for start in starts)
    return ExplainWork(tuple(group for group in groups if group), explainer, prompt)


def write_explanations(
    db: Database, cache: CacheInfo, work: ExplainWork, engine: Engine | None
) -> Iterator[None]:
    """Explain group by group, each stored whole with what it cost."""
    for group in work.groups:
        meter = Meter(engine)
        found = explain_group(group, work.explainer, work.prompt, engine)
        costs = shared_out(meter.read(), [usage for _, usage in found])
        studies.store_explanations(
            db, cache.id, [(each, cost) for (each, _), cost in zip(found, costs, strict=True)]
        )
        for _ in group:
            yield


@dataclass(frozen=True, slots=True, eq=False)
class TrialWork:
    """One trial that is wanted."""

    id: str
    """Its name."""
    explanation: Explanation
    """What is judged."""
    examples: ExampleSet
    """The windows it is judged on."""
    control: bool
    """Whether the windows are another latent's."""


def pending_trials(
    db: Database,
    explanations: Sequence[Explanation],
    pool: Sequence[Explanation],
    scorer: Scorer,
    tools: Tools,
    n_controls: int,
) -> list[TrialWork]:
    """The trials that are wanted and not there.

    Each explanation is judged on its own latent's windows, and on the same windows also
    explanations of `n_controls` other latents, by the same explainer, prompt and engine. Controls
    that were judged already are kept; the others are drawn from the pool by the name of the
    example set. The work is in the order of explanations, so that an engine evaluates each once.

    Args:
        db: the file.
        explanations: what is scored.
        pool: explanations that may be controls; usually all of the cache.
        scorer: how.
        tools: with what.
        n_controls: controls for each explanation.
    """
    able = sorted((each for each in pool if each.text is not None), key=lambda each: each.id)
    wanted = []
    for own in explanations:
        examples = studies.load_example_set(db, own.example_set_id)
        if own.text is None or examples is None or not examples.scored:
            continue
        wanted.append(_trial(own, examples, scorer, tools, control=False))
        settings, judge = trial_settings(scorer, tools), _judge(scorer, tools).id
        judged = studies.judged_controls(db, examples.id, scorer.name, settings, judge)
        wanted += [
            _trial(other, examples, scorer, tools, control=True)
            for other in _controls(own, able, judged, n_controls)
        ]
    pending = [trial for trial in wanted if not studies.known(db, "trials", trial.id)]
    return sorted(pending, key=lambda trial: (trial.explanation.id, trial.control, trial.id))


def _controls(
    own: Explanation, able: Sequence[Explanation], judged: set[str], n: int
) -> list[Explanation]:
    """Up to n explanations of as many other latents, those that were judged already first."""
    others = [other for other in able if _comparable(own, other)]
    order = generator(0, own.example_set_id, "controls").permutation(len(others))
    drawn = sorted((others[place] for place in order), key=lambda other: other.id not in judged)
    by_latent: dict[int, Explanation] = {}
    for other in drawn:
        by_latent.setdefault(other.latent, other)
    return list(by_latent.values())[:n]


def trial_settings(scorer: Scorer, tools: Tools) -> dict[str, Any]:
    """What tells the trials of one way to score from those of another, the prompt included."""
    prompt = {"prompt": tools.prompt.id} if tools.prompt else {}
    return {**scorer.settings, **prompt}


def _comparable(own: Explanation, other: Explanation) -> bool:
    return own.latent != other.latent and (
        own.explainer,
        own.prompt_id,
        own.engine_id,
        own.settings,
    ) == (other.explainer, other.prompt_id, other.engine_id, other.settings)


def _trial(
    explanation: Explanation, examples: ExampleSet, scorer: Scorer, tools: Tools, *, control: bool
) -> TrialWork:
    question = [
        "trial",
        scorer.name,
        dict(scorer.settings),
        explanation.id,
        explanation.text,
        examples.id,
        tools.prompt.id if tools.prompt else None,
        _judge(scorer, tools).id,
    ]
    return TrialWork(content_id(question), explanation, examples, control)


def _judge(scorer: Scorer, tools: Tools):
    judge = tools.engine if scorer.needs == "engine" else tools.embedder
    if judge is None:
        raise ValueError(f"the scorer {scorer.name} needs an {scorer.needs}")
    return judge


def write_trials(
    db: Database, work: Sequence[TrialWork], scorer: Scorer, tools: Tools
) -> Iterator[None]:
    """Judge trial by trial, the verdicts of one trial stored together."""
    for wanted in work:
        meter = Meter(tools.engine if scorer.needs == "engine" else None)
        windows = [placed.window for placed in wanted.examples.scored]
        judgements = scorer.score(wanted.explanation.text or "", windows, tools)
        trial = Trial(
            wanted.id,
            scorer.name,
            trial_settings(scorer, tools),
            wanted.explanation.id,
            wanted.examples.id,
            wanted.control,
            tools.prompt.id if tools.prompt else None,
            _judge(scorer, tools).id,
            tuple(_verdicts(wanted.examples, judgements)),
        )
        studies.store_trial(db, trial, scorer.needs, meter.read())
        yield


def _verdicts(examples: ExampleSet, judgements: Sequence[Judgement]) -> Iterator[Verdict]:
    for (window, _, _), (value, failure) in zip(examples.scored, judgements, strict=True):
        yield Verdict(window.id, window.peak > 0, value, failure)
