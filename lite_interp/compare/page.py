"""Comparisons for a terminal and as plain rows: arms, a line and a table, strata, latents.

Names, settings and explanations come from files and models: all go through `terminal_safe`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lite_interp.compare.arms import Arm
from lite_interp.compare.comparing import Comparison, StratumDifference, most_changed
from lite_interp.compare.differences import Means
from lite_interp.compare.matching import LatentDifference
from lite_interp.records import Estimate
from lite_interp.render import one_row, shortened, terminal_safe
from lite_interp.score_lines import chance, statistic_name
from lite_interp.terminal import CellText
from lite_interp.ways import in_order

PAIRED = {
    "items": "paired: the same items of the same latents",
    "latents": "paired by latent; the items are others, so differences hold more noise",
    "none": "not paired: latents of different sparse coders are not the same things",
}
"""Pairing → what it means."""

N_REASONS, MOST = 6, 500
"""Reasons that are told, the most frequent first; characters of an explanation."""


def arms_page(arms: Sequence[Arm]) -> Group:
    """What can be compared: a line for each arm."""
    if not arms:
        return Group(Text("no explanations yet: there is nothing to compare"))
    table = _table("arm", "latents", "failed", "judged by")
    for arm in arms:
        table.add_row(
            Text(terminal_safe(arm.name)),
            str(len(arm.explanations)),
            str(arm.n_failed),
            Text(terminal_safe(_judged_by(arm)) or "nobody yet", "" if arm.judges else "dim"),
        )
    return Group(table)


def _judged_by(arm: Arm) -> str:
    """`detection, embedding`; models are named where one scorer judged with several."""
    models: dict[str, list[str]] = {}
    for judge in arm.judges:
        models.setdefault(judge.scorer, []).append(judge.model)
    return ", ".join(
        scorer if len(models[scorer]) == 1 else f"{scorer} ({'; '.join(models[scorer])})"
        for scorer in in_order(models)
    )


def arm_rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One plain row for each arm, for JSON."""
    return [
        {
            "kind": "arm",
            "name": one_row(arm.name),
            "n_latents": len(arm.explanations),
            "n_failed": arm.n_failed,
            "n_others": len(arm.others),
            "judges": [
                {"scorer": one_row(each.scorer), "model": one_row(each.model)}
                for each in arm.judges
            ],
        }
        for arm in arms
    ]


def comparison_page(found: Sequence[Comparison], arms: tuple[Arm, Arm], top: int) -> Group:
    """Two arms: what was found, by way to score, by stratum, and for which latents."""
    parts: list[RenderableType] = [
        _head(letter, arm) for letter, arm in zip("AB", arms, strict=True)
    ]
    if not found:
        parts.append(Text("nothing to compare: no way to score has judged both"))
        return Group(*parts)
    pairings = dict.fromkeys(each.pairing for each in found)
    for pairing in pairings:
        which = "" if len(pairings) == 1 else _scorers(found, pairing) + ": "
        parts.append(Text(which + PAIRED[pairing]))
    parts += ["", _overview(found), ""]
    parts += [Text(verdict(each)) for each in found]
    parts += [Text(line, "dim") for line in _losses(found)]
    strata = _strata_table([each for each in found if each.strata and not each.reason])
    if strata:
        parts += ["", Text("A − B by stratum, against all items of the other side"), strata]
    parts += _changes(found, top)
    return Group(*parts)


def _head(letter: str, arm: Arm) -> Text:
    n = len(arm.explanations)
    told = f", {arm.n_failed} without explanation" if arm.n_failed else ""
    if arm.others:
        told += f", {len(arm.others)} second explanations of a latent not compared"
    return Text(f"{letter}: {terminal_safe(arm.name)} ({n} latent{'s' * (n != 1)}{told})")


def _scorers(found: Sequence[Comparison], pairing: str) -> str:
    names = dict.fromkeys(each.scorer for each in found if each.pairing == pairing)
    return ", ".join(map(terminal_safe, names))


def verdict(found: Comparison) -> str:
    """What a comparison found, in a line."""
    means, line = found.means, f"{_title(found)}: "
    if found.reason:
        return f"{line}no comparison: {found.reason}"
    if found.found:
        above, below = ("A", "B") if means.difference.value > 0 else ("B", "A")
        gain = means.difference if above == "A" else _negated(means.difference)
        return f"{line}told apart: {above} above {below} by {_estimate(gain)}"
    if math.isnan(means.visible):
        if found.pairing == "none":
            return f"{line}not told apart: nothing varies, so nothing tells how sure it is"
        same = "the same for" if not means.difference.value else "the same difference in"
        return f"{line}not told apart: {same} all {means.n_first} latents"
    if found.statistic == "auroc" and means.visible > 1:
        return f"{line}not told apart; so few latents could have shown no difference"
    seen = f"a difference of {number(means.visible)} would have been seen (80%)"
    return f"{line}not told apart; {seen}"


def _title(found: Comparison) -> str:
    models = tuple(map(terminal_safe, found.models))
    judges = f", {models[0]} against {models[1]}" if models[0] != models[1] else ""
    return f"{terminal_safe(found.scorer)} ({found.variant}{judges})"


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


def _overview(found: Sequence[Comparison]) -> Table:
    table = _table("scorer", "n", "A", "B", "A − B", "p", "up:down")
    for each in found:
        means = each.means
        n = str(means.n_first)
        n += "" if each.pairing != "none" else f" + {means.n_second}"
        unit = statistic_name(each.statistic)
        name = f"{terminal_safe(each.scorer)} {each.variant}"
        table.add_row(
            Text.assemble(name, (f" {unit}" if each.statistic != "auroc" else "", "dim")),
            n,
            number(means.first.value),
            number(means.second.value),
            _estimate(means.difference),
            chance(means.p_value),
            "–" if each.pairing == "none" or each.reason else f"{means.n_up}:{means.n_down}",
        )
    return table


def _losses(found: Sequence[Comparison]) -> list[str]:
    """What does not count, and why: latents without a number, items of one side alone."""
    told: dict[str, list[Comparison]] = {}
    for each in found:
        reasons = sorted(each.left_out.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{n} × {terminal_safe(reason)}" for reason, n in reasons[:N_REASONS]]
        parts += ["…"] * (len(reasons) > N_REASONS)
        lines = ["latents left out: " + ", ".join(parts)] if parts else []
        if each.n_left_out:
            n = each.n_items + each.n_left_out
            lines.append(f"{each.n_left_out} of {n} items left out: not judged by both, or failed")
        for line in lines:
            told.setdefault(line, []).append(each)
    return [
        line if len(whose) == len(found) else f"{_whose(whose, found)}: {line}"
        for line, whose in told.items()
    ]


def _whose(some: Sequence[Comparison], found: Sequence[Comparison]) -> str:
    """Names of comparisons; of the scorer alone where all its variants are meant."""
    names = {}
    for each in some:
        whole = [it for it in found if it.scorer == each.scorer and it not in some]
        names[each.scorer if not whole else f"{each.scorer} ({each.variant})"] = None
    return ", ".join(map(terminal_safe, names))


def _strata_table(found: Sequence[Comparison]) -> Table | None:
    """A row for each stratum, a column for each scorer in the first variant that is there."""
    first: dict[str, Comparison] = {}
    for each in found:
        first.setdefault(each.scorer, each)
    names = sorted({stratum.name for each in first.values() for stratum in each.strata}, key=_place)
    if not names:
        return None
    table = _table(
        "stratum", *(f"{terminal_safe(name)} {it.variant}" for name, it in first.items())
    )
    for name in names:
        cells = [next((s for s in it.strata if s.name == name), None) for it in first.values()]
        table.add_row(Text(terminal_safe(name).replace("_", " ")), *map(_stratum, cells))
    return table


def _place(name: str) -> tuple[bool, bool, str]:
    return not name.startswith("decile"), name.endswith("_wrong"), name


def _stratum(found: StratumDifference | None) -> str:
    return _estimate(found.means.difference) if found else "–"


def _changes(found: Sequence[Comparison], top: int) -> list[RenderableType]:
    """The latents that changed most, of the first comparison that has any."""
    for each in found:
        up, down = most_changed(each, top)
        if up or down:
            break
    else:
        return []
    others = len({it.scorer for it in found}) > 1
    hint = " (--scorer for another)" if others else ""
    parts: list[RenderableType] = ["", Text(f"latents that differ most, {_title(each)}{hint}")]
    table = _table("latent", "A", "B", "A − B", "explanations")
    for latent in (*up, *reversed(down)):
        numbers = latent.numbers
        table.add_row(
            str(latent.latent),
            number(numbers.first),
            number(numbers.second),
            _estimate(numbers.difference),
            _texts(latent),
        )
    return [*parts, table]


def _texts(latent: LatentDifference) -> Text:
    """Both explanations, one below the other; once if they are the same."""
    first, second = (terminal_safe(shortened(text or "–", MOST)) for text in latent.texts)
    if first == second:
        return CellText(first)
    return CellText.assemble(("A ", "dim"), first, "\n", ("B ", "dim"), second)


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for place, head in enumerate(heads):
        wide = place == 0 or head in ("explanations", "judged by")
        table.add_column(
            Text(head),
            justify="left" if wide else "right",
            overflow="fold",
            ratio=1 if head in ("explanations", "judged by") else None,
        )
    return table


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{number(estimate.value)} [–]"
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def number(value: float) -> str:
    """A number with three digits behind the point, without a leading 0; a dash for none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.3f}"
    return "0" if float(text) == 0 else text.replace("0.", ".", 1) if abs(value) < 1 else text


def comparison_rows(found: Sequence[Comparison], arms: tuple[Arm, Arm]) -> list[dict[str, Any]]:
    """A plain row for each comparison, each followed by those of its latents, for JSON."""
    rows = []
    for each in found:
        head = {
            "first_arm": one_row(arms[0].name),
            "second_arm": one_row(arms[1].name),
            "scorer": each.scorer,
            "variant": each.variant,
            "statistic": each.statistic,
        }
        rows.append(
            {
                "kind": "comparison",
                **head,
                "first_model": one_row(each.models[0]),
                "second_model": one_row(each.models[1]),
                "pairing": each.pairing,
                **_means_row(each.means),
                "n_items": each.n_items,
                "n_items_left_out": each.n_left_out,
                "latents_left_out": {one_row(reason): n for reason, n in each.left_out.items()},
                "reason": each.reason,
                "strata": [
                    {"stratum": one_row(it.name), "n_items": it.n_items, **_means_row(it.means)}
                    for it in each.strata
                ],
            }
        )
        rows += [{"kind": "latent", **head, **_latent_row(latent)} for latent in each.latents]
    return rows


def _means_row(means: Means) -> dict[str, Any]:
    return {
        "n_first": means.n_first,
        "n_second": means.n_second,
        **_ends("first", means.first),
        **_ends("second", means.second),
        **_ends("difference", means.difference),
        "p_value": _plain(means.p_value),
        "visible": _plain(means.visible),
        "n_up": means.n_up,
        "n_down": means.n_down,
    }


def _latent_row(found: LatentDifference) -> dict[str, Any]:
    first, second = (text and one_row(text) for text in found.texts)
    return {
        "latent": found.latent,
        "first": _plain(found.numbers.first),
        "second": _plain(found.numbers.second),
        **_ends("difference", found.numbers.difference),
        "p_value": _plain(found.numbers.p_value),
        "n_items": found.n_items,
        "n_items_left_out": found.n_left_out,
        "first_explanation": first,
        "second_explanation": second,
        "reason": found.reason and one_row(found.reason),
    }


def _ends(name: str, estimate: Estimate) -> dict[str, float | None]:
    ends = zip(("", "_low", "_high"), estimate, strict=True)
    return {f"{name}{end}": _plain(value) for end, value in ends}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
