"""Where files that are no code stand: those shipped with the package, and the user's models."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_folder(name: str) -> Path:
    """The shipped folder `prompts`, `models` or `report`.

    In an installed wheel it is `lite_interp/data/<name>`. In a source checkout what people read
    and change, `prompts` and `models`, stands beside the package.
    """
    package = Path(__file__).resolve().parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name


def models_folder() -> Path:
    """The folder that holds the user's models; `LITE_INTERP_MODELS` overrides it."""
    override = os.environ.get("LITE_INTERP_MODELS", "")
    if override:
        return Path(override).expanduser().absolute()
    return platformdirs.user_data_path("lite-interp") / "models"
