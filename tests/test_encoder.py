"""The fast ways to encode find what a dense float32 encoding finds, firing by firing."""

from __future__ import annotations

import pytest
import torch

from lite_interp.sae import coder as coder_module
from lite_interp.sae import encoder as encoder_module
from lite_interp.sae.coder import Gate, SparseCoder
from lite_interp.sae.encoder import Encoder, make_encoder

D, M, K = 24, 512, 12
KINDS = ("relu", "topk", "groupmax", "jumprelu", "gated")


def make_coder(kind, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    W_enc = normal(D, M) / D**0.5
    parts = {
        "k": K if kind in ("topk", "groupmax") else None,
        "threshold": 1 + normal(M).abs() if kind == "jumprelu" else None,
        "gate": Gate(normal(M) / 4, normal(M) / 4) if kind == "gated" else None,
        "pre_bias": normal(D) / 4,
        "b_enc": normal(M) / 8 - (0.5 if kind in ("relu", "gated") else 0),
        **changes,
    }
    if kind == "groupmax":
        parts["k"] = 16
    return SparseCoder(
        format="none", hash="none", reads="layers.1", writes="layers.1", W_enc=W_enc,
        W_dec=W_enc.T.clone(), b_dec=torch.zeros(D), activation=kind, **parts,
    )  # fmt: skip


def tokens(n=200, seed=1):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=draw) * torch.rand(n, 1, generator=draw) * 3
    x[7] *= 100  # as long as the vector of a token that is no text
    x[8] = 0
    return x


@pytest.fixture
def screening(monkeypatch):
    """Screens coders of any width."""
    monkeypatch.setattr(encoder_module, "SCREENED_LATENTS", 1)


@pytest.fixture
def small_blocks(monkeypatch):
    """37 tokens of all latents."""
    for module in (encoder_module, coder_module):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 37 * M)


def table(fired, n):
    dense = torch.zeros(n, M)
    assert len(set(zip(fired.rows.tolist(), fired.latents.tolist(), strict=True))) == len(
        fired.rows
    )
    assert (fired.values > 0).all()
    dense[fired.rows, fired.latents] = fired.values
    return dense


def assert_same(coder, encoder, x):
    slow, fast = table(coder.firings(x), len(x)), table(encoder.firings(x), len(x))
    assert (slow > 0).sum() > len(x)
    assert torch.equal(slow > 0, fast > 0)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", ["none", "layer_norm", "norm_rescale", "centre"])
def test_float32_finds_the_firings_of_a_dense_encoding(kind, transform, small_blocks):
    coder = make_coder(kind, input_transform=transform)
    x = tokens()
    # A vector of length 0 cannot be brought to length 1.
    assert_same(coder, Encoder(coder, None), x[9:] if transform == "norm_rescale" else x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_screening_finds_the_firings_of_a_dense_encoding(kind, seed, screening, small_blocks):
    coder = make_coder(kind, seed)
    encoder = make_encoder(coder, True)
    assert (encoder.screen is None) == (kind == "groupmax")
    assert_same(coder, encoder, tokens(seed=seed + 5))


def test_a_token_with_too_many_near_the_cut_is_encoded_densely(screening, monkeypatch):
    """Latents come in 64 copies with a hair between: bfloat16 cannot tell which are larger."""
    draw = torch.Generator().manual_seed(3)
    coder = make_coder("topk", b_enc=torch.zeros(M))
    for start in range(8, M, 8):
        noise = torch.randn(D, 8, generator=draw) * 1e-4
        coder.W_enc[:, start : start + 8] = coder.W_enc[:, :8] + noise
    encoder = make_encoder(coder, True)
    dense = []
    real = encoder_module._pre_activations
    monkeypatch.setattr(
        encoder_module, "_pre_activations", lambda *args: dense.append(len(args[1])) or real(*args)
    )
    x = tokens(50, seed=9)
    fast = table(encoder.firings(x), len(x))
    assert sum(dense) > 20
    exact = (x.double() - coder.pre_bias.double()) @ coder.W_enc.double() + coder.b_enc.double()
    kth = exact.topk(K, dim=-1).values[:, -1:]
    # What float64 finds, but for ties that float32 cannot tell.
    surely, perhaps = exact > kth + 1e-4, exact >= kth - 1e-4
    on = fast > 0
    assert not (surely & (exact > 0) & ~on).any()
    assert not (on & ~perhaps).any()


def test_only_wide_coders_on_a_fast_cpu_are_screened(monkeypatch):
    coder = make_coder("topk")
    assert make_encoder(coder, True).screen is None
    monkeypatch.setattr(encoder_module, "SCREENED_LATENTS", M)
    assert make_encoder(coder, True).screen is not None
    assert make_encoder(coder, False).screen is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_have_no_firings(kind, screening):
    coder = make_coder(kind)
    for encoder in (Encoder(coder, None), make_encoder(coder, True)):
        found = encoder.firings(torch.zeros(0, D))
        assert [len(part) for part in found] == [0, 0, 0]
