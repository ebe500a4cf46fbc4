"""What raters are asked, and in which order.

The pool is the same list for everybody, in an order that looks random and depends on each question
alone: a question that comes later changes the place of no other two. Everybody works through the
same blocks of it, each in an order of their own, so that raters who answer only a part have
answered the same questions, but for the last block, and no order of questions favours one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from sqlite_utils import Database

from lite_interp.db import studies
from lite_interp.db.caches import CacheInfo
from lite_interp.db.ratings import rating_id
from lite_interp.db.report import example_sets_by_latent
from lite_interp.errors import UsageError
from lite_interp.ids import generator
from lite_interp.records import ExampleSet, Question, Task
from lite_interp.score import SCORERS, Item

if TYPE_CHECKING:
    from lite_interp.loading import Reporter

N_ITEMS = 10
"""Items of an example set that people judge: half with the right answer yes, half with no."""
BLOCK = 20
"""Questions that all raters answer before anybody goes on to others."""


class HasStratum(Protocol):
    """A window in its part of an example set, or an item about one."""

    @property
    def stratum(self) -> str:
        """Activation decile, or kind of a silent window."""
        ...


Stratified = TypeVar("Stratified", bound=HasStratum)


def pool(
    db: Database,
    cache: CacheInfo,
    task: Task,
    latents: Collection[int] = (),
    explainer: str = "",
    tell: Reporter | None = None,
) -> list[Question]:
    """What people are asked, each question once, in the same order for all.

    Args:
        db: the file.
        cache: whose latents.
        task: `explanation` asks about every explanation that has a text and windows; `detection`
            and `fuzzing` about N_ITEMS of the scorer's items for each of these; `intruder` about
            questions of the scorer in which no window comes twice, whatever was explained.
        latents: only these; empty = all.
        explainer: only explanations of this explainer, and the windows they were made from;
            empty = all.
        tell: who sees how far the drawing of items is; None = nobody.
    """
    explained = [
        each
        for each in studies.load_explanations(db, cache.id)
        if each.text is not None
        and each.latent >= 0
        and (not latents or each.latent in latents)
        and (not explainer or each.explainer == explainer)
    ]
    if task == "explanation":
        found = [
            Question(task, each.id, each.example_set_id, {})
            for each in explained
            if studies.has_scored(db, each.example_set_id)
        ]
    else:
        names = {each.example_set_id: None for each in explained}
        if task == "intruder" and not explainer:
            names = dict.fromkeys(_sets(db, cache, latents))
        whose: dict[str, list[str]] = {name: [] for name in names}
        for each in () if task == "intruder" else explained:
            whose[each.example_set_id].append(each.id)
        found = _about_items(db, task, whose, tell)
    return [each for _, each in sorted({question_id(each): each for each in found}.items())]


def question_id(question: Question) -> str:
    """A name of the question that tells nothing about it; whoever is asked, it is the same."""
    return rating_id("", question)


def _sets(db: Database, cache: CacheInfo, latents: Collection[int]) -> list[str]:
    found = example_sets_by_latent(db, cache.id)
    return [name for latent in found if not latents or latent in latents for name in found[latent]]


def _about_items(
    db: Database, task: Task, whose: Mapping[str, Sequence[str]], tell: Reporter | None
) -> list[Question]:
    """Questions about items of example sets, the same for all explanations made from one.

    `whose`: example set → its explanations; where latents are judged, none is named.
    """
    settings = dict(SCORERS[task].settings)
    found = []
    for name in tell.track(whose, len(whose), "questions") if tell and whose else whose:
        examples = studies.load_example_set(db, name)
        items = task_items(examples, task) if examples is not None else []
        if task == "intruder":
            items = apart(items)
        else:
            items = balanced(items, generator(0, "annotate", task, name))
        explanations = (None,) if task == "intruder" else whose[name]
        for item in items:
            about = (item.window.id, item.name, right_answer(item))
            found += [Question(task, each, name, settings, *about) for each in explanations]
    return found


def task_items(examples: ExampleSet, task: Task) -> list[Item]:
    """What the scorer of a task asks about an example set; nothing about one it cannot read."""
    scorer = SCORERS[task]
    try:
        return scorer.items(examples, scorer.settings, None)
    except (UsageError, ValueError):  # another's file: strata that are no strata
        return []


def right_answer(item: Item) -> int:
    """The place of the intruder, from 1; else 1 for yes and 0 for no."""
    if item.choices:
        return [shown.window.id for shown in item.choices].index(item.window.id) + 1
    return int(item.active)


def balanced(items: Sequence[Item], random: np.random.Generator) -> list[Item]:
    """Up to N_ITEMS items, half of them right, spread over strata, none about the same window.

    A window that a person sees twice, with right marks and with wrong ones, tells which are which.
    """
    n_windows = len({item.window.id for item in items})
    most = min(N_ITEMS // 2, n_windows // 2)
    right = spread([item for item in items if item.active], most, random)
    taken = {item.window.id for item in right}
    wrong = [item for item in items if not item.active and item.window.id not in taken]
    return right + spread(wrong, most, random)


def apart(items: Sequence[Item]) -> list[Item]:
    """The items of which no window is in an earlier one.

    An intruder comes once, but windows of the latent come again in other questions: whoever knows
    them again would find it by that alone.
    """
    seen: set[str] = set()
    found = []
    for item in items:
        windows = {shown.window.id for shown in item.choices}
        if not windows & seen:
            found.append(item)
            seen |= windows
    return found


def spread(found: Sequence[Stratified], n: int, random: np.random.Generator) -> list[Stratified]:
    """Up to n of them, evenly over the strata and at random within, in the order of strata."""
    mixed = sorted((found[place] for place in random.permutation(len(found))), key=_stratum)
    if not n or len(mixed) <= n:
        return mixed[:n]
    places = ((np.arange(n) + random.random()) * (len(mixed) / n)).astype(int)
    return [mixed[place] for place in places]


def _stratum(of: HasStratum) -> str:
    return of.stratum


def order(questions: Sequence[Question], rater: str) -> list[Question]:
    """A pool as one rater is asked it: block after block, each in an order of the rater's own."""
    found = []
    for start in range(0, len(questions), BLOCK):
        block = questions[start : start + BLOCK]
        random = generator(0, "annotate", block[0].task, rater, start // BLOCK)
        found += [block[place] for place in random.permutation(len(block))]
    return found
