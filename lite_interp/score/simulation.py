"""Simulation: how well can a reader of the explanation foretell the activation at each token?

    expected(token) = Σ r p(r) / Σ p(r)   over the ratings r = 0 … 9, read behind the token

The score is Pearson's r between the expected ratings and the activations, over the tokens of all
windows of a latent together. Source: Bills et al. 2023, all at once: the ratings of earlier tokens
are unknown, and one pass reads all. We differ: ratings end at 9, one token for every engine (10
costs an evaluation a token); the truth is the raw activation, not one rounded to 0 … 10, which
for a correlation changes only the rounding; and windows come from all strata, from which the
analysis takes those of any choice, such as top and random.

    token ⇥ ?                 a token of the window, a tab, a place that stays unknown
         ▲ here the rating is read
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import ChatTokens, Engine, EngineFailure, expected_digits
from lite_interp.errors import UsageError
from lite_interp.ids import generator
from lite_interp.prompts import Message, Prompt
from lite_interp.records import ExampleSet, Placed, Steering, Window
from lite_interp.render import one_row
from lite_interp.score.asking import asking_tools, failed
from lite_interp.score.base import Item, Judgement, Scorer, Tools, quoted
from lite_interp.score.open_end import before_window, check_open, spelled

MODES = ("all_at_once", "token_by_token")
HIGHEST = (9, 10)
BEHIND_TOKEN, UNKNOWN, END = "\t", "?", "\n"


class Rows(NamedTuple):
    """A window as it is read: a row of engine tokens for each of its tokens."""

    before: list[list[int]]
    """Of each row, the engine's tokens up to the place where its rating is read."""
    unknown: list[int]
    """What closes a row whose rating is unknown."""

    def line(self, closings: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """Rows closed by what is given for each, and the places behind which ratings are read."""
        tokens: list[int] = []
        places: list[int] = []
        for before, closing in zip(self.before, closings, strict=False):
            tokens += before
            places.append(len(tokens) - 1)
            tokens += closing
        return tokens, places


def items(
    examples: ExampleSet, settings: Mapping[str, Any], steering: Steering | None
) -> list[Item]:
    """Some of the scored windows: half activating, spread over the deciles, half silent.

    A weight grows as its stratum is thinned out, so that it still says how many windows of the
    cache one stands for.
    """
    check(settings)
    n = int(settings["n_windows"])
    random = generator(examples.seed, examples.latent, "simulation")
    kinds = [
        [placed for placed in examples.scored if (placed.window.peak > 0) == kind]
        for kind in (True, False)
    ]
    chosen = [*_spread(kinds[0], n - n // 2, random), *_spread(kinds[1], n // 2, random)]
    have, kept = _counts(examples.scored), _counts(chosen)
    names = {placed.window.id for placed in chosen}
    return [
        Item(window, window.peak > 0, stratum, weight * have[stratum] / kept[stratum])
        for window, stratum, weight in examples.scored
        if window.id in names
    ]


def check(settings: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a setting that has no meaning."""
    for name, allowed in (("mode", MODES), ("highest", HIGHEST)):
        if settings[name] not in allowed:
            raise UsageError(
                f"simulation.{name} is unknown: {settings[name]!r}",
                "there is: " + ", ".join(map(str, allowed)),
            )
    if settings["n_windows"] < 2:
        raise UsageError(
            f"simulation.n_windows is too small: {settings['n_windows']}", "choose 2 or more"
        )


def ask(explanation: str, highest: int, prompt: Prompt) -> tuple[Message, ...]:
    """What stands before the rows of a window."""
    return prompt.fill(explanation=quoted(explanation), highest=str(highest), window="")


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """The greatest expected rating of each window; those of all its tokens in `detail`.

    An engine that fails gives failures, not an exception.
    """
    engine, prompt = asking_tools(tools, "simulation")
    check(settings)
    check_open(prompt)
    if not items:
        return []
    highest = int(settings["highest"])
    rate = all_at_once if settings["mode"] == "all_at_once" else token_by_token
    try:
        messages = ask(explanation, highest, prompt)
        windows = rows_of([item.window for item in items], messages, engine)
        ratings = rate(before_window(messages, engine), windows, highest, engine)
    except EngineFailure as failure:
        return failed(failure, len(items))
    return [judged(each) for each in ratings]


def rows_of(windows: Sequence[Window], messages: Sequence[Message], engine: Engine) -> list[Rows]:
    """Each window in rows. Tokens of the subject are spelled one by one: so places are exact."""
    texts = {token: one_row(token) for window in windows for token in window.tokens}
    known = {text: spelled(text, messages, engine) for text in set(texts.values())}
    behind, unknown = engine.tokenize(BEHIND_TOKEN), engine.tokenize(UNKNOWN + END)
    return [
        Rows([known[texts[token]] + behind for token in window.tokens], unknown)
        for window in windows
    ]


def all_at_once(
    start: ChatTokens, windows: Sequence[Rows], highest: int, engine: Engine
) -> list[NDArray[np.float32]]:
    """(n_tokens, highest + 1) log-probabilities of the ratings, all earlier ones unknown."""
    lines = [rows.line([rows.unknown] * len(rows.before)) for rows in windows]
    # Nothing is read behind the last place.
    suffixes = [tokens[: places[-1] + 1] if places else [] for tokens, places in lines]
    return engine.digits(
        start.prefix, suffixes, [places for _, places in lines], highest, start.root
    )


def token_by_token(
    start: ChatTokens, windows: Sequence[Rows], highest: int, engine: Engine
) -> list[NDArray[np.float32]]:
    """The slow twin: earlier ratings are filled in, as the expected ones rounded.

    The windows go side by side, one call of the engine for each of their tokens.
    """
    found = [np.zeros((len(rows.before), highest + 1), np.float32) for rows in windows]
    closings: list[list[list[int]]] = [[] for _ in windows]
    for index in range(max((len(rows.before) for rows in windows), default=0)):
        numbers = [n for n, rows in enumerate(windows) if index < len(rows.before)]
        lines = [windows[n].line([*closings[n], []]) for n in numbers]
        suffixes, places = [tokens for tokens, _ in lines], [each[-1:] for _, each in lines]
        answers = engine.digits(start.prefix, suffixes, places, highest, start.root)
        for number, answer in zip(numbers, answers, strict=True):
            found[number][index] = answer[0]
            expected = expected_digits(answer)[0][0]
            rating = UNKNOWN if np.isnan(expected) else str(round(float(expected)))
            closings[number].append(engine.tokenize(rating + END))
    return found


def judged(ratings: NDArray[np.float32]) -> Judgement:
    """The judgement that the log-probabilities of one window's ratings give."""
    if not len(ratings):
        return Judgement(None, "no_text")
    expected, mass = expected_digits(ratings)
    if not np.isfinite(expected).all():
        return Judgement(None, "not_finite")
    detail = {
        "expected": [round(float(each), 4) for each in expected],
        "mass": round(float(mass.mean()), 6),
    }
    return Judgement(float(expected.max()), detail=detail)


def _spread(windows: Sequence[Placed], n: int, random: np.random.Generator) -> list[Placed]:
    """At most n windows at equal steps through the strata, which are shuffled within."""
    mixed = [windows[number] for number in random.permutation(len(windows))]
    mixed.sort(key=lambda placed: placed.stratum)
    if n >= len(mixed):
        return mixed
    steps = ((2 * np.arange(n) + 1) * len(mixed)) // (2 * n)
    return [mixed[step] for step in steps.tolist()]


def _counts(windows: Sequence[Placed]) -> dict[str, int]:
    strata = sorted(placed.stratum for placed in windows)
    return {stratum: len(list(same)) for stratum, same in groupby(strata)}


SIMULATION = Scorer(
    "simulation",
    "Lets the engine rate every token under the explanation; correlates with the activations.",
    "engine",
    "score/simulation",
    "rating, 0 to `highest`",
    {"highest": 9, "mode": MODES[0], "n_windows": 20},
    items,
    score,
    statistic="pearson",
)
