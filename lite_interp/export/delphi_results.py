"""Delphi: a folder with one file for each latent.

    explanations/<hookpoint>_latent<i>.txt     a JSON text
    scores/<scorer>/<hookpoint>_latent<i>.txt  a JSON list, an object for each window

Facts: github.com/EleutherAI/delphi 3c2e139 and eai-delphi 0.1.3, latents/, scorers/ and log/.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from lite_interp.db import export_rows
from lite_interp.db.caches import CacheInfo
from lite_interp.export.base import Export, Latent, Row
from lite_interp.export.writing import json_text

SCORERS = {"detection": "detection", "fuzzing": "fuzz", "embedding": "embedding"}
"""Our scorer → the name of its folder in Delphi."""


def hookpoint_of(cache: CacheInfo) -> str:
    """Delphi's name of a hookpoint, a module below the model: `layers.9.mlp`."""
    path = cache.hookpoint.rpartition(".")[0] or cache.hookpoint
    found = re.search(r"(?:^|\.)((?:layers|h|blocks)\.[0-9]+(?:\..*)?)$", path)
    return re.sub(r"[^A-Za-z0-9._-]", "_", found[1] if found else path).lstrip(".") or "unnamed"


def write(export: Export, out: Path) -> None:
    """Write the explanation of each latent, the best of several, and the verdicts on it."""
    hookpoint = hookpoint_of(export.cache)
    (out / "explanations").mkdir()
    n_others = 0
    for latent in export.latents(explained=True):
        best = latent.best()
        n_others += max(0, sum(each["text"] is not None for each in latent.explanations) - 1)
        if best is not None:
            name = f"{hookpoint}_latent{latent.stats.latent}.txt"
            (out / "explanations" / name).write_text(json_text(best["text"]), encoding="utf-8")
            _write_scores(export, latent, best, out / "scores", name)
    if n_others:
        export.lost.append(f"one file a latent: {n_others:,} other explanations are left out")
    others = export_rows.n_other_scorers(export.db, export.cache.id, tuple(SCORERS))
    if others:
        export.lost.append(f"scorers that are left out: {', '.join(others)}")


def _write_scores(export: Export, latent: Latent, best: Row, out: Path, name: str) -> None:
    for scorer, called in SCORERS.items():
        verdicts = export_rows.verdicts(export.db, best["id"], scorer)
        if verdicts:
            (out / called).mkdir(parents=True, exist_ok=True)
            make = _similar if scorer == "embedding" else _classified
            text = json_text([make(verdict) for verdict in verdicts])
            (out / called / name).write_text(text, encoding="utf-8")


def _distance(verdict: Row) -> int:
    """Delphi's `distance`: the decile of an activating window, -1 of a silent one."""
    found = re.fullmatch(r"decile_([0-9])", verdict["stratum"] or "")
    return int(found[1]) if found else -1


def _classified(verdict: Row) -> Row:
    """A verdict of detection or fuzzing: a margin in nats becomes an answer and a probability."""
    margin = verdict["value"]
    active = bool(verdict["active"])
    answer = None if margin is None else margin > 0
    return {
        "str_tokens": verdict["tokens"],
        "activations": verdict["acts"],
        "distance": _distance(verdict),
        "activating": active,
        "prediction": answer,
        "probability": None if margin is None else _sigmoid(margin),
        "correct": None if answer is None else answer == active,
    }


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, margin))))


def _similar(verdict: Row) -> Row:
    return {
        "text": "".join(verdict["tokens"]),
        "distance": _distance(verdict),
        "similarity": verdict["value"],
    }
