"""Every format that results can be exported to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lite_interp.export import (
    circuit_tracer,
    csv_table,
    delphi_cache,
    delphi_results,
    json_lines,
    markdown,
    neuronpedia,
    parquet,
)
from lite_interp.export.base import Export
from lite_interp.export.neuronpedia_heads import folder as neuronpedia_folder


class Format(NamedTuple):
    """One kind of file or folder."""

    write: Callable[[Export, Path], None]
    """Writes a cache to a place that is not there yet: a file, or an empty folder."""
    lost: str
    """What it cannot hold, in one line."""
    is_folder: bool = False
    """Whether it is a folder."""
    below: Callable[[Export], str] | None = None
    """Where below OUT its folder stands, if it is not OUT itself."""


ROWS = "windows, verdicts, and latents that nothing was said about"

FORMATS: dict[str, Format] = {
    "jsonl": Format(json_lines.write, ROWS),
    "csv": Format(
        csv_table.write,
        f"{ROWS}; raw answers, settings; control characters in texts become ↵ and �",
    ),
    "parquet": Format(parquet.write, ROWS),
    "markdown": Format(
        markdown.write, f"{ROWS}; all but the value of a score; texts are cut at 500 characters"
    ),
    "neuronpedia": Format(
        neuronpedia.write,
        "scores but for their values in `notes`, failures, silent windows, co-firing latents; "
        "latents without windows have no activations",
        True,
        neuronpedia_folder,
    ),
    "circuit-tracer": Format(
        circuit_tracer.write, "scores, failures, silent windows, all explanations but one", True
    ),
    "delphi": Format(
        delphi_results.write, "intervals, nulls, prompts, settings; firings: see delphi-cache", True
    ),
    "delphi-cache": Format(
        delphi_cache.write, "explanations and scores: see delphi", True, delphi_cache.folder
    ),
}
"""Name of a format → how it is written."""
