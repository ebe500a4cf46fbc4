"""Arms of a comparison: the ways in which the explanations of a file were made.

An arm is one cache with one explainer, prompt, engine, settings of the explainer, and draw of the
windows. Arms are named as `ways` names ways to score: the plainest of an explainer keeps its
name, another one adds what differs from it, as in `llm@sampler=top`. Plainest is the one with the
most settings at their defaults; of several, the one that was begun first.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db import caches, trials
from lite_interp.errors import UsageError, nearest
from lite_interp.explain import EXPLAINERS
from lite_interp.render import one_row
from lite_interp.samplers import DrawSettings

SHORT = {"n_shown": "shown"}
"""Setting → what it is called in names and terms."""

LONGEST_VALUE = 40
"""Characters of a value in a name."""


class Judge(NamedTuple):
    """Who judged explanations of an arm."""

    scorer: str
    """Name of the scorer."""
    model_id: str
    """The engine or embedder."""
    model: str
    """Its name."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way in which explanations were made."""

    name: str
    """What it is called in its file."""
    cache_id: str
    """The cache."""
    coder_id: str
    """The sparse coder whose latents are explained."""
    terms: Mapping[str, tuple[Any, ...]]
    """Key → all that its value may be called, e.g. `engine` → id and name; the last is shown."""
    explanations: Mapping[int, str]
    """Latent → id of its explanation, or of the failure; the first if there are several."""
    others: tuple[str, ...]
    """Explanations behind the first of their latent: what one source says twice. Not compared."""
    n_failed: int
    """Latents without a text."""
    judges: tuple[Judge, ...]
    """Who judged them."""
    judge: str = ""
    """Id of the engine or embedder whose verdicts count; empty = all."""


class Names:
    """What the ids of a file are called: engines, embedders, prompts, caches, coders."""

    def __init__(self, db: Database) -> None:
        """Read the names; one that several ids share gets the beginning of the id."""
        tables = ("engines", "embedders", "prompts", "corpora", "coders")
        found = [(row["id"], row["name"]) for name in tables for row in db.table(name).rows]
        infos = caches.load_caches(db)
        self.infos = {info.id: info for info in infos}
        found += [(info.id, f"{info.coder_name} on {info.corpus.name}") for info in infos]
        n_alike = Counter(name for _, name in found)
        self._names = {
            each: name if n_alike[name] == 1 else f"{name} {_digits(each)}" for each, name in found
        }

    def __getitem__(self, each: str) -> str:
        """The name of an id, or what it begins with."""
        return self._names.get(each, _digits(each))

    def place(self, cache_id: str) -> dict[str, str]:
        """Coder and corpus of a cache."""
        info = self.infos[cache_id]
        return {"coder": info.coder_id, "corpus": info.corpus.id}


def load_arms(db: Database, who_judged: bool = True) -> list[Arm]:
    """Every arm in the file, in the order they were begun. Latents made by rule are left out.

    Without `who_judged` nothing is read of trials, and `judges` are empty.
    """
    names = Names(db)
    draws = {row["id"]: row for row in db.table("example_sets").rows}
    groups: dict[str, list[dict[str, Any]]] = {}
    made: dict[str, dict[str, Any]] = {}
    for row in db.table("explanations").rows:
        if row["latent"] >= 0:
            terms = _terms(row, draws[row["example_set_id"]])
            key = json.dumps([row["cache_id"], terms], sort_keys=True)
            made[key] = terms
            groups.setdefault(key, []).append(row)
    places = {row["cache_id"] for rows in groups.values() for row in rows}
    judged = _judges(db, names, places if who_judged else ())
    arm_names = _arm_names(
        [(made[key], rows[0]["cache_id"]) for key, rows in groups.items()], names
    )
    return [
        _arm(name, rows, made[key], names, judged)
        for name, (key, rows) in zip(arm_names, groups.items(), strict=True)
    ]


def called(db: Database, cache_id: str) -> dict[str, str]:
    """Explanation → what to call the way it was made: the name of its arm, or who wrote it."""
    found: dict[str, str] = {}
    for arm in load_arms(db, who_judged=False):
        if arm.cache_id == cache_id:
            source = arm.terms.get("source", ("",))[-1]
            name = f"{arm.terms['explainer'][-1]} ({source})" if source else arm.name
            found |= dict.fromkeys((*arm.explanations.values(), *arm.others), name)
    return found


def arm_of(
    db: Database, explanation_ids: Iterable[str], judge: str = "", name: str = "chosen"
) -> Arm:
    """An arm made of chosen explanations of one cache.

    Args:
        db: the file.
        explanation_ids: explanations; of several of one latent the first counts.
        judge: id of the engine or embedder whose verdicts count; empty = all.
        name: what it is called.

    Raises:
        ValueError: there is none, or they belong to several caches.
        NotFoundError: one of them is not in the file (of sqlite_utils).
    """
    rows = [db.table("explanations").get(each) for each in explanation_ids]
    if len({row["cache_id"] for row in rows}) != 1:
        raise ValueError("an arm is made of explanations of one cache")
    names = Names(db)
    terms = _terms(rows[0], db.table("example_sets").get(rows[0]["example_set_id"]))
    judged = _judges(db, names, {rows[0]["cache_id"]})
    return replace(_arm(name, rows, terms, names, judged), judge=judge)


def _arm(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    terms: Mapping[str, Any],
    names: Names,
    judged: Mapping[str, set[Judge]],
) -> Arm:
    first: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["latent"], row)
    cache_id = rows[0]["cache_id"]
    place = names.place(cache_id)
    every = {**terms, **place, "cache": cache_id}
    who = set().union(*(judged.get(row["id"], ()) for row in first.values()))
    return Arm(
        name,
        cache_id,
        place["coder"],
        {key: _called(value, names) for key, value in every.items()},
        {latent: row["id"] for latent, row in sorted(first.items())},
        tuple(row["id"] for row in rows if row is not first[row["latent"]]),
        sum(row["text"] is None for row in first.values()),
        tuple(sorted(who)),
    )


def _terms(row: Mapping[str, Any], draw: Mapping[str, Any]) -> dict[str, Any]:
    """How an explanation was made: key → value as the file has it."""
    drawn = {**_settings(draw["settings"]), "seed": draw["seed"]}
    plain = {SHORT.get(key, key): value for key, value in drawn.items()}
    own = {
        key if key not in plain else f"{row['explainer']}.{key}": value
        for key, value in _settings(row["settings"]).items()
    }
    fixed = {"explainer": row["explainer"], "prompt": row["prompt_id"], "engine": row["engine_id"]}
    return {**own, **plain, **fixed}


def _settings(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _called(value: Any, names: Names) -> tuple[Any, ...]:
    is_id = isinstance(value, str) and value.startswith("b2:")
    return (value, names[value]) if is_id else (value,)


def _judges(db: Database, names: Names, cache_ids: Iterable[str]) -> dict[str, set[Judge]]:
    """Explanation → who judged it."""
    found: dict[str, set[Judge]] = {}
    for cache_id in cache_ids:
        for group in trials.scored_groups(db, cache_id):
            judge = Judge(group.scorer, group.model_id, names[group.model_id])
            found.setdefault(group.explanation_id or "", set()).add(judge)
    return found


def _arm_names(made: Sequence[tuple[Mapping[str, Any], str]], names: Names) -> list[str]:
    """A name for each of the ways, with their caches, in the order given."""
    every = [{**terms, **names.place(cache_id)} for terms, cache_id in made]
    plainest: dict[str, dict[str, Any]] = {}
    for terms in sorted(every, key=lambda terms: _n_changed(terms, names)):
        plainest.setdefault(terms["explainer"], terms)
    found: list[str] = []
    for terms in every:
        base = plainest[terms["explainer"]]
        parts = [
            f"{_plain(key)}={_told(terms.get(key), names)}"
            for key in sorted(base | terms)
            if base.get(key) != terms.get(key)
        ]
        name = _plain(terms["explainer"]) + "@" * bool(parts) + ",".join(parts)
        while name in found:  # values that differ only behind what is shown of them
            name += "~"
        found.append(name)
    return found


def _n_changed(terms: Mapping[str, Any], names: Names) -> int:
    """Settings that are not the defaults of this version."""
    explainer = EXPLAINERS.get(terms["explainer"])
    plain = dict(explainer.settings) if explainer else {}
    plain |= {SHORT.get(key, key): value for key, value in asdict(DrawSettings()).items()}
    plain["seed"] = 0
    n_changed = sum(terms.get(key, value) != value for key, value in plain.items())
    usual = explainer.prompt if explainer else None
    prompt = terms["prompt"] and names[terms["prompt"]]
    return n_changed + (prompt != usual)


def _told(value: Any, names: Names) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, str):
        text = _plain(str(_called(value, names)[-1]))
        return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _plain(text: str) -> str:
    """A text that a name can hold and a user type: one line, no comma, single spaces."""
    return " ".join(one_row(text).replace(",", " ").split())


def _digits(each: str) -> str:
    return each.removeprefix("b2:")[:8]


def find_arm(arms: Sequence[Arm], wanted: str) -> Arm:
    """The arm that the user means: a name, or terms with commas, e.g. `llm,sampler=top`.

    A bare word is an explainer; `key=value` one of its settings, or of its draw, where value is a
    name or a part of one in whole words, the beginning of an id, or a number. `judge=…` is no
    property of the arm: it says whose verdicts count.

    Raises:
        UsageError: no arm fits, or several.
    """
    words = [word.strip() for word in wanted.split(",")]
    judges = [word for word in words if word.startswith("judge=")]
    text = ",".join(word for word in words if word not in judges)
    if len(judges) > 1:
        raise UsageError(f"several judges: {wanted}", "name one")
    left = [arm for arm in arms if arm.name == text] or list(arms)
    if len(left) != 1 or left[0].name != text:
        for word in text.split(","):
            left = _fitting(left, word) if word else left
    if len(left) != 1:
        hint = nearest(text, [arm.name for arm in left or arms])
        raise UsageError(f"{'several arms fit' if left else 'no arm fits'}: {wanted}", hint)
    return _judged_by(left[0], judges[0]) if judges else left[0]


def _fitting(arms: Sequence[Arm], word: str) -> list[Arm]:
    """The arms that a term fits: those whose value is called so, or else in part."""
    key, equals, value = word.partition("=")
    key, value = (SHORT.get(key.strip(), key.strip()), value) if equals else ("explainer", key)
    known = {key for arm in arms for key in arm.terms}
    if arms and key not in known:
        raise UsageError(f"arms have no such property: {key}", nearest(key, known | {"judge"}))
    fits = [(_fit(arm.terms.get(key, (None,)), value), arm) for arm in arms]
    best = max((fit for fit, _ in fits), default=0)
    return [arm for fit, arm in fits if fit == best and fit]


def _judged_by(arm: Arm, word: str) -> Arm:
    value = word.partition("=")[2]
    models = {judge.model_id: judge.model for judge in arm.judges}
    fits = {each: _fit((each, name), value) for each, name in models.items()}
    best = [each for each, fit in fits.items() if fit and fit == max(fits.values())]
    if len(best) != 1:
        what = "several judges fit" if best else "nobody of this name judged it"
        raise UsageError(f"{what}: {word}", nearest(value, models.values()))
    return replace(arm, judge=best[0], name=f"{arm.name},judge={one_row(models[best[0]])}")


def _fit(called: tuple[Any, ...], value: str) -> int:
    """How well a word fits what something is called: 2 = wholly, 1 = in part, 0 = not at all."""
    return max(_fits(each, value) for each in called)


def _fits(called: Any, value: str) -> int:
    if called is None or called == "":
        return 2 * (value.lower() in ("none", "null", ""))
    if isinstance(called, bool):
        return 2 * (value.lower() == str(called).lower())
    if isinstance(called, (int, float)):
        try:
            return 2 * (float(value) == called)
        except ValueError:
            return 0
    if not isinstance(called, str):
        return 2 * (json.dumps(called) == value)
    if called.startswith("b2:"):
        digits = value.removeprefix("b2:")
        return 2 * (len(digits) >= 4 and _digits_begin(called, digits))
    here, there = _words(value), _words(called)
    if here == there:
        return 2
    return int(bool(here) and (f"-{here}-" in f"-{there}-" or there.startswith(here)))


def _digits_begin(each: str, digits: str) -> bool:
    return each.removeprefix("b2:").startswith(digits)


def _words(text: str) -> str:
    """A name as words, so that `qwen2.5-coder` is `Qwen2.5 Coder`."""
    return re.sub(r"[^\w.]+", "-", text.casefold()).strip("-")
