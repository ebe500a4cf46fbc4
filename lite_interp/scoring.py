"""The stage of scoring: which trials are pending, judge them, store them whole.

Trials that are stored together are a group, the unit of work of scoring. Usually that is one
trial; judging until sure it is a trial with its controls, because the null says when to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.cost import Meter
from lite_interp.db import steerings, studies, trials
from lite_interp.explain import way_of
from lite_interp.ids import content_id, generator
from lite_interp.judging import Judged, judge_until_sure
from lite_interp.records import Explanation, Trial, Verdict
from lite_interp.score import Item, Judgement, Scorer, Tools
from lite_interp.score.intervention import steering_id


@dataclass(frozen=True, slots=True)
class Judging:
    """How much is judged."""

    n_controls: int = 4
    """Other latents' explanations judged on the same items: the null."""
    until_sure: float = 0.0
    """Stop judging a latent as soon as its interval is narrower than this, or certainly above or
    below its null; 0 = judge everything."""
    n_looks: int = 5
    """How often it is looked whether that is so, at most."""

    def stops(self, scorer: Scorer) -> bool:
        """Whether judging may end before everything is judged."""
        return bool(self.until_sure) and scorer.statistic == "auroc"

    def asked(self, scorer: Scorer) -> dict[str, Any]:
        """Settings of a scorer, and when it stops if it does: what goes into a trial's id."""
        if not self.stops(scorer):
            return dict(scorer.settings)
        sure = {"until_sure": self.until_sure, "n_looks": self.n_looks}
        # The controls say when it is sure.
        return {**scorer.settings, **sure, "n_controls": self.n_controls}


@dataclass(frozen=True, slots=True, eq=False)
class TrialWork:
    """One trial that is wanted."""

    id: str
    """Its name."""
    explanation: Explanation | None
    """What is judged; None for a scorer that judges latents."""
    example_set_id: str
    """The windows it is judged on; they are read when it is their turn."""
    latent: int
    """The latent whose windows these are."""
    control: bool
    """Whether the explanation is another latent's."""
    steering_id: str | None
    """What the steered subject wrote, for a scorer that reads it."""

    @property
    def text(self) -> str:
        """The explanation's text; empty if there is none."""
        return (self.explanation and self.explanation.text) or ""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What is scored, on what it may be tested, and how."""

    explanations: Sequence[Explanation]
    """What is scored."""
    pool: Sequence[Explanation]
    """Explanations that may be controls; usually all of the cache."""
    scorer: Scorer
    """How."""
    tools: Tools
    """With what."""
    judging: Judging
    """How much."""


class Asked(NamedTuple):
    """What all trials on the windows of one latent have in common."""

    wanted: Wanted
    """What is scored, and how."""
    example_set_id: str
    """The windows."""
    latent: int
    """The latent whose windows these are."""
    steering_id: str | None
    """What the steered subject wrote."""


def pending_trials(db: Database, wanted: Wanted) -> list[tuple[TrialWork, ...]]:
    """The groups of trials that are wanted and not there.

    Each explanation is judged on its own latent's windows, and on the same items also
    explanations of other latents, by the same explainer, prompt and engine. Controls that were
    judged already are kept; the others are drawn from the pool by the name of the example set.
    Single trials come in the order of explanations, so that an engine evaluates each once. An
    explanation that was judged until it was sure is not judged again for controls that came later.
    """
    groups = list(_wanted_groups(db, wanted))
    if wanted.judging.stops(wanted.scorer):
        return groups
    singles = {trial.id: trial for group in groups for trial in group if not _known(db, trial)}

    def by_explanation(trial: TrialWork) -> tuple[str, bool, str]:
        return (trial.explanation.id if trial.explanation else "", trial.control, trial.id)

    return [(trial,) for trial in sorted(singles.values(), key=by_explanation)]


def _known(db: Database, trial: TrialWork) -> bool:
    return studies.known(db, "trials", trial.id)


def _wanted_groups(db: Database, wanted: Wanted) -> Iterator[tuple[TrialWork, ...]]:
    scorer, judging = wanted.scorer, wanted.judging
    able: dict[str, list[Explanation]] = {}
    for each in sorted(wanted.pool, key=lambda each: each.id):
        if each.text is not None:
            able.setdefault(way_of(each), []).append(each)
    settings = trial_settings(scorer, wanted.tools, judging)
    judge = _judge(scorer, wanted.tools).id
    seen = set()
    for own in wanted.explanations:
        name = own.example_set_id
        if not studies.has_scored(db, name):
            continue
        steering = steering_id(name, scorer.settings) if scorer.steers else None
        if steering and not studies.known(db, "steerings", steering):
            continue  # made by rule: there is no direction to steer along
        asked = Asked(wanted, name, own.latent, steering)
        if scorer.judges == "latent":
            if name not in seen:
                seen.add(name)
                yield (_trial(asked, None),)
            continue
        if own.text is None:
            continue
        way = (scorer.name, settings, judge)
        if judging.stops(scorer) and trials.is_judged(db, own.id, name, *way):
            continue
        judged = trials.judged_controls(db, name, *way)
        # A rule-made latent brings its null with it: the explanation that is false.
        n_controls = judging.n_controls if own.latent >= 0 else 0
        others = _controls(own, able.get(way_of(own), ()), judged, n_controls) if n_controls else []
        group = sorted(each.id for each in (own, *others)) if judging.stops(scorer) else []
        yield (
            _trial(asked, own, group=group),
            *(_trial(asked, other, control=True, group=group) for other in others),
        )


def _controls(
    own: Explanation, alike: Sequence[Explanation], judged: set[str], n: int
) -> list[Explanation]:
    """Up to n explanations of as many other latents, those that were judged already first."""
    others = [other for other in alike if other.latent != own.latent]
    order = generator(0, own.example_set_id, "controls").permutation(len(others))
    drawn = sorted((others[place] for place in order), key=lambda other: other.id not in judged)
    by_latent: dict[int, Explanation] = {}
    for other in drawn:
        by_latent.setdefault(other.latent, other)
    return list(by_latent.values())[:n]


def trial_settings(scorer: Scorer, tools: Tools, judging: Judging) -> dict[str, Any]:
    """What tells the trials of one way to score from those of another, the prompt included."""
    prompt = {"prompt": tools.prompt.id} if tools.prompt else {}
    return {**judging.asked(scorer), **prompt}


def _trial(
    asked: Asked, explanation: Explanation | None, control: bool = False, group: Sequence[str] = ()
) -> TrialWork:
    """A trial with its name; `group`: explanations that decide together when to stop."""
    wanted = asked.wanted
    scorer, tools = wanted.scorer, wanted.tools
    question = [
        "trial",
        scorer.name,
        wanted.judging.asked(scorer),
        explanation.id if explanation else None,
        explanation.text if explanation else None,
        asked.example_set_id,
        tools.prompt.id if tools.prompt else None,
        _judge(scorer, tools).id,
        *([list(group)] if group else []),
        *([asked.steering_id] if asked.steering_id else []),
    ]
    name = content_id(question)
    place = asked.example_set_id, asked.latent
    return TrialWork(name, explanation, *place, control, asked.steering_id)


def _judge(scorer: Scorer, tools: Tools):
    judge = tools.engine if scorer.needs == "engine" else tools.embedder
    if judge is None:
        raise ValueError(f"the scorer {scorer.name} needs an {scorer.needs}")
    return judge


def write_trials(
    db: Database, groups: Sequence[Sequence[TrialWork]], wanted: Wanted
) -> Iterator[None]:
    """Judge group by group, the verdicts of one group stored together."""
    scorer = wanted.scorer
    for group in groups:
        items = trial_items(db, group[0], scorer)
        if wanted.judging.stops(scorer):
            judged = judge_until_sure(
                [work.text for work in group], items, wanted.judging, scorer, wanted.tools
            )
        else:
            judged = [_judge_all(group[0].text, items, scorer, wanted.tools)]
        done = [
            (_finished(work, wanted, answer), answer.usage)
            for work, answer in zip(group, judged, strict=True)
        ]
        trials.store_trials(db, done, scorer.needs)
        yield


def trial_items(db: Database, work: TrialWork, scorer: Scorer) -> list[Item]:
    """What a trial asks."""
    examples = studies.load_example_set(db, work.example_set_id)
    assert examples is not None
    steering = steerings.load_steering(db, work.steering_id) if work.steering_id else None
    return scorer.items(examples, scorer.settings, steering)


def _judge_all(text: str, items: Sequence[Item], scorer: Scorer, tools: Tools) -> Judged:
    if scorer.statistic == "auroc" and len({item.active for item in items}) < 2:
        items = []  # no area can come of it
    meter = Meter(tools.engine if scorer.needs == "engine" else None)
    answers = scorer.score(text, items, tools, scorer.settings)
    return Judged(tuple(zip(items, answers, strict=True)), meter.read())


def _finished(work: TrialWork, wanted: Wanted, judged: Judged) -> Trial:
    scorer, tools = wanted.scorer, wanted.tools
    return Trial(
        work.id,
        scorer.name,
        trial_settings(scorer, tools, wanted.judging),
        work.explanation.id if work.explanation else None,
        work.example_set_id,
        work.control,
        tools.prompt.id if tools.prompt else None,
        _judge(scorer, tools).id,
        tuple(_verdict(item, answer) for item, answer in judged.answers),
    )


def _verdict(item: Item, answer: Judgement) -> Verdict:
    value, failure, detail = answer
    return Verdict(item.window.id, item.active, value, failure, item.name, detail)
