"""Settings that belong together under one name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "examples": {
            "width": 32,
            "sampler": "random",
            "n_shown": 40,
            "n_active": 100,
            "n_silent": 100,
        },
        "explain": {"explainers": ["llm"], "prompt": "explain/paper"},
        "score": {
            "scorers": ["detection", "fuzzing", "embedding", "surprisal"],
            "list": 5,
            "marks": "paper",
        },
    },
}
"""Name → section → settings. `paper`: the recipe of arXiv 2410.13928, sections 3.1, 3.2 and 4.2, as
far as a local engine can follow it; docs/methods.md says what stays different."""


def preset(name: str, origin: str = "") -> dict[str, dict[str, Any]]:
    """The settings of a preset; none for an empty name.

    Raises:
        UsageError: no preset has this name.
    """
    if not name:
        return {}
    if name not in PRESETS:
        before = f"{one_line(origin)}: " if origin else ""
        raise UsageError(f"{before}no preset is named: {one_line(name)}", nearest(name, PRESETS))
    return PRESETS[name]


def with_preset(table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The tables of a study with those of its preset below them: what the study says counts."""
    name = table.get("preset", "")
    found = dict(table)
    for section, settings in (preset(name, origin) if isinstance(name, str) else {}).items():
        own = table.get(section, {})
        found[section] = {**beside(settings, own), **own} if isinstance(own, dict) else own
    return found


def beside(settings: Mapping[str, Any], own: Collection[str]) -> Mapping[str, Any]:
    """What is left of a preset's section beside settings that the user names.

    A prompt belongs to its explainers: who names others has their prompts.
    """
    other = "explainers" in own and "explainers" in settings
    return {key: value for key, value in settings.items() if not (other and key == "prompt")}
