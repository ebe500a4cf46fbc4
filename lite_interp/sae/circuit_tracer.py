"""circuit-tracer: transcoders layer by layer, and cross-layer transcoders, in one folder each.

    layer_<i>.safetensors                           a transcoder of layer i
    W_enc_<i>.safetensors, W_dec_<i>.safetensors    layer i of a cross-layer transcoder
    config.yaml                                     where all of them read and write

Nothing is subtracted before the encoder. A file with a threshold is JumpReLU, one without is ReLU,
unless the config says topk.
Facts: github.com/safety-research/circuit-tracer 0.5.0, transcoder/*.py and utils/hf_utils.py.
What a reader gets wrong most easily: W_enc is (n_latents, d_in), transposed against SAELens; the
decoder W_dec_<i> is (n_latents, layers from i on, d_out), by source, where OpenMOSS goes by
destination.

Of a cross-layer transcoder one layer is read: its encoder, and what it writes to its own layer.
What it writes to later layers is not read, nor what earlier layers write to this one, so it does
not reconstruct its layer's MLP alone: from layer 1 on its FVU says little.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import Activation, SparseCoder
from lite_interp.sae.files import (
    Assumptions,
    look,
    need,
    need_all,
    read_tensors,
    shapes_of,
    use_safetensors,
)

CONFIG = "config.yaml"
"""Name of the config."""
KEYS = ("model_name", "model_kind", "feature_input_hook", "feature_output_hook", "activation", "k")
"""Keys of the config that are read."""
TRANSCODERS, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"
"""What the config calls the two kinds."""
PARTIAL = (
    "one layer of a cross-layer transcoder: what it writes to later layers is not read, "
    "nor what earlier layers write to this one"
)
"""Why a layer of a cross-layer transcoder does not reconstruct."""

MAX_CONFIG_BYTES = 1 << 16
"""Largest config that is read."""
THRESHOLD = "activation_function.threshold"
"""What the threshold of a transcoder is called."""


class Layer(NamedTuple):
    """One layer's weights."""

    kind: str
    """`transcoder_set` or `cross_layer_transcoder`."""
    number: int
    """The layer."""
    file: Path
    """The file with its encoder."""


def is_one(path: Path) -> bool:
    """Whether a file is a layer's, or a folder has a config of such layers without their files."""
    layer = _layer(path)
    if path.is_file() != (layer is not None):
        return False
    if layer and _encoder(layer) <= set(look(path)):
        return True
    # What is cut or lies elsewhere is for `load` to complain of.
    try:
        told = _read_yaml((path.parent if layer else path) / CONFIG).get("model_kind")
    except CoderError:
        return False
    return told in (TRANSCODERS, CROSS_LAYER) and (layer is not None or not find_layers(path))


def find_layers(folder: Path) -> list[Layer]:
    """The layers in a folder, by their files' names."""
    found = (_layer(file) for file in folder.glob("*.safetensors"))
    return sorted(layer for layer in found if layer is not None)


def load(path: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read one layer; `overrides` replace keys of the config, and `layer` chooses in a folder."""
    layer = _choose(path, overrides.get("layer"))
    given = {key: value for key, value in overrides.items() if key != "layer"}
    file = layer.file.with_name(CONFIG)
    raw = _read_yaml(file) if file.is_file() else {}
    config = {key: raw[key] for key in KEYS if isinstance(raw.get(key), (str, int))} | given
    known = Assumptions(config)
    if config.get("model_kind", layer.kind) != layer.kind:
        raise CoderError(
            f"config says {one_line(config['model_kind'])}, the file is of a {layer.kind}: "
            f"{one_line(layer.file)}"
        )
    reads, writes = _sites(layer, known)
    read = _read_transcoder if layer.kind == TRANSCODERS else _read_cross_layer
    tensors, digest = read(layer)
    activation, k = _activation(tensors, known, layer)
    threshold = tensors.get("threshold")
    if threshold is not None and (threshold < 0).any():
        known.notes.append("some thresholds are below 0: negative activations are not read")
    provenance = {"path": str(layer.file), "config": config, "assumptions": known.notes}
    if layer.kind == CROSS_LAYER:
        known.notes.append(PARTIAL)
        provenance["partial"] = PARTIAL
    return SparseCoder(
        format="circuit_tracer",
        hash=digest,
        reads=reads,
        writes=writes,
        W_enc=tensors["W_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation=activation,
        k=k,
        threshold=threshold,
        W_skip=tensors.get("W_skip"),
        provenance=provenance,
    )


def _layer(file: Path) -> Layer | None:
    """What a file's name says it holds."""
    match = re.fullmatch(r"(layer|W_enc)_(0|[1-9]\d{0,4})\.safetensors", file.name)
    if match is None:
        return None
    return Layer(TRANSCODERS if match[1] == "layer" else CROSS_LAYER, int(match[2]), file)


def _encoder(layer: Layer) -> set[str]:
    """Tensors by which the file of an encoder is known."""
    if layer.kind == TRANSCODERS:
        return {"W_enc", "W_dec", "b_enc", "b_dec"}
    return {f"{name}_{layer.number}" for name in ("W_enc", "b_enc", "b_dec")}


def _choose(path: Path, number: Any) -> Layer:
    """The layer that is meant."""
    if path.is_file():
        layer = _layer(path)
        if layer is None:
            raise CoderError(
                f"file is no layer of circuit-tracer: {one_line(path)}",
                "read are: layer_<i>.safetensors, W_enc_<i>.safetensors with W_dec_<i>.safetensors",
            )
        return layer
    layers = find_layers(path)
    if number is not None:
        layers = [layer for layer in layers if layer.number == number]
    if len(layers) == 1:
        return layers[0]
    if layers:
        names = ", ".join(layer.file.name for layer in layers[:8])
        raise CoderError(
            f"{len(layers)} layers in this folder: {one_line(path)}",
            f"name the file of one: {names}{', …' if len(layers) > 8 else ''}",
        )
    listed = _read_yaml(path / CONFIG).get("transcoders")
    first = f", the first at {one_line(listed[0])}" if isinstance(listed, list) and listed else ""
    raise CoderError(
        f"folder has a config, but its weights are elsewhere{first}: {one_line(path)}",
        "download the weights of a layer and name them in place of this folder",
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    """The config."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES:,} bytes")
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CoderError(
            f"sparse coder's config cannot be read: {one_line(path)}: {one_line(error)}"
        ) from error
    if not isinstance(config, dict):
        raise CoderError(f"sparse coder's config is no mapping: {one_line(path)}")
    return config


def _sites(layer: Layer, known: Assumptions) -> tuple[str, str]:
    """Where a layer reads and writes."""
    if layer.kind == TRANSCODERS and known.config.get("feature_input_hook") is None:
        raise CoderError(
            f"no {CONFIG} beside the weights says what the transcoder reads "
            f"(feature_input_hook): {one_line(layer.file)}",
            f"download {CONFIG} too",
        )
    # Of a cross-layer transcoder circuit-tracer has defaults.
    reads = known.get("feature_input_hook", "hook_resid_mid")
    writes = known.get("feature_output_hook", "hook_mlp_out")
    return f"blocks.{layer.number}.{reads}", f"blocks.{layer.number}.{writes}"


def _read_transcoder(layer: Layer) -> tuple[dict[str, Tensor], str]:
    """The tensors of a transcoder by our names, and its hash."""
    held = read_tensors(layer.file)
    shapes: dict[str, tuple[str, ...]] = {
        "W_enc": ("n_latents", "d_in"),
        "b_enc": ("n_latents",),
        "W_dec": ("n_latents", "d_out"),
        "b_dec": ("d_out",),
    }
    optional = {THRESHOLD: ("n_latents",), "W_skip": ("d_out", "d_in")}
    shapes |= {name: sides for name, sides in optional.items() if name in held}
    _refuse_unknown(set(held) - {*shapes, "k"}, layer)
    tensors = need_all(held, shapes, layer.file)
    if THRESHOLD in tensors:
        tensors["threshold"] = tensors.pop(THRESHOLD)
    if "k" in held:
        tensors["k"] = held["k"]
    return tensors, hash_file(layer.file)


def _read_cross_layer(layer: Layer) -> tuple[dict[str, Tensor], str]:
    """The same of a layer of a cross-layer transcoder; the hash is of what is read."""
    number, held = layer.number, read_tensors(layer.file)
    shapes: dict[str, tuple[str, ...]] = {
        f"W_enc_{number}": ("n_latents", "d_in"),
        f"b_enc_{number}": ("n_latents",),
        f"b_dec_{number}": ("d_in",),
    }
    if f"threshold_{number}" in held:
        shapes[f"threshold_{number}"] = ("n_latents",)
    _refuse_unknown(set(held) - set(shapes), layer)
    taken = need_all(held, shapes, layer.file)
    tensors = {name.removesuffix(f"_{number}"): tensor for name, tensor in taken.items()}
    tensors["W_dec"] = _read_own_decoder(layer, tuple(tensors["W_enc"].shape))
    digest = hashlib.sha256(hash_file(layer.file).encode())
    digest.update(tensors["W_dec"].numpy().tobytes())
    return tensors, f"sha256:{digest.hexdigest()}"


def _read_own_decoder(layer: Layer, encoder: tuple[int, ...]) -> Tensor:
    """(n_latents, d_out) what a layer writes to itself; the rest of the file stays on disk."""
    file, name = layer.file.with_name(f"W_dec_{layer.number}.safetensors"), f"W_dec_{layer.number}"
    if not file.is_file():
        raise CoderError(
            f"sparse coder lacks its decoder {file.name}: {one_line(file.parent)}",
            "download it too: directions, the logit lens and steering need it",
        )
    shape = shapes_of(file).get(name, ())
    if len(shape) != 3 or (shape[0], shape[2]) != encoder or not shape[1]:
        raise CoderError(
            f"{name} of the sparse coder has shape {shape}, expected "
            f"({encoder[0]}, layers from {layer.number} on, {encoder[1]}): {one_line(file)}"
        )
    own = use_safetensors(file, lambda opened: opened.get_slice(name)[:, 0:1])[:, 0]
    own = own.float() if own.is_floating_point() else own
    return need({name: own.contiguous()}, name, file)


def _refuse_unknown(names: set[str], layer: Layer) -> None:
    """Refuse tensors of which nobody knows what they do."""
    if names:
        raise CoderError(
            f"sparse coder has a tensor {one_line(min(names))}, which is not known: "
            f"{one_line(layer.file)}"
        )


def _activation(
    tensors: Mapping[str, Tensor], known: Assumptions, layer: Layer
) -> tuple[Activation, int | None]:
    """What is done to pre-activations, and k; weights and config must agree."""
    named, held = known.config.get("activation"), tensors.get("k")
    by_weights = "jumprelu" if "threshold" in tensors else "relu" if held is None else "topk"
    wanted = str(named).lower().replace("_", "") if named is not None else by_weights
    if wanted not in ("relu", "jumprelu", "topk"):
        raise CoderError(
            f"activation of the sparse coder is not known: {one_line(named)}",
            "circuit-tracer's coders are read with relu, jumprelu and topk",
        )
    if wanted != by_weights and (wanted, by_weights) != ("topk", "relu"):
        raise CoderError(
            f"config of the sparse coder says {one_line(named)}, the tensors in its file are those "
            f"of {by_weights}: {one_line(layer.file)}"
        )
    if wanted != "topk":
        return ("jumprelu" if wanted == "jumprelu" else "relu"), None
    if held is not None and (held.numel() != 1 or held.is_floating_point()):
        raise CoderError(f"k of the sparse coder is no whole number: {one_line(layer.file)}")
    known.notes.append("of the k largest pre-activations those below 0 are not read")
    if known.config.get("k") is None and held is not None:
        return "topk", int(held)
    if known.config.get("k") is None:
        raise CoderError(f"config of the sparse coder says topk, but no k: {one_line(layer.file)}")
    return "topk", known.integer("k", 0)
