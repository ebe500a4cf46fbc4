"""Settings of an explainer or scorer that a user changes, checked against its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line


def changed_settings(
    kind: str,
    name: str,
    own: Mapping[str, Any],
    changed: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
    allowed: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """The settings with some changed; a value is of the type that the default has.

    Args:
        kind: `explainer` or `scorer`, for the message.
        name: its name.
        own: its settings.
        changed: what the user wants.
        ranges: setting → least and greatest number; without one it is at least 0.
        allowed: setting → the values it may have, where not every one of its type will do.

    Raises:
        UsageError: no setting has such a name, or the value is of another type or out of range.
    """
    found = dict(own)
    for key, value in changed.items():
        if key not in own:
            known = nearest(key, own)
            raise UsageError(f"the {kind} {name} has no setting: {one_line(key)}", known)
        found[key] = _like(f"{name}.{key}", own[key], value)
        choices = (allowed or {}).get(key)
        if choices and found[key] not in choices:
            raise UsageError(
                f"wrong value of {name}.{key}: {one_line(value)}",
                f"one of {', '.join(map(str, choices))}",
            )
        _refuse_out_of_range(f"{name}.{key}", found[key], ranges.get(key, (0, math.inf)))
    return found


def _like(name: str, own: Any, value: Any) -> Any:
    if isinstance(own, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(own):
        raise UsageError(f"wrong value of {name}: {one_line(value)}", f"one like {own!r}")
    return value


def _refuse_out_of_range(name: str, value: Any, range: tuple[float, float]) -> None:
    low, high = range
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise UsageError(
            f"{name} is out of range: {value}",
            f"at least {low:g}" + (f", at most {high:g}" if high < math.inf else ""),
        )
