"""An explanation is tried, its mistakes are shown to the engine, and the better one is kept.

    draft ─tried on held-out windows─▶ windows it misses, windows it mistakes ─▶ revision ─tried─▶ ?

Source of the idea: revision with counter-examples (Bills et al. 2023). We differ: draft and
revision are compared on held-out windows, and the draft stays unless the revision is better there;
the mistakes come from the same windows, so that comparison favours the revision a little, but what
is scored later are other windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lite_interp.cost import summed
from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import NO_COST, Answer, Evidence, Explainer, Means
from lite_interp.explain.best_of import draft_row
from lite_interp.explain.trying import FEW, JUDGE, Tried, can_try, try_out
from lite_interp.explain.windows import (
    ASKING,
    EXCERPTS,
    about_windows,
    numbered,
    plain_excerpts,
    shown_values,
)
from lite_interp.prompts import Message, Prompt, Takes
from lite_interp.render import marked_text

MISTAKES = frozenset({"missed", "mistaken"})
NONE = "(none)"
"""What stands where there is no mistake of a kind."""


@dataclass(slots=True, eq=False)
class Draft:
    """Where the revision of one latent stands."""

    known: Evidence
    """The latent."""
    answers: list[tuple[Answer, Tried | None]]
    """The draft, then its revisions; None where there was nothing to try."""
    kept: int = 0
    """Which of them is the best so far."""

    @property
    def best(self) -> Tried | None:
        """How the best one fared."""
        return self.answers[self.kept][1]

    def add(self, answer: Answer, tried: Tried | None) -> bool:
        """Take a revision in, and say whether it is better."""
        self.answers.append((answer, tried))
        better = tried is not None and self.best is not None and tried.auroc > self.best.auroc
        if better:
            self.kept = len(self.answers) - 1
        return better

    def answer(self) -> Answer:
        """What is kept, with what all of it cost."""
        found, _ = self.answers[self.kept]
        costs = [answer.usage for answer, _ in self.answers]
        costs += [tried.usage for _, tried in self.answers if tried]
        rows = [draft_row(answer, tried) for answer, tried in self.answers]
        return found._replace(usage=summed(*costs), detail={"drafts": rows, "kept": self.kept})


def explain_revised(group: Sequence[Evidence], means: Means) -> list[Answer]:
    """Draft, try, revise, try again: round by round, latents side by side."""
    able = [known for known in group if can_try(known.examples)]
    drafting = replace(means, prompt=means.helpers["draft"])
    first = ask_engine(able, drafting, about_windows)
    drafts = [
        Draft(known, [(answer, _tried(answer, known, means))])
        for known, answer in zip(able, first, strict=True)
    ]
    going = [draft for draft in drafts if draft.best]
    for _ in range(means.settings["n_rounds"]):
        going = [draft for draft in going if draft.best.missed or draft.best.mistaken]  # type: ignore[union-attr]
        going = _revised(going, means)
    found = iter([draft.answer() for draft in drafts])
    return [next(found) if can_try(known.examples) else Answer(None, "", FEW) for known in group]


def _revised(drafts: Sequence[Draft], means: Means) -> list[Draft]:
    """One round; gives back those that became better, for what else there is to mend."""
    by_set = {draft.known.examples.id: draft for draft in drafts}

    def about_mistakes(
        known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
    ) -> tuple[Message, ...] | str:
        tried = by_set[known.examples.id].best
        assert tried is not None
        return ask_revision(known, tried, prompt, settings)

    answers = ask_engine([draft.known for draft in drafts], means, about_mistakes)
    return [
        draft
        for draft, answer in zip(drafts, answers, strict=True)
        if draft.add(answer, _tried_again(answer, draft, means))
    ]


def _tried(answer: Answer, known: Evidence, means: Means) -> Tried | None:
    return None if answer.text is None else try_out(answer.text, known.examples, means)


def _tried_again(answer: Answer, draft: Draft, means: Means) -> Tried | None:
    """How a revision fares; one that says what was said before is not tried again."""
    for _, tried in draft.answers:
        if tried is not None and tried.text == answer.text:
            return tried._replace(usage=NO_COST)
    return _tried(answer, draft.known, means)


def ask_revision(
    known: Evidence, tried: Tried, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...]:
    """The question: an explanation, some shown windows, and where the explanation goes wrong."""
    shown = known.examples.shown
    step = max(1, len(shown) // settings["n_excerpts"])
    some = replace(known.examples, shown=shown[::step][: settings["n_excerpts"]])
    n = settings["n_mistakes"]
    values = {
        **shown_values(some, settings["n_words"]),
        "words": shown_values(known.examples, settings["n_words"])["words"],
        "draft": tried.text,
        "missed": numbered(map(marked_text, tried.missed[:n])) or NONE,
        "mistaken": plain_excerpts(tried.mistaken[:n]) or NONE,
    }
    return prompt.fill(**{name: values[name] for name in prompt.variables})


REVISE = Explainer(
    "revise",
    "An engine sees where its explanation goes wrong on held-out windows and writes a better one.",
    "explain/revise",
    {**ASKING, "n_excerpts": 6, "n_mistakes": 4, "n_rounds": 1},
    explain_revised,
    Takes(EXCERPTS | MISTAKES | {"words", "draft"}, (frozenset({"draft"}), MISTAKES)),
    helpers={"draft": "explain/small", **JUDGE},
    n_held_out=10,
)
