"""The stage of steering: the subject goes on from prompts, once clean and once steered.

    scored windows ─cut behind the first firing─▶ prompts ─subject─▶ continuations in the file
    shown windows  ─the same─▶ prompts on which the strength is tuned, and tokens raised there

The unit of work is one latent at one setting. Nothing is asked of an engine here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sqlite_utils import Database

from lite_interp import steering
from lite_interp.db import caches, details, steerings, studies
from lite_interp.db.caches import CacheInfo
from lite_interp.detailing import Weights, compute_details
from lite_interp.ids import generator
from lite_interp.loading import Reporter
from lite_interp.records import ExampleSet, Explanation, Passage, Placed, Steering
from lite_interp.reopening import Places, reopen
from lite_interp.sae import SparseCoder
from lite_interp.score.intervention import steering_id
from lite_interp.subject import Subject
from lite_interp.tokenizer import Tokenizer

LONGEST_PROMPT = 64
"""Tokens of a prompt, at most: those before the first firing in its window, from the context."""

N_RAISED = 5
"""Tokens noted behind each prompt for tuning: those whose probability rises most."""


@dataclass(frozen=True, slots=True, eq=False)
class Steerer:
    """The subject and the coder, ready to be steered."""

    subject: Subject
    """The language model."""
    coder: SparseCoder
    """Whose latents are steered."""
    tokenizer: Tokenizer
    """The subject's."""
    tokens: Callable[[int], np.ndarray]
    """Token ids (n,) of a context."""
    lens: Callable[[int], Sequence[str]]
    """Texts of the tokens that a latent's decoder direction promotes; empty if unknown."""


class SteeringWork(NamedTuple):
    """One steering that is wanted."""

    id: str
    """Its name."""
    examples: ExampleSet
    """Where its prompts come from."""


def steer(
    db: Database,
    cache: CacheInfo,
    explanations: Sequence[Explanation],
    ways: Sequence[Mapping[str, Any]],
    places: Places,
    tell: Reporter,
) -> None:
    """Let the subject write what the intervention scorer reads, for every latent explained.

    Args:
        db: the file.
        cache: the cache.
        explanations: whose latents are steered; those made by rule are not.
        ways: settings of the scorer, one for each way to steer.
        places: where subject and coder are.
        tell: who is told.
    """
    names = dict.fromkeys(each.example_set_id for each in explanations if each.latent >= 0)
    steer_sets(db, cache, list(names), ways, places, tell)


def steer_sets(
    db: Database,
    cache: CacheInfo,
    example_set_ids: Sequence[str],
    ways: Sequence[Mapping[str, Any]],
    places: Places,
    tell: Reporter,
) -> None:
    """Steer the subject along the latents of example sets, where that was not done."""
    works = [(pending_steerings(db, example_set_ids, settings), settings) for settings in ways]
    if not any(work for work, _ in works):
        return
    steerer = open_steerer(db, cache, places, tell)
    for work, settings in works:
        label = "steering" if settings["ablate"] else f"steering (KL {settings['kl']:g})"
        for _ in tell.track(write_steerings(db, work, settings, steerer), len(work), label):
            pass


def pending_steerings(
    db: Database, example_set_ids: Sequence[str], settings: Mapping[str, Any]
) -> list[SteeringWork]:
    """The example sets for which the subject was not steered with these settings."""
    ids = {steering_id(name, settings): name for name in example_set_ids}
    return [
        SteeringWork(name, _examples(db, example_set_id))
        for name, example_set_id in ids.items()
        if not studies.known(db, "steerings", name)
    ]


def _examples(db: Database, example_set_id: str) -> ExampleSet:
    found = studies.load_example_set(db, example_set_id)
    assert found is not None
    return found


def open_steerer(db: Database, cache: CacheInfo, places: Places, tell: Reporter) -> Steerer:
    """Load subject and coder as the cache had them, and refuse other ones.

    The details of latents, which say what a direction promotes, are made if they are missing.

    Raises:
        SubjectError: no subject there, or another one.
        CoderError: no coder there, or another one.
    """
    made = reopen(db, cache, places, tell)
    subject, coder, tokenizer = made.subject, made.coder, made.tokenizer
    if not details.has_details(db, cache.id):
        weights = Weights(subject, coder, subject.resolve(coder.writes))
        compute_details(db, cache, tokenizer, weights)
    lengths, token_ids = caches.load_tokens(db, cache.corpus)

    def lens(latent: int) -> list[str]:
        found = details.load_details(db, cache.id, latent)
        return [text for text, _ in (found.promoted or ())] if found else []

    return Steerer(
        subject,
        coder,
        tokenizer,
        lambda context: token_ids[context, : lengths[context]],
        lens,
    )


def write_steerings(
    db: Database, work: Sequence[SteeringWork], settings: Mapping[str, Any], steerer: Steerer
) -> Iterator[None]:
    """Steer latent by latent, each stored whole."""
    for wanted in work:
        started = time.perf_counter()
        done = steer_one(wanted, settings, steerer)
        steerings.store_steering(db, done, time.perf_counter() - started)
        yield


def steer_one(wanted: SteeringWork, settings: Mapping[str, Any], steerer: Steerer) -> Steering:
    """Tune the strength on shown windows, and let the subject go on from scored ones."""
    examples = wanted.examples
    random = generator(examples.seed, examples.latent, "steering")
    tuning = _prompts(examples.shown, settings["n_tuning"], random, steerer)
    scored = _prompts(examples.scored, settings["n_prompts"], random, steerer)
    nothing = Steering(wanted.id, examples.id, settings, None, None, None, {}, None, ())
    if not tuning or not scored:
        return replace(nothing, failure="no_prompts")
    shown = steering.read_prompts(steerer.subject, [tokens for _, tokens in tuning])
    steer, kl_tuned, reached = _tuned(shown, settings, examples, steerer)
    if steer is None or not reached:
        return replace(nothing, kl_tuned=kl_tuned, failure="not_reached")
    prompts = steering.read_prompts(steerer.subject, [tokens for _, tokens in scored])
    how = steering.Continuing(
        settings["n_tokens"],
        settings["n_continuations"],
        settings["temperature"],
        examples.seed,
        steerer.tokenizer.special_ids,
    )
    names = [placed.window.id for placed, _ in scored]
    clean, steered = steering.continue_prompts(prompts, [None, steer], how, names)
    return replace(
        nothing,
        strength=None if settings["ablate"] else steer.strength,
        kl_tuned=kl_tuned,
        kl_scored=steering.mean_kl(prompts, steer),
        promoted={
            **_promoted(prompts, steer, (clean, steered), examples.latent, steerer),
            "shown": _raised(tuning, shown, steer, steerer),
        },
        passages=tuple(
            Passage(
                placed.window.id,
                _text(tokens, steerer),
                tuple(_text(row, steerer) for row in clean[number]),
                tuple(_text(row, steerer) for row in steered[number]),
            )
            for number, (placed, tokens) in enumerate(scored)
        ),
    )


def _prompts(
    placed: Sequence[Placed], n: int, random: np.random.Generator, steerer: Steerer
) -> list[tuple[Placed, list[int]]]:
    """Up to n activating windows, evenly over the strengths, each with its prompt's tokens."""
    active = [each for each in placed if each.window.peak > 0]
    # Ranks are spread over equal parts, at random within a part.
    parts = np.array_split(np.arange(len(active)), min(n, len(active)) or 1)
    chosen = [int(random.choice(part)) for part in parts if len(part)]
    return [(active[place], _tokens(active[place], steerer)) for place in chosen]


def _tokens(placed: Placed, steerer: Steerer) -> list[int]:
    """Tokens of the context up to the first firing in the window, the last ones if many."""
    window = placed.window
    end = window.start + int(np.flatnonzero(window.values > 0)[0]) + 1
    return steerer.tokens(window.context)[max(0, end - LONGEST_PROMPT) : end].tolist()


def _tuned(
    prompts: steering.Prompts,
    settings: Mapping[str, Any],
    examples: ExampleSet,
    steerer: Steerer,
) -> tuple[steering.Steer | None, float, bool]:
    """How to steer, the KL that has on the tuning prompts, and whether that is what was asked."""
    strength = None if settings["ablate"] else 1.0
    steer = steering.steer_latent(steerer.subject, steerer.coder, examples.latent, strength)
    if settings["direction"] == "random":
        draw = generator(examples.seed, examples.latent, "direction")
        norm = float(steer.direction.norm())
        direction = steering.random_direction(draw, norm, len(steer.direction))
        steer = replace(steer, direction=direction)
    if settings["ablate"]:
        return steer, steering.mean_kl(prompts, steer), True
    tuned = steering.find_strength(prompts, steer, settings["kl"])
    return replace(steer, strength=tuned.strength), tuned.kl, tuned.reached


def _promoted(
    prompts: steering.Prompts,
    steer: steering.Steer,
    written: tuple[steering.Continuations, steering.Continuations],
    latent: int,
    steerer: Steerer,
) -> dict[str, Any]:
    """Tokens that steering makes likelier, over all prompts; and the check by the logit lens."""
    gains: dict[int, float] = {}
    for row in steering.promoted_tokens(prompts, steer):
        for token, increase in row:
            gains[token] = gains.get(token, 0.0) + increase / len(prompts)
    best = sorted(gains.items(), key=lambda gain: (-gain[1], gain[0]))[:10]
    found: dict[str, Any] = {
        "tokens": [[_text([token], steerer), round(gain, 6)] for token, gain in best]
    }
    lens = set(steerer.lens(latent))
    if lens:
        clean, steered = (
            [_text([token], steerer) in lens for rows in each for row in rows for token in row]
            for each in written
        )
        found["lens_steered"] = float(np.mean(steered))
        found["lens_clean"] = float(np.mean(clean))
    return found


def _raised(
    tuning: Sequence[tuple[Placed, list[int]]],
    prompts: steering.Prompts,
    steer: steering.Steer,
    steerer: Steerer,
) -> list[list[Any]]:
    """[text of a prompt for tuning, [[token, increase of its probability], …]] for each of them."""
    raised = steering.promoted_tokens(prompts, steer, N_RAISED)
    return [
        [_text(tokens, steerer), [[_text([each], steerer), round(gain, 6)] for each, gain in row]]
        for (_, tokens), row in zip(tuning, raised, strict=True)
    ]


def _text(tokens: Sequence[int], steerer: Steerer) -> str:
    return "".join(steerer.tokenizer.texts(list(tokens)))
