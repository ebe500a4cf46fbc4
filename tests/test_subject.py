"""Reading a subject: the right tensor, no deeper than needed, and nothing changed."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch

from lite_interp.errors import SubjectError
from lite_interp.hookpoints import POINTS, Modules, resolve
from lite_interp.records import Hookpoint
from lite_interp.subject import has_fast_bfloat16, load_subject
from lite_interp.tokenizer import load_tokenizer

KINDS = ["llama", "gpt2", "neox"]
LAYERS = {"llama": "model.layers", "gpt2": "transformer.h", "neox": "gpt_neox.layers"}
IDS = torch.tensor(np.random.default_rng(0).integers(4, tiny.N_VOCAB, size=(4, 12)))
FULL = torch.full((4,), 12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny.write_subject(tmp_path_factory.mktemp(kind) / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def subject(request, folders):
    return load_subject(folders[request.param], device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llama(folders):
    return load_subject(folders["llama"], device="cpu", dtype="float32")


def n_hooks(subject):
    """Hooks on all modules; the library may keep some of its own."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in subject.model.modules()
    )


def test_what_is_read_is_what_the_library_calls_hidden_states(subject):
    points = [subject.resolve(f"blocks.{layer}.hook_resid_post") for layer in range(2)]
    found = subject.read(IDS, FULL, [subject.resolve("blocks.0.hook_resid_pre"), *points])
    with torch.no_grad():
        states = subject.model(IDS, output_hidden_states=True).hidden_states
    for value, expected in zip(found.values(), states, strict=False):
        torch.testing.assert_close(value, expected)
    assert list(found) == [subject.resolve("blocks.0.hook_resid_pre"), *points]


def test_the_parts_of_a_layer_add_up(subject):
    names = ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]
    points = [subject.resolve(f"blocks.1.{name}") for name in names]
    before, attention, mlp, after = subject.read(IDS, FULL, points).values()
    torch.testing.assert_close(before + attention + mlp, after)
    if "neox" not in subject.name:
        middle = subject.resolve("blocks.1.hook_resid_mid")
        torch.testing.assert_close(before + attention, subject.read(IDS, FULL, [middle])[middle])


def test_neurons_and_heads_lead_to_the_contributions(llama):
    layer = llama.model.model.layers[1]
    names = ["mlp.hook_post", "hook_mlp_out", "attn.hook_z", "hook_attn_out", "mlp.hook_in"]
    points = [llama.resolve(f"blocks.1.{name}") for name in names]
    neurons, mlp, z, attention, mlp_in = llama.read(IDS, FULL, points).values()
    torch.testing.assert_close(layer.mlp.down_proj(neurons), mlp)
    torch.testing.assert_close(layer.self_attn.o_proj(z), attention)
    torch.testing.assert_close(layer.mlp(mlp_in), mlp)
    assert [llama.width(point) for point in points] == [16, 8, 8, 8, 8]


def test_padding_changes_nothing(subject):
    lengths = torch.tensor([12, 5, 1, 7])
    point = subject.resolve("blocks.2.hook_resid_post")
    together = subject.read(IDS, lengths, [point])[point]
    other = IDS.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = 9
        alone = subject.read(IDS[row : row + 1, :length], [length], [point])[point]
        torch.testing.assert_close(together[row, :length], alone[0])
        assert not together[row, length:].any()
    torch.testing.assert_close(subject.read(other, lengths, [point])[point], together)


def test_reading_changes_nothing_and_goes_no_deeper_than_needed(subject):
    ran, hooks = [], n_hooks(subject)
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in subject.model.named_modules()
    ]
    subject.read(IDS, FULL, [subject.resolve("blocks.1.hook_resid_post")])
    for handle in handles:
        handle.remove()
    layers = subject.modules.layers
    assert f"{layers}.0" in ran
    assert not [name for name in ran if name.startswith(f"{layers}.2") or "head" in name]

    with torch.no_grad():
        before = subject.model(IDS).logits
        subject.read(IDS, FULL, [subject.resolve("blocks.1.mlp.hook_post")])
        after = subject.model(IDS).logits
    assert torch.equal(before, after)
    assert n_hooks(subject) == hooks
    assert not any(weight.requires_grad for weight in subject.model.parameters())
    assert not subject.model.training


def test_no_hook_outlives_an_exception(llama, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("a bug")

    hooks = n_hooks(llama)
    monkeypatch.setattr(llama.model.model.layers[1], "forward", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        llama.read(IDS, FULL, [llama.resolve("layers.2")])
    assert n_hooks(llama) == hooks


def test_layers_that_return_tuples_are_read_too(llama):
    """As in transformers before version 5, beside an inner module that returns a tensor."""
    point = llama.resolve("layers.1")
    expected = llama.read(IDS, FULL, [point])[point]
    layer = llama.model.model.layers[1]
    handle = layer.register_forward_hook(lambda *arguments: (arguments[-1], "cache"))
    try:
        torch.testing.assert_close(llama.read(IDS, FULL, [point])[point], expected)
    finally:
        handle.remove()


def test_one_context_and_no_context(subject):
    point = subject.resolve("blocks.1.hook_resid_post")
    one = subject.read(IDS[:1, :1], [1], [point])[point]
    assert one.shape == (1, 1, 8)
    assert subject.read(IDS[:0], FULL[:0], [point])[point].shape == (0, 12, 8)
    assert subject.read(IDS, FULL, []) == {}


def test_numpy_is_read_as_well(llama):
    point = llama.resolve("layers.1")
    read = llama.read(IDS.numpy().astype(np.int32), FULL.numpy().astype(np.int32), [point])
    assert torch.equal(read[point], llama.read(IDS, FULL, [point])[point])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.1", "model.layers.1.output"),
        ("model.layers.1", "model.layers.1.output"),
        ("model.layers.1.output", "model.layers.1.output"),
        ("layers.1.input", "model.layers.1.input"),
        ("layers.1.mlp", "model.layers.1.mlp.output"),
        ("layers.1.mlp.act_fn", "model.layers.1.mlp.act_fn.output"),
        ("embed_tokens", "model.embed_tokens.output"),
        ("blocks.1.hook_resid_post", "model.layers.1.output"),
        ("blocks.1.hook_resid_pre", "model.layers.1.input"),
        ("blocks.1.hook_resid_mid", "model.layers.1.post_attention_layernorm.input"),
        ("blocks.1.attn.hook_z", "model.layers.1.self_attn.o_proj.input"),
        ("blocks.1.mlp.hook_post", "model.layers.1.mlp.down_proj.input"),
    ],
)
def test_names_of_hookpoints(llama, name, expected):
    assert str(llama.resolve(name)) == expected
    assert llama.resolve(expected) == llama.resolve(name)


def test_gpt2_and_neox_names(folders):
    gpt2 = load_subject(folders["gpt2"], device="cpu")
    assert str(gpt2.resolve("h.0.mlp.act")) == "transformer.h.0.mlp.act.output"
    assert str(gpt2.resolve("blocks.2.hook_resid_mid")) == "transformer.h.2.ln_2.input"
    neox = load_subject(folders["neox"], device="cpu")
    assert str(neox.resolve("layers.2")) == "gpt_neox.layers.2.output"
    with pytest.raises(SubjectError, match="hook_resid_mid"):
        neox.resolve("blocks.2.hook_resid_mid")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layers.l", "layers.1"),
        ("layers.1.mpl", "layers.1.mlp"),
        ("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"),
        ("blocks.1.ln2.hook_normalised", "blocks.1.ln2.hook_normalized"),
        ("blocks.9.hook_resid_post", "model.layers."),
        ("lm_head", "there is"),
        ("layers", "layers.0"),
        ("", "model.layers.0"),
        (".output", "model.layers.0"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_near_ones(llama, name, hint):
    with pytest.raises(SubjectError, match="subject has no such hookpoint") as caught:
        llama.resolve(name)
    assert hint in caught.value.hint


def test_modules_behind_a_prefix_of_a_multimodal_model_are_found():
    base = "model.language_model"
    names = {
        f"{base}.layers.0",
        f"{base}.layers.0.mlp",
        f"{base}.layers.0.post_feedforward_layernorm",
    }
    modules = Modules(names, ("model", base), f"{base}.layers", "gemma3")
    assert resolve("layers.0.mlp", modules) == Hookpoint(f"{base}.layers.0.mlp", "output")
    found = resolve("blocks.0.hook_mlp_out", modules)
    assert found == Hookpoint(f"{base}.layers.0.post_feedforward_layernorm", "output")


def test_every_family_knows_the_residual_stream():
    for points in POINTS.values():
        assert points["hook_resid_post"] == ("", "output")


def test_tokens_and_contexts_that_do_not_fit_are_refused(llama):
    point = llama.resolve("layers.1")
    with pytest.raises(SubjectError, match="token id outside the subject's 262: 262"):
        llama.read(torch.full((1, 3), tiny.N_VOCAB), [3], [point])
    with pytest.raises(SubjectError, match="longer than the subject's 64 tokens: 65"):
        llama.read(torch.zeros(1, 65), [65], [point])
    llama.read(torch.tensor([[5, -1]]), [1], [point])


def test_a_module_that_is_never_run_is_said_so(llama):
    hooks = n_hooks(llama)
    with pytest.raises(SubjectError, match="never reached"):
        llama.read(IDS, FULL, [Hookpoint("lm_head", "output")])
    with pytest.raises(SubjectError, match="no activation for each token"):
        llama.read(IDS, FULL, [Hookpoint("model.embed_tokens", "input")])
    assert n_hooks(llama) == hooks


def test_the_hash_is_of_weights_and_config(folders, tmp_path):
    first = load_subject(folders["llama"], device="cpu")
    copy = shutil.copytree(folders["llama"], tmp_path / "copy")
    (copy / "README.md").write_text("notes")
    assert load_subject(copy, device="cpu").hash == first.hash
    other = tiny.write_subject(tmp_path / "other", "llama", seed=1)
    assert load_subject(other, device="cpu").hash != first.hash


def test_the_folder_one_stands_in_has_a_name(folders, monkeypatch):
    monkeypatch.chdir(folders["llama"])
    assert load_subject(".", device="cpu").name == "llama"


def test_what_a_subject_says_of_itself(llama):
    assert (llama.d_model, llama.n_layers, llama.n_vocab, llama.max_length) == (8, 3, 262, 64)
    assert llama.architecture == "LlamaForCausalLM"
    assert llama.provenance["dtype"] == "float32"
    json.dumps(llama.provenance)


def test_dtype_and_device(folders):
    assert load_subject(folders["llama"], device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    auto = load_subject(folders["llama"], device="cpu").dtype
    fast = has_fast_bfloat16(torch.device("cpu"))
    assert auto == (torch.bfloat16 if fast else torch.float32)
    with pytest.raises(SubjectError, match="no such dtype: int3"):
        load_subject(folders["llama"], dtype="int3")
    with pytest.raises(SubjectError, match="no such device: abacus"):
        load_subject(folders["llama"], device="abacus")


def test_a_gguf_file_is_the_same_subject(tmp_path, llama, folders, capfd):
    path = tiny.write_gguf(tmp_path / "tiny.gguf")
    subject = load_subject(path, device="cpu", dtype="float32")
    point = subject.resolve("layers.2")
    torch.testing.assert_close(
        subject.read(IDS, FULL, [point])[point], llama.read(IDS, FULL, [point])[point]
    )
    ids = load_tokenizer(folders["llama"]).encode("then the end, <s>")
    assert load_tokenizer(path).encode("then the end, <s>") == ids
    assert subject.hash != llama.hash
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_cut_short_is_refused_in_one_line(tmp_path):
    whole = tiny.write_gguf(tmp_path / "whole.gguf").read_bytes()
    for keep in (3, 30, 2000, len(whole) - 64):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:keep])
        with pytest.raises(SubjectError) as caught:
            load_subject(path, device="cpu")
        assert "\n" not in str(caught.value)
        assert caught.value.hint


def test_weights_cut_short_or_left_out_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(SubjectError, match="model cannot be read"):
        load_subject(folder, device="cpu")
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubjectError, match="model lacks 9 weights, first model.layers.3"):
        load_subject(folder, device="cpu")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(SubjectError, match="no such folder or file: org/name") as caught:
        load_subject("org/name")
    assert "`hf download org/name --local-dir name`" in caught.value.hint
    with pytest.raises(SubjectError, match="config.json is missing"):
        load_subject(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SubjectError, match="no GGUF model"):
        load_subject(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(SubjectError, match="model cannot be read"):
        load_subject(tmp_path)
