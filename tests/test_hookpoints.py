"""Names of hookpoints: in every family they mean the tensor that TransformerLens means."""

import pytest
import tiny
import torch
import transformers

from lite_interp.errors import SubjectError
from lite_interp.hookpoints import AMBIGUOUS, POINTS, SHORT, Modules, resolve
from lite_interp.local_model import quiet
from lite_interp.subject import load_subject

IDS = torch.tensor([[5, 9, 77, 8, 100]])
LENGTHS = torch.tensor([5])

FAMILIES = {
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "smollm3": "SmolLM3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "gemma3_text": "Gemma3Text",
    "olmo2": "Olmo2",
    "olmo3": "Olmo3",
    "gpt_neox": "GPTNeoX",
}
"""transformers' classes by model_type."""
TEXT = {
    "vocab_size": tiny.N_VOCAB,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EYE = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def make(kind):
    """A tiny model of a family; its norms have gains that are not 1."""
    torch.manual_seed(0)
    if kind == "gpt2":
        model = tiny.make_model("gpt2", 2)
    elif kind == "gemma3":
        config = transformers.Gemma3Config(
            text_config=TEXT, vision_config=EYE, mm_tokens_per_image=4
        )
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        config = getattr(transformers, f"{FAMILIES[kind]}Config")(**TEXT)
        name = "Gemma3" if kind == "gemma3_text" else FAMILIES[kind]
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject") / request.param
    with quiet():
        make(request.param).save_pretrained(folder)
    return load_subject(folder, device="cpu", dtype="float32")


def read(subject, *points):
    found = [subject.resolve(point) for point in points]
    values = subject.read(IDS, LENGTHS, found)
    return [values[point] for point in found]


def part(subject, module):
    return subject.model.get_submodule(f"{subject.modules.layers}.1.{module}")


def test_the_family_is_known_by_its_own_names(subject):
    assert subject.modules.model_type == subject.name
    assert subject.modules.points is POINTS[subject.name]


def test_the_parts_of_a_layer_add_up(subject):
    names = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    before, attention, mlp, after = read(subject, *(f"blocks.1.{name}" for name in names))
    torch.testing.assert_close(before + attention + mlp, after)
    assert not torch.allclose(attention, mlp)
    if subject.name != "gpt_neox":
        (middle,) = read(subject, "blocks.1.hook_resid_mid")
        torch.testing.assert_close(before + attention, middle)


def test_mlp_input_neurons_and_raw_output_follow_from_each_other(subject):
    names = ("mlp.hook_in", "mlp.hook_post", "mlp.hook_out", "hook_mlp_out")
    mlp_input, neurons, raw, added = read(subject, *(f"blocks.1.{name}" for name in names))
    down = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h"}
    with torch.no_grad():
        torch.testing.assert_close(part(subject, "mlp")(mlp_input), raw)
        made = part(subject, down.get(subject.name, "mlp.down_proj"))(neurons)
    torch.testing.assert_close(made, raw)
    assert neurons.shape[-1] > raw.shape[-1]
    normed = subject.name.startswith(("gemma2", "gemma3", "olmo"))
    assert torch.allclose(raw, added) != normed


def test_a_norm_before_its_gain_is_computed_anew(subject):
    """Slow twin: the norm's own output without its gain and bias."""
    if subject.name.startswith("olmo"):
        with pytest.raises(SubjectError):
            subject.resolve("blocks.1.ln2.hook_normalized")
        return
    for number in (1, 2):
        point = subject.resolve(f"blocks.1.ln{number}.hook_normalized")
        assert subject.resolve(str(point)) == point
        x, after, found = read(subject, f"{point.module}.input", point.module, str(point))
        norm = subject.model.get_submodule(point.module)
        gain = norm.weight + 1 if "gemma" in subject.name else norm.weight
        bias = getattr(norm, "bias", None)
        expected = (after - (0 if bias is None else bias)) / gain
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found, after, atol=1e-2)
        assert not torch.allclose(found, x, atol=1e-2)


def test_what_is_no_norm_has_no_output_before_its_gain(subject):
    point = subject.resolve(f"{subject.modules.layers}.1.mlp.normalized")
    with pytest.raises(SubjectError, match="no gain to leave out"):
        subject.read(IDS, LENGTHS, [point])


def test_heads_lead_to_what_attention_adds(subject):
    z, added = read(subject, "blocks.1.attn.hook_z", "blocks.1.hook_attn_out")
    names = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense"}
    with torch.no_grad():
        made = part(subject, names.get(subject.name, "self_attn.o_proj"))(z)
        if subject.name.startswith(("gemma2", "gemma3", "olmo")):
            made = part(subject, "post_attention_layernorm")(made)
    torch.testing.assert_close(made, added)


def test_the_embedding_is_what_goes_into_the_first_layer(subject):
    embedded, first = read(subject, "hook_embed", "blocks.0.hook_resid_pre")
    if subject.name == "gpt2":
        embedded = embedded + subject.model.transformer.wpe.weight[:5]
    torch.testing.assert_close(embedded, first)


def test_four_spellings_of_one_place(subject):
    path = f"{subject.modules.layers}.1"
    relative = path.rpartition(".")[0].rpartition(".")[2] + ".1"
    expected = f"{path}.output"
    spellings = ("blocks.1.hook_resid_post", path, expected, relative, "resid_post.1")
    for spelling in (*spellings, f"{relative}.output"):
        assert str(subject.resolve(spelling)) == expected
    for short, name in SHORT.items():
        if name in subject.modules.points:
            assert subject.resolve(f"{short}.1") == subject.resolve(f"blocks.1.{name}")


@pytest.mark.parametrize("point", AMBIGUOUS)
def test_names_that_mean_two_things_are_refused_with_the_reason(subject, point):
    with pytest.raises(SubjectError, match=r"subject has no such hookpoint: .*: .* norm") as caught:
        subject.resolve(f"blocks.1.{point}")
    assert "blocks.1." in caught.value.hint
    assert "{" not in caught.value.hint
    with pytest.raises(SubjectError) as caught:
        subject.resolve(f"blocks.7.{point}")
    assert f"{subject.modules.layers}.1" in caught.value.hint


def test_a_path_of_the_text_model_is_found_inside_a_wrapper():
    base = "model.language_model"
    names = {base, f"{base}.layers.1", f"{base}.layers.1.mlp", "model.vision_tower.layers.0"}
    modules = Modules(names, ("model", base), f"{base}.layers", "gemma3")
    expected = f"{base}.layers.1.mlp.output"
    for name in ("model.layers.1.mlp.output", "language_model.model.layers.1.mlp", expected):
        assert str(resolve(name, modules)) == expected
    assert str(resolve("model.vision_tower.layers.0", modules)) == (
        "model.vision_tower.layers.0.output"
    )
    # The other way round, and never into another tower.
    text = Modules({"model.layers.1"}, ("model",), "model.layers", "gemma3_text")
    assert str(resolve(f"{base}.layers.1.output", text)) == "model.layers.1.output"
    with pytest.raises(SubjectError):
        resolve("model.vision_tower.layers.1", text)


def test_a_parallel_residual_has_no_stream_between():
    modules = Modules({"gpt_neox.layers.1"}, ("gpt_neox",), "gpt_neox.layers", "gpt_neox")
    for name in ("blocks.1.hook_resid_mid", "resid_mid.1"):
        with pytest.raises(SubjectError, match="none between them") as caught:
            resolve(name, modules)
        assert "hook_resid_pre" in caught.value.hint


def test_of_other_architectures_the_stream_alone_is_known_by_name():
    names = {"model.layers.1", "model.layers.1.mlp"}
    modules = Modules(names, ("model",), "model.layers", "gpt_oss")
    assert str(resolve("blocks.1.hook_resid_post", modules)) == "model.layers.1.output"
    with pytest.raises(SubjectError, match="gpt_oss .* stream only") as caught:
        resolve("blocks.1.mlp.hook_post", modules)
    assert "model.layers.1.mlp.output" in caught.value.hint


def test_near_names_of_a_misspelt_point():
    modules = Modules({"model.layers.1"}, ("model",), "model.layers", "llama")
    with pytest.raises(SubjectError) as caught:
        resolve("resid_pots.1", modules)
    assert "resid_post.1" in caught.value.hint
