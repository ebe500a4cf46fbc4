"""Where everything came from, in words: subject, coder, corpus, models, prompts, commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lite_interp.db import report as reading
from lite_interp.db.report import plain
from lite_interp.report.study import Row, Study
from lite_interp.report.texts import compact, flat, visible

LONGEST_PROMPT = 20_000
"""Characters of a prompt file that are shown."""


def study_record(study: Study) -> Row:
    """What was studied, with what, by which commands."""
    found = reading.provenance(study.db, study.cache.id)
    (cache,) = found["cache"]
    return {
        "cache": visible(study.cache.id),
        "coder": visible(cache["coder"]),
        "hookpoint": visible(cache["hookpoint"]),
        "n_latents": study.cache.n_latents,
        "facts": [*map(list, _facts(study, cache))],
        "models": [
            {"role": role[:-1], "name": visible(row["name"]), "facts": _lines(row["provenance"])}
            for role in ("engines", "embedders")
            for row in found[role]
        ],
        "details": [
            ["subject", _lines(cache["subject_provenance"])],
            ["sparse coder", _lines(cache["coder_provenance"])],
            ["cache", _lines(cache["settings"])],
        ],
        "prompts": [
            {"name": visible(row["name"]), "lines": _text(row["text"])} for row in found["prompts"]
        ],
        "runs": [_run(row) for row in found["runs"]],
    }


def _facts(study: Study, cache: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few lines that stand at the top."""
    corpus, fit = study.cache.corpus, plain(cache["fit"]) or {}
    k = f", k = {cache['k']}" if cache["k"] else ""
    left_out = f", {cache['n_masked']:,} left out" if cache["n_masked"] else ""
    lines = [
        ("subject", f"{cache['subject']} ({cache['architecture']}, width {cache['d_model']:,})"),
        (
            "sparse coder",
            f"{cache['coder']} at {cache['hookpoint']}: {cache['n_latents']:,} latents "
            f"({cache['format']}, {cache['activation']}{k})",
        ),
        ("its fit", f"FVU {_number(fit.get('fvu'))}, L0 {_number(fit.get('l0'))}"),
        (
            "corpus",
            f"{corpus.name}: {corpus.n_tokens:,} tokens in {corpus.n_contexts:,} contexts of up to "
            f"{corpus.n_ctx}, {corpus.n_documents:,} documents",
        ),
        ("positions", f"{cache['n_counted'] or 0:,} counted{left_out}"),
    ]
    return [(name, visible(text)) for name, text in lines]


def _number(value: Any) -> str:
    found = compact(value)
    return "unknown" if found is None else f"{found:g}"


def _lines(text: str | None) -> list[list[str]]:
    return [[name, line] for name, line in flat(plain(text))]


def _text(text: str) -> list[str]:
    """A prompt file line by line, because its line breaks are part of it."""
    cut = text[:LONGEST_PROMPT].split("\n")
    return [visible(line) for line in cut] + ["…"] * (len(text) > LONGEST_PROMPT)


def _run(row: Mapping[str, Any]) -> Row:
    argv = plain(row["argv"])
    return {
        "command": visible(row["command"]),
        "argv": visible(" ".join(map(str, argv)) if isinstance(argv, list) else ""),
        "started": visible(row["started_utc"]),
        "ended": visible(row["ended_utc"] or ""),
        "outcome": visible(row["outcome"] or "killed, or still going on"),
        "machine": _lines(row["machine"]),
        "versions": _lines(row["versions"]),
    }
