"""What the shell offers for a value when Tab is pressed; nothing heavy is loaded for it.

Where nothing fits what is typed, the shell offers files: a model may be a path, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Offer = Callable[[str], list[str]]

PRESETS = ("paper",)
GRIDS = ("paper",)
"""As in the registries, which load PyTorch; the tests compare them."""


def starting(names: Iterable[str], typed: str) -> list[str]:
    """Names that begin as it is typed; of names with commas, the last is meant."""
    before, comma, last = typed.rpartition(",")
    given = before.split(",")
    found = [name for name in names if name.startswith(last) and name not in given]
    return [before + comma + name for name in found]


def one_of(*names: str) -> Offer:
    """An offer of fixed names."""
    return lambda incomplete: starting(names, incomplete)


def _installed(role: str) -> list[str]:
    from lite_interp.fetch import installed
    from lite_interp.manifests import load_manifests

    return [each.name for each in load_manifests() if role in each.roles and installed(each)]


def engines(incomplete: str) -> list[str]:
    """Installed engines."""
    return starting(_installed("engine"), incomplete)


def embedders(incomplete: str) -> list[str]:
    """Installed embedders."""
    return starting(_installed("embedder"), incomplete)


def subjects(incomplete: str) -> list[str]:
    """Installed subjects."""
    return starting(_installed("subject"), incomplete)


def models(incomplete: str) -> list[str]:
    """All models that have a manifest."""
    from lite_interp.manifests import load_manifests

    return starting([each.name for each in load_manifests()], incomplete)


def quantisations(incomplete: str) -> list[str]:
    """What an engine can be made into."""
    from lite_interp.engine.quantize import QUANTISATIONS

    return starting(QUANTISATIONS, incomplete)


def explainers(incomplete: str) -> list[str]:
    """Ways to explain."""
    from lite_interp.explain import EXPLAINERS

    return starting(EXPLAINERS, incomplete)


def scorers(incomplete: str) -> list[str]:
    """Ways to score, one or several with commas."""
    from lite_interp.score import SCORERS

    return starting([*SCORERS, *([] if "," in incomplete else ["all"])], incomplete)


def samplers(incomplete: str) -> list[str]:
    """Ways to choose the windows that are shown."""
    from lite_interp.samplers import SAMPLERS

    return starting(SAMPLERS, incomplete)


def formats(incomplete: str) -> list[str]:
    """Formats of exports."""
    from lite_interp.export.formats import FORMATS

    return starting(FORMATS, incomplete)


def prompts(incomplete: str) -> list[str]:
    """Shipped prompts."""
    from lite_interp.prompts import prompt_files

    return starting(prompt_files(), incomplete)
