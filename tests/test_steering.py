"""Steering: the same as adding inside the coder, with a cache or without, whatever the batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import entropy
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from lite_interp.errors import CoderError, SubjectError
from lite_interp.ids import generator
from lite_interp.local_model import quiet
from lite_interp.records import Hookpoint
from lite_interp.sae import Encoded, SparseCoder
from lite_interp.steering import (
    Continuing,
    Steer,
    continue_prompts,
    divergences,
    find_strength,
    mean_kl,
    next_token,
    promoted_share,
    promoted_tokens,
    random_direction,
    read_prompts,
    steer_latent,
)
from lite_interp.steering.continuing import MAX_ROWS
from lite_interp.steering.steer import Rows
from lite_interp.steering.tuning import search
from lite_interp.subject import Subject, load_subject

KINDS = ["llama", "gpt2", "neox", "sliding"]
LENGTHS = [7, 1, 4, 7, 12]
DRAW = np.random.default_rng(5)
TOKENS = [DRAW.integers(4, tiny.N_VOCAB, size=length).tolist() for length in LENGTHS]
NAMES = [f"window {number}" for number in range(len(TOKENS))]
LATENT = 3
RESIDUAL = "blocks.1.hook_resid_post"


def write_sliding(folder):
    """A model whose last layers see five tokens only."""
    torch.manual_seed(0)
    sizes = {"vocab_size": tiny.N_VOCAB, "hidden_size": 8, "intermediate_size": 16}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(
        **sizes, **heads, max_position_embeddings=64, sliding_window=5, initializer_range=0.3
    )
    with quiet():
        MistralForCausalLM(config).save_pretrained(folder)
        return tiny.write_tokenizer(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("subjects")
    folders = {kind: tiny.write_subject(root / kind, kind) for kind in KINDS[:3]}
    return folders | {"sliding": write_sliding(root / "sliding")}


@pytest.fixture(scope="module", params=KINDS)
def subject(request, folders):
    return load_subject(folders[request.param], device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llama(folders):
    loaded = load_subject(folders["llama"], device="cpu", dtype="float32")
    with torch.no_grad():  # a gain that is not 1
        loaded.model.model.layers[1].post_attention_layernorm.weight.add_(torch.arange(8) / 8)
    return loaded


def make_coder(reads=RESIDUAL, writes=None, **options):
    """A random coder whose latent `LATENT` fires on most tokens."""
    weights = {name: torch.tensor(w) for name, w in tiny.random_weights(8, 32, 1).items()}
    weights["b_enc"][LATENT] += 3
    return SparseCoder(
        "test", "", reads, writes or reads, **weights, **({"activation": "relu"} | options)
    )


CODERS = {
    "relu": {},
    "topk": {"activation": "topk", "k": 4},
    "norm_rescale": {"input_transform": "norm_rescale"},
    "layer_norm": {"activation": "topk", "k": 8, "input_transform": "layer_norm"},
    "jumprelu": {"activation": "jumprelu", "threshold": torch.full((32,), 0.5)},
    "centre": {"input_transform": "centre", "pre_bias": torch.ones(8)},
    "input": {"reads": "blocks.1.hook_resid_pre"},
    "transcoder": {
        "reads": "blocks.1.mlp.hook_in",
        "writes": "blocks.1.hook_mlp_out",
        "input_transform": "norm_rescale",
        "W_skip": torch.eye(8),
    },
    "normalized": {"reads": "blocks.1.ln2.hook_normalized", "writes": "blocks.1.hook_mlp_out"},
}


def hang(subject: Subject, point: Hookpoint, see):
    """A hook, written anew: what `see` gives takes the activations' place."""
    module = subject.model.get_submodule(point.module)
    if point.side == "input":

        def before(_module, args, kwargs):
            made = see(args[0] if args else kwargs["hidden_states"])
            return None if made is None else ((made, *args[1:]), kwargs)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    if point.side == "normalized":

        def look(_module, _args, output):
            see(output / module.weight)

        return module.register_forward_hook(look)

    def after(_module, _args, output):
        made = see(output if torch.is_tensor(output) else output[0])
        if made is None or torch.is_tensor(output):
            return made
        return (made, *output[1:])

    return module.register_forward_hook(after)


def long_way(subject, token_ids, n_prompt, steer):
    """(t, n_vocab) log-probabilities of a whole row in one pass without a cache.

    From the last prompt token on, each position is encoded, the latent changed, everything
    decoded, and the coder's error added again.
    """
    coder, kept = steer.coder, {}

    def read(x):
        x = x[0, n_prompt - 1 :]
        encoded = coder.encode(x)
        if steer.strength is None:
            values = encoded.values.where(encoded.indices != LATENT, 0)
            changed = Encoded(values, encoded.indices)
        else:
            more = torch.full((len(x), 1), steer.strength), torch.full((len(x), 1), LATENT)
            changed = Encoded(*(torch.cat(pair, 1) for pair in zip(encoded, more, strict=True)))
        kept["made"] = coder.reconstruct(x, changed)
        kept["error"] = coder.reconstruct(x, encoded)

    def write(y):
        y = y.clone()
        y[0, n_prompt - 1 :] = kept["made"] + (y[0, n_prompt - 1 :] - kept["error"])
        return y

    handles = [hang(subject, steer.reads, read), hang(subject, steer.writes, write)]
    try:
        with torch.no_grad():
            logits = subject.model(torch.tensor([token_ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits.double().log_softmax(-1)


def n_hooks(subject):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in subject.model.modules()
    )


@pytest.mark.parametrize("strength", [2.5, None])
@pytest.mark.parametrize("name", CODERS)
def test_steering_is_a_change_inside_the_coder_that_keeps_its_error(llama, name, strength):
    steer = steer_latent(llama, make_coder(**CODERS[name]), LATENT, strength)
    prompts = read_prompts(llama, TOKENS)
    steered = next_token(prompts, steer)
    for row, ids in enumerate(TOKENS):
        expected = long_way(llama, ids, len(ids), steer)[-1]
        torch.testing.assert_close(steered[row], expected, rtol=0, atol=1e-4)
    assert (steered - prompts.clean).abs().max() > 0.01


@pytest.mark.parametrize("strength", [2.5, None])
def test_steps_with_a_cache_are_steered_like_the_whole_row(subject, strength):
    """Every position from the last prompt token on, not that one alone."""
    steer = steer_latent(subject, make_coder(), LATENT, strength)
    clean = replace(steer, strength=0.0)
    following = torch.tensor(np.random.default_rng(2).integers(4, tiny.N_VOCAB, size=(5, 9)))
    rows = Rows(read_prompts(subject, TOKENS), [steer, None])
    steps = [rows.step(rows.last)]
    steps += [rows.step(following[:, place].repeat(2)) for place in range(9)]
    found = torch.stack(steps, 1).double().log_softmax(-1)
    for row, ids in enumerate(TOKENS):
        whole = [*ids, *following[row].tolist()]
        for expected, number in ((steer, row), (clean, 5 + row)):
            slow = long_way(subject, whole, len(ids), expected)[len(ids) - 1 :]
            torch.testing.assert_close(found[number], slow, rtol=0, atol=1e-4)
    assert (found[:5] - found[5:]).abs().amax(-1).median() > 0.1


def test_continuations_are_drawn_from_the_steered_odds(subject):
    """Against one row at a time, without a cache, with the same random numbers."""
    steer = steer_latent(subject, make_coder(), LATENT, 1.5)
    how = Continuing(
        n_tokens=5, n_continuations=3, temperature=0.8, barred=frozenset({0, 1, 9, 999})
    )
    made = continue_prompts(read_prompts(subject, TOKENS), [None, steer], how, NAMES)
    for arm, strength in zip(made, (0.0, 1.5), strict=True):
        for ids, name, continuations in zip(TOKENS, NAMES, arm, strict=True):
            for ordinal, continuation in enumerate(continuations):
                draw, written = generator(0, "continuation", name, ordinal), []
                for _ in range(5):
                    odds = long_way(
                        subject, [*ids, *written], len(ids), replace(steer, strength=strength)
                    )[-1].numpy()
                    odds[[0, 1, 9]] = -math.inf
                    race = odds / 0.8 - np.log(draw.standard_exponential(tiny.N_VOCAB))
                    written.append(int(race.argmax()))
                assert continuation == tuple(written)
    assert made[0] != made[1]


def test_the_race_follows_the_softmax(llama):
    prompts = read_prompts(llama, [TOKENS[0]] * 1)
    how = Continuing(n_tokens=1, n_continuations=4000)
    ((drawn,),) = continue_prompts(prompts, [None], how, ["a"])
    counts = np.bincount(np.array(drawn)[:, 0], minlength=tiny.N_VOCAB)
    p = prompts.clean[0].exp().numpy()
    assert np.abs(counts / 4000 - p).max() < 4 * math.sqrt(p.max() / 4000)


def test_a_prompt_does_not_see_the_other_prompts(subject, monkeypatch):
    steer = steer_latent(subject, make_coder(), LATENT, 1.0)
    together = read_prompts(subject, TOKENS)
    how = Continuing(n_tokens=6)
    written = continue_prompts(together, [steer, None], how, NAMES)
    assert len(TOKENS) * 2 * how.n_continuations < MAX_ROWS
    monkeypatch.setattr("lite_interp.steering.continuing.MAX_ROWS", 16)
    assert continue_prompts(together, [steer, None], how, NAMES) == written
    kls = divergences(together, steer)
    for row, name in enumerate(NAMES):
        alone = read_prompts(subject, [TOKENS[row]])
        assert continue_prompts(alone, [steer], how, [name]) == [[written[0][row]]]
        assert divergences(alone, steer) == pytest.approx(kls[row : row + 1], rel=1e-3)


def test_seeds_repeat_and_more_begins_the_same(llama):
    steer = steer_latent(llama, make_coder(), LATENT, 1.0)
    prompts = read_prompts(llama, TOKENS)
    how = Continuing(n_tokens=4, n_continuations=2)
    first = continue_prompts(prompts, [steer], how, NAMES)
    assert continue_prompts(prompts, [steer], how, NAMES) == first
    assert continue_prompts(prompts, [steer], replace(how, seed=1), NAMES) != first
    assert continue_prompts(prompts, [steer], how, NAMES[::-1]) != first
    more = continue_prompts(prompts, [steer], Continuing(6, 3), NAMES)
    assert [[row[:4] for row in rows[:2]] for rows in more[0]] == first[0]
    likeliest = replace(how, temperature=0.0)
    (rows,) = continue_prompts(prompts, [steer], likeliest, NAMES)
    assert all(row[0] == row[1] for row in rows)


def test_clean_and_steered_share_their_random_numbers(llama):
    steer = steer_latent(llama, make_coder(), LATENT, 0.0)
    prompts = read_prompts(llama, TOKENS)
    same, clean = continue_prompts(prompts, [steer, None], Continuing(), NAMES)
    assert same == clean
    assert len({row for rows in clean for row in rows}) > 15


def test_nothing_changes_the_prompts(subject):
    steer = steer_latent(subject, make_coder(), LATENT, 4.0)
    prompts = read_prompts(subject, TOKENS)
    hooks = n_hooks(subject)
    before = next_token(prompts, steer)
    continue_prompts(prompts, [steer, None], Continuing(), NAMES)
    find_strength(prompts, steer, 0.2)
    assert torch.equal(next_token(prompts, None), prompts.clean)
    assert torch.equal(next_token(prompts, steer), before)
    assert n_hooks(subject) == hooks


def test_kl_is_that_of_clean_from_steered(llama):
    steer = steer_latent(llama, make_coder(), LATENT, 3.0)
    prompts = read_prompts(llama, TOKENS)
    p, q = prompts.clean.exp().numpy(), next_token(prompts, steer).exp().numpy()
    assert divergences(prompts, steer) == pytest.approx(entropy(p, q, axis=1))
    assert mean_kl(prompts, steer) == pytest.approx(entropy(p, q, axis=1).mean())
    assert entropy(p, q, axis=1) != pytest.approx(entropy(q, p, axis=1), rel=0.01)


def test_kl_is_0_at_0_and_grows_with_the_square(subject):
    steer = steer_latent(subject, make_coder(), LATENT, 0.0)
    prompts = read_prompts(subject, TOKENS)
    assert mean_kl(prompts, steer) == 0.0
    kls = [mean_kl(prompts, replace(steer, strength=s)) for s in (0.01, 0.02, 0.04)]
    assert kls[1] / kls[0] == pytest.approx(4, rel=0.1)
    assert kls[2] / kls[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("target", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("name", ["topk", "norm_rescale", "transcoder"])
def test_a_strength_is_found(llama, name, target):
    steer = steer_latent(llama, make_coder(**CODERS[name]), LATENT, None)
    prompts = read_prompts(llama, TOKENS)
    tuned = find_strength(prompts, steer, target)
    assert tuned.reached
    assert tuned.n_steps <= 12
    assert tuned.kl == pytest.approx(target, rel=0.05)
    assert mean_kl(prompts, replace(steer, strength=tuned.strength)) == tuned.kl
    assert find_strength(prompts, steer, target) == tuned


def test_a_target_out_of_reach_is_said_to_be_so(llama):
    prompts = read_prompts(llama, TOKENS)
    steer = steer_latent(llama, make_coder(), LATENT, 1.0)
    tuned = find_strength(prompts, steer, 500.0)
    assert not tuned.reached
    assert 0 < tuned.kl < 475
    assert tuned.n_steps <= 12
    nothing = replace(steer, direction=torch.zeros(8))
    assert find_strength(prompts, nothing, 0.1) == (0.0, 0.0, 0, False)
    with pytest.raises(ValueError, match="above 0"):
        find_strength(prompts, steer, 0.0)


CURVES = {
    "square": lambda x: 10 ** (2 * x),
    "steep": lambda x: 10 ** (9 * x),
    "saturates": lambda x: 2 / (1 + 10 ** (-2 * x)),
    "falls again": lambda x: 2 / (1 + 10 ** (-2 * x - 4)) - 1.5 / (1 + 10 ** (-2 * x - 2)),
    "bends": lambda x: 10 ** (2 * x) if x < -1 else 0.01 * 10 ** (0.8 * (x + 1)),
    "overflows": lambda x: 10 ** (2 * x) if x < 0.2 else math.nan,
    "far": lambda x: 10 ** (2 * (x - 2.5)),
    "near": lambda x: 10 ** (2 * (x + 2.5)),
    "rounds to nothing": lambda x: 0.0 if x < -0.1 else 10 ** (2 * x),
}


@pytest.mark.parametrize("target", [0.1, 0.33, 1.0])
@pytest.mark.parametrize("name", CURVES)
def test_the_search_stands_what_kl_may_do(name, target):
    best = max(CURVES[name](x) for x in np.linspace(-3, 3, 601))
    tried = search(CURVES[name], target, 0.05, 12)
    assert len(tried) <= 12
    assert all(-3 <= place <= 3 for place, _ in tried)
    if name == "rounds to nothing" and target < 0.6:
        return
    if best > target or math.isnan(best):  # no KL, for a strength that overflows
        assert abs(tried[-1][1] / target - 1) <= 0.05, tried


@pytest.mark.parametrize("value", [0.0, 0.5, math.inf, math.nan])
def test_the_search_ends_where_there_is_nothing(value):
    tried = search(lambda _: value, 1.0, 0.05, 12)
    assert len(tried) <= 12
    assert abs(tried[-1][0]) == 3


def test_bfloat16_subjects_are_steered(folders):
    subject = load_subject(folders["llama"], device="cpu", dtype="bfloat16")
    steer = steer_latent(subject, make_coder(**CODERS["norm_rescale"]), LATENT, 0.0)
    prompts = read_prompts(subject, TOKENS)
    assert mean_kl(prompts, steer) == 0.0
    tuned = find_strength(prompts, steer, 0.1)
    assert tuned.kl == pytest.approx(0.1, rel=0.1)
    steers = [replace(steer, strength=tuned.strength), replace(steer, strength=None)]
    for written in continue_prompts(prompts, steers, Continuing(), NAMES):
        assert {len(row) for rows in written for row in rows} == {8}


def test_what_steering_promotes(llama):
    prompts = read_prompts(llama, TOKENS)
    steer = steer_latent(llama, make_coder(), LATENT, 4.0)
    found = promoted_tokens(prompts, steer, 3)
    for row, tokens in enumerate(found):
        gains = next_token(prompts, steer)[row].exp() - prompts.clean[row].exp()
        best = gains.topk(3)
        assert [each.token for each in tokens] == best.indices.tolist()
        assert [each.increase for each in tokens] == pytest.approx(best.values.tolist())
    assert promoted_tokens(prompts, replace(steer, strength=0.0)) == [[]] * len(TOKENS)


def test_the_share_of_promoted_tokens():
    shares = promoted_share([[(5, 6), (5, 5)], [(7, 8)]], [[(5, 7), (8, 9)]], {5, 6})
    assert shares == (4 / 6, 1 / 4)
    assert math.isnan(promoted_share([[]], [[(5,)]], [5]).steered)


def test_random_directions_have_a_norm_and_no_other_preference():
    vectors = torch.stack([random_direction(np.random.default_rng(s), 3.0, 8) for s in range(500)])
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.full((500,), 3.0))
    assert vectors.mean(0).norm() < 0.4


def test_a_direction_needs_no_coder(llama):
    point = llama.resolve(RESIDUAL)
    coder = make_coder()
    bare = Steer(point, coder.W_dec[LATENT], 2.0, point)
    prompts = read_prompts(llama, TOKENS)
    assert torch.equal(
        next_token(prompts, bare), next_token(prompts, steer_latent(llama, coder, LATENT, 2.0))
    )
    with pytest.raises(ValueError, match="only a coder's latent"):
        replace(bare, strength=None)


def test_layers_that_return_tuples_are_steered_too(llama):
    steer = steer_latent(llama, make_coder(), LATENT, 2.0)
    prompts = read_prompts(llama, TOKENS)
    expected = next_token(prompts, steer)
    layer, norm = llama.model.model.layers[1], llama.model.model.layers[2]
    handles = [
        layer.register_forward_hook(lambda *arguments: (arguments[-1], "cache")),
        norm.register_forward_pre_hook(lambda _module, args: (args[0][0], *args[1:])),
    ]
    try:
        assert torch.equal(next_token(prompts, steer), expected)
    finally:
        for handle in handles:
            handle.remove()


def test_hookpoints_that_cannot_be_steered(folders):
    subject = load_subject(folders["llama"], device="cpu", dtype="float32")
    subject.model.model.add_module("unused", nn.Identity())
    prompts, direction = read_prompts(subject, TOKENS), torch.ones(8)
    hooks = n_hooks(subject)
    for module, side, message in (
        ("model.unused", "output", "never reached"),
        ("model.embed_tokens", "input", "no activation for each token"),
    ):
        point = Hookpoint(module, side)
        with pytest.raises(SubjectError, match=message):
            next_token(prompts, Steer(point, direction, 1.0, point))
    late = make_coder("layers.2", "layers.1")
    with pytest.raises(SubjectError, match="writes before it reads"):
        next_token(prompts, steer_latent(subject, late, LATENT, None))
    with pytest.raises(CoderError, match="reads width 8, the hookpoint has width 16"):
        steer_latent(subject, make_coder("blocks.1.mlp.hook_post"), LATENT, 1.0)
    with pytest.raises(ValueError, match="outside the coder's 32"):
        steer_latent(subject, make_coder(), 32, 1.0)
    assert n_hooks(subject) == hooks


def test_no_hook_outlives_an_exception(folders, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("a bug")

    subject = load_subject(folders["llama"], device="cpu", dtype="float32")
    steer = steer_latent(subject, make_coder(**CODERS["transcoder"]), LATENT, 1.0)
    prompts = read_prompts(subject, TOKENS)
    hooks = n_hooks(subject)
    with monkeypatch.context() as patched:
        patched.setattr(subject.model.model.layers[2], "forward", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            continue_prompts(prompts, [steer], Continuing(), NAMES)
    assert n_hooks(subject) == hooks
    assert torch.equal(next_token(prompts, None), prompts.clean)


def test_tokens_and_prompts_that_do_not_fit_are_refused(llama):
    with pytest.raises(SubjectError, match="token id outside the subject's 262: 262"):
        read_prompts(llama, [[5], [5, tiny.N_VOCAB]])
    with pytest.raises(SubjectError, match="token id outside the subject's 262: -1"):
        read_prompts(llama, [[-1]])
    with pytest.raises(SubjectError, match="longer than the subject's 64 tokens: 65"):
        read_prompts(llama, [[5] * 65])
    for nothing in ([], [[5], []]):
        with pytest.raises(ValueError, match="one token at least"):
            read_prompts(llama, nothing)
    long = read_prompts(llama, [[5] * 60])
    with pytest.raises(SubjectError, match="longer than the subject's 64 tokens: 68"):
        continue_prompts(long, [None], Continuing(), ["a"])
    with pytest.raises(ValueError, match="1 prompts have 2 names"):
        continue_prompts(long, [None], Continuing(n_tokens=4), ["a", "b"])


def test_asking_for_no_continuation_gives_none(llama):
    prompts = read_prompts(llama, TOKENS[:2])
    assert continue_prompts(prompts, [None], Continuing(n_continuations=0), NAMES[:2]) == [[[], []]]
    assert continue_prompts(prompts, [], Continuing(), NAMES[:2]) == []


def test_prompts_of_one_token(subject):
    """Nothing stands before them."""
    steer = steer_latent(subject, make_coder(), LATENT, 2.0)
    prompts = read_prompts(subject, [[7], [9]])
    steered = next_token(prompts, steer)
    for row, ids in enumerate(([7], [9])):
        torch.testing.assert_close(
            steered[row], long_way(subject, ids, 1, steer)[-1], rtol=0, atol=1e-4
        )
    written = continue_prompts(prompts, [steer], Continuing(), ["a", "b"])
    assert written == continue_prompts(prompts, [steer], Continuing(), ["a", "b"])
