"""The tables of a study file."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field


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
    """Folder or file that holds it, the format is seen from it; or `neurons:LAYER[:K]`."""
    hookpoint: str = ""
    """Where it reads; empty = as its files say."""
    force: bool = False
    """Go on although it does not reconstruct the subject's activations."""
    random: bool = False
    """A coder of the same shape and sparsity with random directions in its place: a floor."""


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
    """What is masked in the cache, and what is kept."""

    mask_special: bool = True
    """Leave BOS and other special tokens out of statistics."""
    outlier_multiple: float = Field(default=10.0, ge=0)
    """Leave positions out whose norm is this many times the median; 0 = none."""
    keep: Literal["all", "reservoir"] = "all"
    """`reservoir`: once all is counted, keep the strongest windows of each latent and a sample."""
    batch_tokens: int = Field(default=0, ge=0)
    """Tokens in a forward pass; 0 = 4,096, halved where memory does not suffice."""


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
    """Silent windows to score that lie near to the activating ones that are scored."""
    n_held_out: int | None = Field(default=None, ge=0)
    """Windows of each kind that are neither shown nor scored, for explainers that try what they
    write; left out = as many as those that are named want."""
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
    settings: dict[str, dict[str, Any]] = {}
    """Settings of an explainer that differ from its own: `[explain.settings.best_of]`."""


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

    preset: str = ""
    """Begin with the settings of a preset, e.g. `paper`; what stands here goes before it."""
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
