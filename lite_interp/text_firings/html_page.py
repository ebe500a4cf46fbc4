"""Firings on a text as one page: no script, nothing fetched, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from lite_interp.db.caches import CacheInfo
from lite_interp.db.told import Told
from lite_interp.render import one_row
from lite_interp.text_firings.reading import LatentFirings, TextFirings
from lite_interp.text_firings.rows import N_LATENTS, percent

N_PLACES = 8
"""Places that are listed of a latent: where it fires most."""
AROUND = 4
"""Tokens shown on each side of a place."""
LEVELS = 9
"""Shades."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --shade: 242 140 40; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; }
tbody tr { border-top: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dim { opacity: .65; }
.text { overflow-wrap: anywhere; }
.text a { color: inherit; text-decoration: none; }
a:hover, a:focus-visible, tr:target { outline: 2px solid; }
bdi { unicode-bidi: isolate; white-space: pre-wrap; }
@media print { tr { break-inside: avoid; } body { max-width: none; } }
""" + "".join(
    f".s{level} {{ background: rgb(var(--shade) / {level / (LEVELS + 1):.2f}); }}\n"
    for level in range(1, LEVELS + 1)
)

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '{{ digest }}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>What fires on a text</title>
<style>{{ style }}</style>
</head>
<body>
<h1>What fires on a text</h1>
<p class="dim">{{ n_latents }} latents of <bdi>{{ coder }}</bdi> at <bdi>{{ hookpoint }}</bdi> fire
on {{ tokens | length }} tokens. Left out, as in the cache: {{ n_special }} special,
{{ n_outlier }} with an outlying norm. A shade is the greatest activation at a token, of the
strongest in the text.</p>
<p class="text">
{%- for token in tokens -%}
<a href="#t{{ loop.index0 }}" class="s{{ token.level }}" title="{{ token.title }}"><bdi>
{{- token.text }}</bdi></a>
{%- endfor -%}
</p>
<h2 id="tokens">Tokens, each with its strongest latents</h2>
<table>
<thead><tr><th class="n">place</th><th>token</th><th class="n">latent</th><th class="n">value</th>
<th class="n">of max</th><th>explanation</th></tr></thead>
<tbody>
{%- for token in tokens %}
{%- for row in token.rows %}
<tr{% if loop.first %} id="t{{ token.number }}"{% endif %}>
<td class="n dim">{{ token.place if loop.first }}</td>
<td>{% if loop.first %}<bdi>{{ token.text }}</bdi>{% endif %}</td>
<td class="n">{% if row.linked %}<a href="#l{{ row.latent }}">{{ row.latent }}</a>
{%- else %}{{ row.latent }}{% endif %}</td>
<td class="n">{{ row.value }}</td><td class="n">{{ row.share }}</td>
<td><bdi>{{ row.explanation }}</bdi></td></tr>
{%- else %}
<tr id="t{{ token.number }}"><td class="n dim">{{ token.place }}</td><td><bdi>{{ token.text }}</bdi>
</td><td></td><td></td><td></td><td class="dim">{{ token.why }}</td></tr>
{%- endfor %}
{%- endfor %}
</tbody>
</table>
<h2 id="latents">Latents, the strongest first</h2>
<table>
<thead><tr><th class="n">latent</th><th class="n">peak</th><th class="n">of max</th>
<th class="n">tokens</th><th>explanation, and where it fires most</th></tr></thead>
<tbody>
{%- for row in latents %}
<tr id="l{{ row.latent }}"><td class="n">{{ row.latent }}</td><td class="n">{{ row.value }}</td>
<td class="n">{{ row.share }}</td><td class="n">{{ row.n }}</td>
<td><bdi>{{ row.explanation }}</bdi>
{%- for place in row.places %}
<br><span class="dim"><bdi>{{ place.before }}</bdi></span><a href="#t{{ place.number }}"
 class="s{{ place.level }}"><bdi>{{ place.text }}</bdi></a><span class="dim"><bdi>
{{- place.behind }}</bdi> {{ place.value }}</span>
{%- endfor %}</td></tr>
{%- endfor %}
</tbody>
</table>
{%- if n_latents > latents | length %}
<p class="dim">… and {{ n_latents - latents | length }} weaker latents.</p>
{%- endif %}
</body>
</html>
"""


def html_page(cache: CacheInfo, found: TextFirings, told: Mapping[int, Told], top: int) -> str:
    """The text shaded by activation, its tokens with their latents, its latents with their tokens.

    Args:
        cache: whose latents they are.
        found: what fires.
        told: the latents that are shown.
        top: latents of a token, at most.
    """
    every = found.by_latent()
    listed = every[:N_LATENTS]
    greatest = every[0].peak if every else 0.0
    linked = {each.latent for each in listed}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return template.from_string(TEMPLATE).render(
        # Ours alone, and a style sheet is no place for character references.
        style=Markup(STYLE),
        digest=f"sha256-{digest}",
        coder=one_row(cache.coder_name),
        hookpoint=one_row(cache.hookpoint),
        n_latents=len(every),
        n_special=int(found.special.sum()),
        n_outlier=found.n_outlier,
        tokens=[
            _token(found, told, number, top, greatest, linked)
            for number in range(len(found.tokens))
        ],
        latents=[_latent(found, told[each.latent], each) for each in listed],
    )


def _token(
    found: TextFirings,
    told: Mapping[int, Told],
    number: int,
    top: int,
    greatest: float,
    linked: set[int],
) -> dict[str, Any]:
    fired = found.at(number)
    rows = [
        {**_numbers(told[latent], value), "linked": latent in linked}
        for latent, value in fired[:top]
    ]
    return {
        "number": number,
        "place": f"{found.contexts[number]}:{found.positions[number]}",
        "text": one_row(found.tokens[number]),
        "level": _level(fired[0][1], greatest) if fired else 0,
        "title": "\n".join(f"{row['latent']}: {row['explanation']}" for row in rows),
        "rows": rows,
        "why": "special: left out" if found.special[number] else "nothing fires",
    }


def _latent(found: TextFirings, told: Told, each: LatentFirings) -> dict[str, Any]:
    strongest = sorted(zip(each.values.tolist(), each.tokens.tolist(), strict=True), reverse=True)
    return {
        **_numbers(told, each.peak),
        "n": len(each.tokens),
        "places": [
            {
                "number": number,
                "before": _text(found, number, number - AROUND, number),
                "text": one_row(found.tokens[number]),
                "behind": _text(found, number, number + 1, number + 1 + AROUND),
                "level": _level(value, each.peak),
                "value": f"{value:.3g}",
            }
            for value, number in strongest[:N_PLACES]
        ],
    }


def _numbers(told: Told, value: float) -> dict[str, Any]:
    text = told.explanation
    if text is None:
        text = f"(fires on: {told.words or 'unknown'})"
    return {
        "latent": told.latent,
        "value": f"{value:.3g}",
        "share": percent(value, told),
        "explanation": one_row(text),
    }


def _text(found: TextFirings, number: int, start: int, stop: int) -> str:
    """The tokens from start to stop - 1 that are in the context of a token."""
    inside = range(max(0, start), min(stop, len(found.tokens)))
    same = found.contexts[number]
    return one_row("".join(found.tokens[k] for k in inside if found.contexts[k] == same))


def _level(value: float, greatest: float) -> int:
    return max(1, round(LEVELS * value / greatest)) if greatest > 0 else 0
