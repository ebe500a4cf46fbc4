"""Firings on a text as plain rows, for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lite_interp.db.told import Told
from lite_interp.render import one_row
from lite_interp.text_firings.reading import TextFirings

N_LATENTS = 100
"""Latents that a page lists, at most."""


def shown_latents(found: TextFirings, top: int, every: bool) -> list[int]:
    """Latents of which something is told: all, or those that are the strongest somewhere.

    Args:
        found: what fires.
        top: latents of a token, at most.
        every: whether all are shown.
    """
    at = [latent for token in range(len(found.tokens)) for latent, _ in found.at(token)[:top]]
    over_all = found.by_latent()[: None if every else N_LATENTS]
    return list(dict.fromkeys([*at, *(each.latent for each in over_all)]))


def share(value: float, told: Told) -> float | None:
    """An activation as a share of the latent's greatest in the cache; may be above 1."""
    return value / told.max_value if told.max_value > 0 else None


def percent(value: float, told: Told) -> str:
    """The same for people; a dash where the greatest is not known."""
    found = share(value, told)
    return "–" if found is None else f"{100 * found:.0f}%"


def firing_rows(found: TextFirings, told: Mapping[int, Told], top: int) -> Iterator[dict[str, Any]]:
    """A row for each token with its strongest latents, then one for each latent.

    Args:
        found: what fires.
        told: all latents that fire.
        top: latents of a token, at most.
    """
    for token, text in enumerate(found.tokens):
        fired = found.at(token)
        yield {
            "kind": "token",
            "context": int(found.contexts[token]),
            "position": int(found.positions[token]),
            "token": one_row(text),
            "special": bool(found.special[token]),
            "n_firings": len(fired),
            "latents": [
                {
                    "latent": latent,
                    "value": value,
                    "share": share(value, told[latent]),
                    "explanation": _text(told[latent]),
                }
                for latent, value in fired[:top]
            ],
        }
    for each in found.by_latent():
        own = told[each.latent]
        places = zip(found.contexts[each.tokens], found.positions[each.tokens], strict=True)
        yield {
            "kind": "latent",
            "latent": each.latent,
            "explanation": _text(own),
            "explainer": one_row(own.explainer),
            "density": own.density,
            "peak": each.peak,
            "share": share(each.peak, own),
            "at": [
                [int(context), int(position), float(value)]
                for (context, position), value in zip(places, each.values, strict=True)
            ],
        }


def _text(told: Told) -> str | None:
    return None if told.explanation is None else one_row(told.explanation)
