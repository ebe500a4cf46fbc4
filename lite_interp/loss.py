"""What judging loses when a model is quantised again.

Both files judge the same questions, with the prompt that scoring uses, and their margins are
compared:

    10 explanations × (2 texts that fit, 2 that do not) ─detection─▶ 40 margins of each file

Their speeds are measured in turn, on a prompt as long as a usual batch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import Engine, EngineSettings, open_engine
from lite_interp.engine.speed import interleave
from lite_interp.errors import EngineError
from lite_interp.prompts import load_prompt
from lite_interp.records import Estimate, Window
from lite_interp.score import Item, Tools, find_scorer
from lite_interp.stats import auroc, auroc_interval

QUESTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "words about rain and storms",
        "By noon the drizzle had turned into a downpour, and thunder rolled over the harbour.",
        "The forecast warns of hail and strong winds along the coast until Sunday evening.",
    ),
    (
        "prices and sums of money",
        "The tickets cost nine dollars each, and children under six pay half of that.",
        "He still owed the bank four thousand euros when the shop was sold.",
    ),
    (
        "musical instruments",
        "She put the violin back into its case and sat down at the piano.",
        "Two trumpets and a drum were all that was left of the village band.",
    ),
    (
        "illness and medicine",
        "The nurse checked his fever again and gave him another tablet for the pain.",
        "After the surgery the patient was kept in hospital because of an infection.",
    ),
    (
        "kinds of food",
        "For supper there was bread, a little cheese, and a soup of beans and onions.",
        "Chop the carrots, fry them in butter, and serve them with rice.",
    ),
    (
        "ships and sailing",
        "The captain ordered the crew to lower the sails before the boat reached the reef.",
        "An old ferry carries lorries across the strait twice a day and docks at the pier.",
    ),
    (
        "courts and law",
        "The judge dismissed the case, and the lawyer said that they would appeal.",
        "Witnesses must swear an oath before they give evidence at the trial.",
    ),
    (
        "computer programs and code",
        "The function returns an empty list when the file cannot be parsed.",
        "We fixed the bug by adding a test and rewriting the loop in the server.",
    ),
    (
        "birds",
        "A heron stood in the reeds while swallows chased flies above the pond.",
        "Every spring a pair of owls nests in the old barn and raises its chicks.",
    ),
    (
        "football and other sports",
        "The striker scored twice in the last ten minutes and the team won the cup.",
        "She trained all winter for the marathon and finished third in the race.",
    ),
)
"""An explanation, and two texts that it fits. The texts of others are those that do not fit."""
PROMPT_TOKENS = 256
"""Tokens of the prompt that is timed."""
SHARE = 0.6
"""Share of the available memory that two files may fill together."""
APART = (3, 6)
"""Explanations between one and those that lend it the texts that do not fit."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of the judging when a model was quantised again."""

    n_questions: int
    """Questions that both files answered."""
    n_failed: int
    """Questions that one of them did not."""
    shift: float
    """Mean difference of the margins, nats: what all answers have in common. It changes no
    ranking."""
    mean_difference: float
    """Mean |difference| of the margins, nats."""
    greatest_difference: float
    """Greatest |difference| of the margins, nats."""
    spread: float
    """Standard deviation of the first file's margins, nats: what the differences compare with."""
    correlation: float
    """Pearson's correlation of the margins; NaN if one file says the same to everything."""
    share_changed: float
    """Share of answers that went from yes to no, or from no to yes."""
    auroc: tuple[Estimate, Estimate]
    """How well texts that fit are told from others by the margin, with 95 % intervals: first
    file, second file."""
    tokens_per_second: tuple[float, float]
    """Prompt tokens/s, median over the rounds: first file, second file."""
    speed_ratio: float
    """Times as fast as the first file: median of the ratios, round by round."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one file says to everything, and how fast."""

    margins: NDArray[np.float64]
    """(n_questions,) nats; NaN where there is none."""
    seconds: Sequence[float]
    """(n_rounds,) seconds for `PROMPT_TOKENS` tokens of a prompt."""


def _window(text: str) -> Window:
    return Window("", 0, 0, 0, (text,), np.zeros(1, np.float32))


def _texts(number: int) -> list[str]:
    """Two texts that fit an explanation, then two that do not."""
    others = [QUESTIONS[(number + far) % len(QUESTIONS)] for far in APART]
    return [*QUESTIONS[number][1:], others[0][1], others[1][2]]


def fitting() -> NDArray[np.bool_]:
    """(n_questions,) which questions have yes for an answer."""
    return np.tile([True, True, False, False], len(QUESTIONS))


def judge(engine: Engine) -> NDArray[np.float64]:
    """(n_questions,) an engine's margins on the built-in questions, nats; NaN where it failed."""
    detection = find_scorer("detection")
    tools = Tools(engine, prompt=load_prompt(detection.prompt or ""))
    margins: list[float] = []
    for number, (explanation, _, _) in enumerate(QUESTIONS):
        items = [Item(_window(text), False, "", 1.0) for text in _texts(number)]
        judged = detection.score(explanation, items, tools, detection.settings)
        margins += [math.nan if each.value is None else each.value for each in judged]
    return np.array(margins)


def _timer(engine: Engine) -> Callable[[], float]:
    """What evaluates a prompt, from the start each time, and gives the seconds."""
    text = " ".join(f"the {number}th house on the hill" for number in range(PROMPT_TOKENS))
    tokens = engine.tokenize(text)[: min(PROMPT_TOKENS, engine.n_ctx - 1)]

    def evaluate() -> float:
        started = time.perf_counter()
        engine.answers([], [tokens], [tokens[:1]])
        return (time.perf_counter() - started) * PROMPT_TOKENS / len(tokens)

    return evaluate


def compare(
    first: Path, second: Path, settings: EngineSettings | None = None, seconds: float = 15.0
) -> Loss:
    """Let two GGUF files judge the same questions, and time both.

    Both are opened at once and timed in turn; where memory is short, one after the other.

    Args:
        first: the file that another is compared with.
        second: that other.
        settings: how both are run.
        seconds: after so long no further round is timed; three are always.

    Raises:
        EngineError: One of them cannot be used.
    """
    answers: list[Answers] = []
    together = first.stat().st_size + second.stat().st_size < SHARE * available_memory()
    for paths in [(first, second)] if together else [(first,), (second,)]:
        with ExitStack() as stack:
            engines = [stack.enter_context(open_engine(path, settings)) for path in paths]
            margins = [judge(engine) for engine in engines]
            timers = {str(place): _timer(engine) for place, engine in enumerate(engines)}
            times = interleave(timers, seconds / (1 if together else 2)).values()
            answers += [Answers(*pair) for pair in zip(margins, times, strict=True)]
    return difference(*answers)


def difference(first: Answers, second: Answers) -> Loss:
    """Two files' answers to the same questions, as one row of numbers."""
    good = np.isfinite(first.margins) & np.isfinite(second.margins)
    one, two, fits = first.margins[good], second.margins[good], fitting()[good]
    if not len(one):
        raise EngineError("none of the built-in questions was answered by both files")
    varied = one.std() > 0 and two.std() > 0
    n_fits = int(fits.sum())
    areas = [
        auroc_interval(auroc(fits, margins), n_fits, len(fits) - n_fits) for margins in (one, two)
    ]
    rates = [PROMPT_TOKENS / statistics.median(each.seconds) for each in (first, second)]
    ratios = [old / new for old, new in zip(first.seconds, second.seconds, strict=False)]
    return Loss(
        n_questions=len(one),
        n_failed=int((~good).sum()),
        shift=float((two - one).mean()),
        mean_difference=float(np.abs(two - one).mean()),
        greatest_difference=float(np.abs(two - one).max()),
        spread=float(one.std()),
        correlation=float(np.corrcoef(one, two)[0, 1]) if varied else math.nan,
        share_changed=float(((one > 0) != (two > 0)).mean()),
        auroc=(areas[0], areas[1]),
        tokens_per_second=(rates[0], rates[1]),
        speed_ratio=statistics.median(ratios),
    )


def loss_lines(loss: Loss) -> list[str]:
    """What the loss is, in words, a line each."""
    failed = f", {loss.n_failed} not answered" if loss.n_failed else ""
    before, after = (f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]" for area in loss.auroc)
    lines = [
        f"margins on {loss.n_questions} built-in questions{failed}: mean |difference| "
        f"{loss.mean_difference:.2f} nats, greatest {loss.greatest_difference:.2f}, all shifted by "
        f"{loss.shift:+.2f}, correlation {loss.correlation:.3f}; before, they spread by "
        f"{loss.spread:.2f}",
        f"answers that changed sides: {loss.share_changed:.0%}",
        f"AUROC on these questions: {before} before, {after} after",
        f"prompt tokens/s: {loss.tokens_per_second[0]:,.0f} before, "
        f"{loss.tokens_per_second[1]:,.0f} after, {loss.speed_ratio:.2f} times",
    ]
    if not loss.auroc[0].low > 0.5:
        lines.append(
            "before it was quantised this engine did not tell texts that fit from others, so "
            "these numbers do not say what judging loses"
        )
    return lines


def available_memory() -> int:
    """Bytes of memory that are free or can be freed."""
    import psutil

    return int(psutil.virtual_memory().available)
