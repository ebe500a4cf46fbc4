"""What Neuronpedia calls a study, and the files of one line that describe it."""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from lite_interp.db import export_rows
from lite_interp.errors import UsageError, one_line
from lite_interp.export.base import Export
from lite_interp.export.writing import tidy_text

CREATOR = "clkht01d40000jv08hvalcvly"
"""A user that Neuronpedia's own exports name as creator; another instance sets its own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SOURCE = re.compile(r"([0-9]{1,6})-([A-Za-z0-9][A-Za-z0-9._-]{0,99}?)(?:__[A-Za-z0-9._-]+)?")


class Place(NamedTuple):
    """What Neuronpedia calls the subject and the coder."""

    model: str
    """Id of the subject."""
    source: str
    """Id of the coder, `<layer>-<set>`, perhaps with `__<suffix>`."""
    source_set: str
    """The set in it."""
    layer: int
    """The layer in it."""
    created: str
    """When the file was begun."""


def folder(export: Export) -> str:
    """Where the files stand below OUT."""
    place = place_of(export)
    return f"{place.model}/{place.source}"


def place_of(export: Export) -> Place:
    """The ids that the user gives, or those that follow from the names in the file.

    Raises:
        UsageError: an id that Neuronpedia would not take.
    """
    job = export.job
    model = job.model_id or _slug(export.about["subject"])
    source = job.source_id or f"{export.layer}-{_slug(export.about['coder'])}"
    match = _SOURCE.fullmatch(source)
    if not _NAME.fullmatch(model) or match is None:
        wrong = source if _NAME.fullmatch(model) else model
        raise UsageError(
            f"no id of Neuronpedia: {one_line(wrong)}",
            "--model-id gemma-2-2b --source-id 20-gemmascope-res-16k",
        )
    created = export_rows.started(export.db).removesuffix("+00:00")
    return Place(model, source, match[2], int(match[1]), created)


def _slug(name: str) -> str:
    """A name in letters that an id may have."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:80] or "unnamed"


def cuid(*names: str) -> str:
    """An id of 25 letters and digits that follows from what it names."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    number = int.from_bytes(
        hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest(), "big"
    )
    found = ""
    for _ in range(24):
        number, digit = divmod(number, 36)
        found += digits[digit]
    return "c" + found


def heads(export: Export, place: Place) -> dict[str, dict[str, Any]]:
    """The one line of each file that describes the source."""
    cache, about = export.cache, export.about
    whose = {"creatorId": CREATOR, "createdAt": place.created}
    shown = {"visibility": "PUBLIC", "creatorName": "lite-interp", "creatorEmail": None, "urls": []}
    told = tidy_text(f"{about['coder']} at {cache.hookpoint} of {about['subject']}")
    release = f"{place.model}-{place.source_set}"
    return {
        "release": {
            **whose, **shown, "name": release, "description": told,
            "descriptionShort": place.source_set, "creatorNameShort": "lite-interp",
            "isNewUi": True, "featured": False, "defaultSourceSetName": place.source_set,
            "defaultSourceId": place.source, "defaultUmapSourceIds": [],
        },
        "model": {
            **whose, "id": place.model, "displayNameShort": about["subject"],
            "displayName": about["subject"], "instruct": False, "tlensId": None,
            "dimension": about["d_model"], "visibility": "PUBLIC",
            "defaultSourceSetName": place.source_set, "defaultSourceId": place.source,
            "inferenceEnabled": False, "layers": place.layer + 1, "neuronsPerLayer": 0,
            "owner": "", "website": None, "updatedAt": place.created,
        },
        "sourceset": {
            **whose, **shown, "modelId": place.model, "name": place.source_set,
            "hasDashboards": True, "description": told, "type": about["format"],
            "releaseName": release, "defaultOfModelId": None, "defaultRange": 1,
            "defaultShowBreaks": True, "showDfa": False, "showCorrelated": False,
            "showHeadAttribution": False, "showUmap": False,
        },
        "source": {
            **whose, "id": place.source, "modelId": place.model, "setName": place.source_set,
            "hasDashboards": True, "inferenceEnabled": False, "saelensConfig": None,
            "saelensRelease": None, "saelensSaeId": None, "hfRepoId": None, "hfFolderId": None,
            "visibility": "PUBLIC", "num_prompts": cache.corpus.n_contexts,
            "num_tokens_in_prompt": cache.corpus.n_ctx, "dataset": cache.corpus.name,
            "notes": f"made by lite-interp from cache {cache.id}", "hasUmap": False,
            "hasUmapLogSparsity": False, "hasUmapClusters": False,
        },
    }  # fmt: skip
