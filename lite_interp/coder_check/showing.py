"""A coder's report as tables for people and as plain JSON."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from lite_interp.coder_check.report import CoderReport, warnings
from lite_interp.coder_check.trying import Tried
from lite_interp.errors import one_line
from lite_interp.loading import coder_name
from lite_interp.render import terminal_safe
from lite_interp.sae import Fit

N_SHOWN = 6
"""Sites and scales in the table for people; JSON has all."""


def as_plain(report: CoderReport) -> dict[str, Any]:
    """Everything as plain JSON; an FVU that is no number is null."""
    coder, subject = report.coder, report.subject
    return {
        "coder": {
            "path": str(coder.provenance.get("path", "")),
            "format": coder.format,
            "hash": coder.hash,
            "activation": coder.activation,
            "k": coder.k,
            "d_in": coder.d_in,
            "n_latents": coder.n_latents,
            "d_out": coder.d_out,
            "input_transform": coder.input_transform,
            "pre_bias": coder.pre_bias is not None,
            "skip": coder.W_skip is not None,
            "transcoder": coder.is_transcoder,
            "partial": coder.provenance.get("partial"),
            "assumptions": list(coder.provenance.get("assumptions", [])),
            "reads": coder.reads,
            "writes": coder.writes,
        },
        "subject": {
            "name": subject.name,
            "architecture": subject.architecture,
            "n_layers": subject.n_layers,
            "d_model": subject.d_model,
            "dtype": str(subject.dtype).removeprefix("torch."),
        },
        "corpus": report.corpus,
        "reads": report.reads or None,
        "writes": report.writes or None,
        "fits": report.fits,
        "fit": report.fit and _plain_fit(report.fit),
        "densities": report.densities
        and {
            "silent": report.densities.silent,
            "often": report.densities.often,
            "quantiles": {f"{at:g}": each for at, each in report.densities.quantiles.items()},
        },
        "declared": [each._asdict() for each in report.declared],
        "tried": [_plain_tried(each) for each in report.tried],
        "best": report.best and _plain_tried(report.best),
        "warnings": warnings(report),
    }


def _plain_fit(fit: Fit) -> dict[str, Any]:
    return {**fit._asdict(), "fvu": fit.fvu if math.isfinite(fit.fvu) else None}


def _plain_tried(each: Tried) -> dict[str, Any]:
    return {
        "reads": str(each.reads),
        "writes": str(each.writes),
        "change": each.way.name,
        "scale_reads": each.way.reads,
        "scale_writes": each.way.writes,
        **_plain_fit(each.fit),
    }


def facts_table(report: CoderReport) -> Table:
    """What the coder is and how well it fits, a line for each fact."""
    coder, subject, fit = report.coder, report.subject, report.fit
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    keeps = f", k = {coder.k}" if coder.k else ""
    skip = ", with a linear path beside" if coder.W_skip is not None else ""
    kind = "transcoder" if coder.is_transcoder else "autoencoder"
    rows = [
        ("coder", f"{coder_name(coder)}: {kind} in the format {coder.format}"),
        ("", f"{coder.d_in} → {coder.n_latents:,} latents → {coder.d_out}"),
        ("activation", f"{coder.activation}{keeps}{skip}"),
        ("input", _input(report)),
    ]
    for number, note in enumerate(coder.provenance.get("assumptions", [])):
        rows.append(("" if number else "assumed", one_line(note)))
    if partial := coder.provenance.get("partial"):
        rows.append(("is", one_line(partial)))
    rows += [
        ("subject", f"{subject.name}: {subject.architecture}, {subject.n_layers} layers"),
        ("reads", report.reads or "nowhere"),
        ("writes", report.writes or "nowhere"),
    ]
    if fit:
        rows += [
            ("tokens", f"{fit.n_tokens:,} of {report.corpus}"),
            ("FVU", f"{fit.fvu:.4g}"),
            ("L0", f"{fit.l0:.1f}"),
        ]
    for name, value in [*rows, *_densities(report)]:
        table.add_row(name, terminal_safe(value))
    return table


def _input(report: CoderReport) -> str:
    coder = report.coder
    less = "a bias is subtracted first" if coder.pre_bias is not None else "nothing is subtracted"
    return f"normalisation of each token: {coder.input_transform}; {less}"


def _densities(report: CoderReport) -> list[tuple[str, str]]:
    found = report.densities
    if not found:
        return []
    among = ", ".join(f"{at:.0%} {each:.4f}" for at, each in found.quantiles.items())
    return [
        ("silent", f"{found.silent:.1%} of the latents never fire on these tokens"),
        ("density", f"quantiles of the others: {among or 'none'}; {found.often:.1%} above 0.1"),
    ]


def declared_table(report: CoderReport) -> Table:
    """The config beside what was found."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("its files", no_wrap=True)
    table.add_column("declare", overflow="fold")
    table.add_column("found", overflow="fold")
    table.add_column("", no_wrap=True)
    signs = {True: "agrees", False: "differs", None: ""}
    for each in report.declared:
        values = (each.what, each.declared, each.found, signs[each.agrees])
        table.add_row(*map(terminal_safe, values))
    return table


def tried_table(report: CoderReport) -> Table:
    """The sites and scales that fit best, and its own."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("tried on a few tokens", overflow="fold")
    for name in ("FVU", "L0"):
        table.add_column(name, justify="right", no_wrap=True)
    own = [each for each in report.tried if _is_own(report, each)]
    shown = report.tried[:N_SHOWN]
    for each in [*shown, *(each for each in own if each not in shown)]:
        at = str(each.reads) if each.reads == each.writes else f"{each.reads} → {each.writes}"
        change = f", {each.way.name}" if each.way.name else ""
        mark = " (its own)" if _is_own(report, each) else ""
        table.add_row(
            terminal_safe(at + change + mark), f"{each.fit.fvu:.4g}", f"{each.fit.l0:.1f}"
        )
    return table


def _is_own(report: CoderReport, each: Tried) -> bool:
    return (str(each.reads), str(each.writes), each.way.name) == (report.reads, report.writes, "")
