"""What was found out about a sparse coder, and what of it is worth a warning."""

from __future__ import annotations

import math
from typing import NamedTuple

from lite_interp.coder_check.declared import Declared
from lite_interp.coder_check.trying import Tried
from lite_interp.errors import one_line
from lite_interp.sae import Fit, SparseCoder
from lite_interp.sae.check import WORST_FVU, WORST_L0_RATIO
from lite_interp.subject import Subject

BETTER = 0.8
"""Where the own site does not fit: an FVU must be below this times its FVU to be worth a word."""
HOME, MUCH_BETTER = 0.3, 0.5
"""Where it fits: its FVU must be above the first, and the other below the second times it. Some
tensors are easy, the output of attention with few heads, say, and the right coder of the stream
may do better there than where it belongs."""


class Densities(NamedTuple):
    """How often latents fire, on the tokens on which the fit was measured."""

    silent: float
    """Share of the latents that never fired."""
    often: float
    """Share of the latents with a density above 0.1."""
    quantiles: dict[float, float]
    """Quantile → density, over the latents that fired; empty if none did."""


class CoderReport(NamedTuple):
    """What was found out about a coder."""

    coder: SparseCoder
    """The coder."""
    subject: Subject
    """The subject."""
    corpus: str
    """Name of the text that was read."""
    reads: str
    """Hookpoint at which it was read; empty = it has none in this subject."""
    writes: str
    """Hookpoint it should reconstruct; empty likewise."""
    problem: str
    """Why it has none; empty = it has one."""
    fit: Fit | None
    """What was measured there; None = nothing could be."""
    densities: Densities | None
    """How often its latents fire there."""
    declared: list[Declared]
    """Its config beside what was found."""
    tried: list[Tried]
    """Sites and scales on a few tokens, the lowest FVU first; its own too."""
    best: Tried | None
    """What fits much better, measured on as many tokens; None = nothing does."""

    @property
    def fits(self) -> bool:
        """Whether it reconstructs what it should, so that a cache would be made."""
        return self.fit is not None and self.fit.fvu <= WORST_FVU


def fvu_of(fit: Fit | None) -> float:
    """An FVU to compare: infinite where there is none, or it is no number."""
    return math.inf if fit is None or math.isnan(fit.fvu) else fit.fvu


def is_better(fit: Fit, own: Fit | None) -> bool:
    """Whether something reconstructs, and so much better than the own site that it is the one."""
    there = fvu_of(own)
    if not fit.fvu <= WORST_FVU or there <= HOME:
        return False
    return fit.fvu < there * (BETTER if there > WORST_FVU else MUCH_BETTER)


def warnings(report: CoderReport) -> list[str]:
    """What disagrees, a line each; none = the coder fits."""
    found = [report.problem] if report.problem else []
    partial = report.coder.provenance.get("partial")
    if report.fit is not None and not report.fits:
        why = f"; it is {one_line(partial)}" if partial else ""
        found.append(
            f"it does not reconstruct {report.writes}: FVU {report.fit.fvu:.3g}, at most "
            f"{WORST_FVU} is allowed{why}"
        )
    if report.best:
        found.append(_better(report, report.best))
    elif not report.fits and not partial:
        found.append(
            "none of the sites and scales that were tried fits: trained on another model (base or "
            "instruct?), or with a step before its encoder that its files do not name"
        )
    for each in report.declared:
        if each.agrees is False and each.what not in ("k", "L0"):
            found.append(f"its config says {each.what} {each.declared}; here it is {each.found}")
    return found + _number_of_latents(report)


def _better(report: CoderReport, best: Tried) -> str:
    """Which site or scale fits, and how to use it."""
    own = "" if report.fit is None else f" in place of {report.fit.fvu:.3g}"
    result = f"FVU {best.fit.fvu:.3g}{own}, L0 {best.fit.l0:.1f}"
    elsewhere = str(best.reads) != report.reads or str(best.writes) != report.writes
    at = f"reading {best.reads}"
    if best.reads != best.writes:
        at += f" and writing {best.writes}"
    if not best.way.name:
        use = f": --hookpoint {best.reads}" if _is_named(report, best) else ""
        return f"the likely wrong site: {at} gives {result}{use}"
    scale = "" if best.way.reads == 1 else f", x {best.way.reads:.4g}"
    if elsewhere:
        return f"the likely wrong site and scale: {at} with {best.way.name}{scale} gives {result}"
    kind = "normalisation" if best.way.reads == 1 else "scale"
    return (
        f"the likely wrong {kind} of the input: {best.way.name}{scale} gives {result}; "
        "it is not folded into its weights"
    )


def _is_named(report: CoderReport, best: Tried) -> bool:
    """Whether the option that names what is read is enough to read there."""
    return str(best.writes) == (report.writes if report.coder.is_transcoder else str(best.reads))


def _number_of_latents(report: CoderReport) -> list[str]:
    """Whether as many fire as are declared, by the config and by the coder's own k."""
    if report.fit is None:
        return []
    l0, k = report.fit.l0, report.coder.k
    said = {each.what: each.declared for each in report.declared if each.agrees is False}
    if k and not k / WORST_L0_RATIO <= l0 <= k * WORST_L0_RATIO:
        said.setdefault("k", str(k))
    return [
        f"{l0:.1f} latents fire for each token, it declares {what} {said[what]}: another subject, "
        "site or scale, or a threshold that was read wrongly"
        for what in ("k", "L0")
        if what in said
    ]
