"""A study: everything that one run of the whole pipeline is told, from one TOML file.

An unknown key or a value of the wrong type is refused in one line. Paths in the file are
relative to the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lite_interp.cache import CacheSettings
from lite_interp.corpus import CorpusSettings
from lite_interp.engine import EngineSettings
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.samplers import DrawSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


SHARD_TOKENS = 1 << 16
"""Tokens in a shard of contexts, at most: what is held in memory, and lost when a run is killed."""


class Section(BaseModel):
    """A table of a study file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Part = TypeVar("Part", bound=Section)


class SubjectSection(Section):
    """The language model under study."""

    model: str
    """Name of a model that is installed, a folder in Hub layout, or a GGUF file."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16`, `float16`."""


class CoderSection(Section):
    """The sparse coder."""

    path: str
    """Folder that holds it; the format is seen from its files."""
    hookpoint: str = ""
    """Where it reads; empty = as its files say."""
    force: bool = False
    """Go on although it does not reconstruct the subject's activations."""


class CorpusSection(Section):
    """The text that the subject reads."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Files and folders: .txt, .md, .jsonl(.gz|.zst), .parquet."""
    name: str = ""
    """What to call it; empty = the name of the first path."""
    text_field: str = "text"
    """Field of JSON lines, column of Parquet."""
    n_ctx: int = Field(default=128, ge=2)
    """Longest context, tokens."""
    add_bos: bool | None = None
    """Begin each context with BOS; left out = as the tokenizer does."""
    packed: bool = False
    """Join documents in one context."""
    max_tokens: int = Field(default=0, ge=0)
    """Read no more tokens than this; 0 = all."""


class CacheSection(Section):
    """What is masked in the cache."""

    mask_special: bool = True
    """Leave BOS and other special tokens out of statistics."""
    outlier_multiple: float = Field(default=10.0, ge=0)
    """Leave positions out whose norm is this many times the median; 0 = none."""


class LatentsSection(Section):
    """Which latents are explained."""

    indices: tuple[int, ...] = ()
    """These; empty = drawn by seed."""
    n: int = Field(default=8, ge=1)
    """How many are drawn."""
    min_density: float = Field(default=0.0005, ge=0)
    """Drawn from latents that fire at least this often, per position."""
    max_density: float = Field(default=0.02, le=1)
    """Drawn from latents that fire at most this often, per position."""


class ExamplesSection(Section):
    """How windows are drawn."""

    width: int = Field(default=32, ge=2)
    """Tokens in a window."""
    sampler: str = "quantiles"
    """How the shown windows are chosen."""
    n_shown: int = Field(default=20, ge=1)
    """Windows for the explainer."""
    n_active: int = Field(default=50, ge=2)
    """Activating windows to score."""
    n_silent: int = Field(default=50, ge=2)
    """Silent windows to score, drawn at random."""
    n_same_token: int = Field(default=0, ge=0)
    """Silent windows to score that hold a main token of the latent."""
    n_sibling: int = Field(default=0, ge=0)
    """Silent windows to score in which a similar latent fires."""
    n_near: int = Field(default=0, ge=0)
    """Silent windows to score that lie near to the shown ones."""
    embedder: str = "all-minilm-l6-v2"
    """Who says what is near: an installed model, a folder or a GGUF file."""


class EngineSection(Section):
    """The local model that explains and judges."""

    model: str = ""
    """Name of a model that is installed, a GGUF file, or the address of a local server."""
    n_ctx: int = Field(default=4096, ge=16)
    """Longest prompt with its answer, tokens."""
    n_batch: int = Field(default=512, ge=1)
    """Tokens in one evaluation."""
    n_ubatch: int = Field(default=512, ge=1)
    """Tokens in one pass through the layers."""
    n_parallel: int = Field(default=32, ge=1)
    """Windows or answers side by side."""
    flash_attention: bool = False
    """Attention without its matrix in memory: for a GPU, and for `kv_type = "q8_0"`."""
    kv_type: str = "f16"
    """Type of keys and values: `f16`, `f32`, or `q8_0`."""
    n_threads: int = Field(default=0, ge=0)
    """Threads; 0 = physical cores."""
    n_gpu_layers: int = -1
    """Layers on a GPU, if there is one; -1 = all."""
    allow_remote: bool = False
    """Whether the address of a server may be one on another machine."""


class ExplainSection(Section):
    """Who explains."""

    explainers: tuple[str, ...] = ("llm",)
    """Names of explainers."""
    prompt: str = ""
    """Prompt of the first explainer that asks an engine; empty = its own."""


class ScoreSection(Section):
    """Who scores."""

    scorers: tuple[str, ...] = ("detection", "embedding")
    """Names of scorers."""
    explainers: tuple[str, ...] = ()
    """Score only explanations of these explainers; empty = all that were asked for."""
    prompt: str = ""
    """Prompt of the detection scorer; empty = its own."""
    list: int = Field(default=0, ge=0, le=20)
    """Detection with so many windows a prompt and a list for an answer, as in the paper; 0 = one
    window a question."""
    marks: str = "activating"
    """Fuzzing with wrong marks in `activating` windows, or in silent ones as in the `paper`."""
    kl: tuple[float, ...] = (1.0,)
    """Intervention: how far steering moves the next token, nats; one score for each."""
    ablate: bool = False
    """Intervention: clamp the latent to 0 instead of adding to it."""
    until_sure: float = Field(default=0.0, ge=0, le=1)
    """Stop judging a latent as soon as the interval of its score is narrower than this, or it is
    certainly above or below its null; 0 = judge every window."""
    oracles: bool = False
    """Judge rule-made latents too, whose true explanation is known: what this judge can reach."""
    settings: dict[str, dict[str, Any]] = {}
    """Any other setting of a scorer: `[score.settings.simulation]`."""
    embedder: str = "all-minilm-l6-v2"
    """Name of a model that is installed, a folder of sentence-transformers, or a GGUF embedding
    model."""
    n_controls: int = Field(default=4, ge=0)
    """Other latents' explanations judged on each latent's windows: the null."""

    def scorer_settings(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """Scorer → the sets of settings in which it is wanted, where they are not its own."""
        steering = [{"kl": float(kl)} for kl in self.kl] if not self.ablate else [{"ablate": True}]
        found: dict[str, tuple[dict[str, Any], ...]] = {
            "detection": ({"list": self.list},),
            "fuzzing": ({"marks": self.marks},),
            "intervention": tuple(steering),
        }
        for name, changed in self.settings.items():
            found[name] = tuple({**ways, **changed} for ways in found.get(name, ({},)))
        return found


class Study(Section):
    """The whole pipeline."""

    seed: int = Field(default=0, ge=0)
    """Seed of every draw."""
    subject: SubjectSection
    """The language model under study."""
    coder: CoderSection
    """The sparse coder."""
    corpus: CorpusSection
    """The text."""
    cache: CacheSection = CacheSection()
    """Masks."""
    latents: LatentsSection = LatentsSection()
    """Which latents."""
    examples: ExamplesSection = ExamplesSection()
    """Windows."""
    engine: EngineSection = EngineSection()
    """The local model that explains and judges."""
    explain: ExplainSection = ExplainSection()
    """Explainers."""
    score: ScoreSection = ScoreSection()
    """Scorers."""


def read_study(path: Path) -> Study:
    """A study file with its paths made absolute.

    Raises:
        UsageError: no such file, no TOML, an unknown key, a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"no such study file: {one_line(path)}", "the README shows a whole one"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"not a study file: {one_line(path)}: {one_line(error)}") from None
    return _absolute(parse_study(table, str(path)), path.absolute().parent)


def parse_study(table: dict[str, Any], origin: str) -> Study:
    """A study from its tables; `origin` names them in an error."""
    try:
        return Study.model_validate(_tuples(table))
    except ValidationError as error:
        # A key with a typo is missing, too, under its right name: the typo is what helps.
        first = min(
            error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden"
        )
        steps = [str(step) for step in first["loc"]]
        place = ".".join(steps)
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = nearest(steps[-1], _keys(steps[0] if len(steps) > 1 else ""))
        message = "unknown key" if hint else one_line(first["msg"]).lower()
        raise UsageError(f"{one_line(origin)}: {message}: {one_line(place)}", hint) from None


def parse_section(kind: type[Part], **values: Any) -> Part:
    """One section from options of the command line."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise UsageError(f"wrong option: {place}: {one_line(first['msg']).lower()}") from None


def parse_value(option: str, text: str) -> tuple[str, Any]:
    """A setting given as `key=value`, the value as in a study file; a bare word is a text."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key.isidentifier():
        raise UsageError(f"{option} wants key=value: {one_line(text)}", "e.g. n_batch=1024")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _keys(section: str) -> list[str]:
    fields = Study.model_fields
    if section:
        return list(fields[section].annotation.model_fields)  # type: ignore[union-attr]
    return list(fields)


def _tuples(value: Any) -> Any:
    """TOML lists as tuples, and whole numbers where a float is wanted: strict parsing wants it."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _absolute(study: Study, folder: Path) -> Study:
    def resolve(text: str) -> str:
        there = folder / Path(text).expanduser()
        return str(there) if text and there.exists() else text

    def update(section: Any, **values: Any) -> Any:
        return section.model_copy(update=values)

    return study.model_copy(
        update={
            "subject": update(study.subject, model=resolve(study.subject.model)),
            "coder": update(study.coder, path=resolve(study.coder.path)),
            "corpus": update(study.corpus, paths=tuple(map(resolve, study.corpus.paths))),
            "engine": update(study.engine, model=resolve(study.engine.model)),
            "examples": update(study.examples, embedder=resolve(study.examples.embedder)),
            "score": update(study.score, embedder=resolve(study.score.embedder)),
        }
    )


def corpus_settings(section: CorpusSection, *, add_bos: bool) -> CorpusSettings:
    """The corpus section as the corpus module takes it."""
    return CorpusSettings(
        section.n_ctx,
        add_bos,
        section.packed,
        section.max_tokens,
        max(1, SHARD_TOKENS // section.n_ctx),
    )


def cache_settings(section: CacheSection) -> CacheSettings:
    """The cache section as the cache module takes it."""
    return CacheSettings(section.mask_special, float(section.outlier_multiple))


def draw_settings(section: ExamplesSection, embedder_id: str = "") -> DrawSettings:
    """The examples section as the samplers take it."""
    return DrawSettings(**section.model_dump(exclude={"embedder"}), embedder_id=embedder_id)


def engine_settings(section: EngineSection) -> EngineSettings:
    """The engine section as the engine takes it."""
    return EngineSettings(**section.model_dump(exclude={"model", "allow_remote"}))
