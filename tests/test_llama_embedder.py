"""Embedding models in GGUF: the same numbers as slow arithmetic, whatever stands next to a text."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_bert
import tiny_gguf
from gguf import GGUFWriter, PoolingType
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_interp.embedder import SentenceEmbedder, open_embedder
from lite_interp.engine import embedding
from lite_interp.engine.embedding import LlamaEmbedder, packs
from lite_interp.errors import EmbedderError

TEXTS = [
    "the cat, raining",
    "",
    "a",
    "  \t\n",
    "rain (the) cat? " * 3,
    "héllo ÜMLAUT",
    "日本語 🚀",
    "\x00\ud800",
    "the cat " * 200,
    "x" * 500,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bert")


@pytest.fixture(scope="module")
def bert(folder):
    with LlamaEmbedder(tiny_bert.write(folder / "bert.gguf"), n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def twin(folder, bert):
    return tiny_bert.Twin(folder / "bert.gguf")


def ids(text: str) -> list[int]:
    """Tokens of words that the tiny vocabulary holds whole."""
    pieces = [tiny_bert.VOCABULARY.index("▁" + word) for word in text.split()]
    return [tiny_bert.CLS, *pieces, tiny_bert.SEP]


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("text", ["the cat", "", "cat . rain the , [ sep ]", "a b c d e f"])
def test_the_slow_twin_agrees(bert, twin, text):
    (found,) = bert.embed([text])
    np.testing.assert_allclose(found, unit(twin.states(ids(text)).mean(0)), atol=1e-3)


@pytest.mark.parametrize(
    ("pooling", "token"), [(PoolingType.CLS, 0), (PoolingType.LAST, -1)], ids=lambda x: str(x)
)
def test_pooling_is_what_the_file_says(folder, twin, pooling, token):
    path = tiny_bert.write(folder / f"{pooling.name}.gguf", pooling)
    with LlamaEmbedder(path, n_threads=1) as opened:
        found = opened.embed(["the cat", "rain"])
        assert opened.provenance["pooling_from"] == "file"
    expected = [unit(twin.states(ids(text))[token]) for text in ("the cat", "rain")]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("pooling", [None, PoolingType.NONE, 0xFFFFFFFF])
@pytest.mark.parametrize("causal_key", [True, False])
def test_an_encoder_that_names_no_pooling_is_pooled_by_the_mean(folder, bert, pooling, causal_key):
    path = tiny_bert.write(folder / "silent.gguf", pooling, causal_key=causal_key)
    with LlamaEmbedder(path, n_threads=1) as opened:
        assert opened.provenance["pooling"] == "mean"
        assert opened.provenance["pooling_from"] == "assumed"
        np.testing.assert_allclose(opened.embed(TEXTS), bert.embed(TEXTS), atol=1e-4)


def test_unit_vectors_of_the_models_width(bert):
    vectors = bert.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), tiny_bert.WIDTH)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert bert.embed([]).shape == (0, tiny_bert.WIDTH)


def test_neighbours_and_order_do_not_matter(bert):
    texts = TEXTS * 3
    together = bert.embed(texts)
    alone = np.concatenate([bert.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(bert.embed(texts[::-1])[::-1], together, atol=1e-4)
    np.testing.assert_array_equal(bert.embed(texts), together)


def test_more_texts_than_one_call_holds(bert):
    texts = ["a"] * (3 * embedding.N_SEQUENCES + 1)
    np.testing.assert_allclose(bert.embed(texts), bert.embed(texts[:1] * len(texts)), atol=1e-6)


def test_a_text_that_is_too_long_is_cut_and_closed(bert, twin):
    (found,) = bert.embed(["the " * 500])
    tokens = ids("the " * (bert.n_ctx - 2))
    assert len(tokens) == bert.n_ctx == 64
    np.testing.assert_allclose(found, unit(twin.states(tokens).mean(0)), atol=1e-3)


def test_fewer_tokens_can_be_asked_for(folder, bert, twin):
    with LlamaEmbedder(folder / "bert.gguf", n_ctx=8, n_threads=1) as opened:
        (found,) = opened.embed(["the " * 500])
        assert opened.n_ctx == 8
        assert opened.id != bert.id
    np.testing.assert_allclose(found, unit(twin.states(ids("the " * 6)).mean(0)), atol=1e-3)
    with pytest.raises(EmbedderError, match="reads too few tokens: .*: 2$"):
        LlamaEmbedder(folder / "bert.gguf", n_ctx=2)


@pytest.mark.parametrize("text", ["[SEP]", "the [CLS] cat [SEP]"])
def test_the_name_of_a_special_token_is_ordinary_text(bert, twin, text):
    spelt = text.replace("[", "[ ").replace("]", " ]").lower()
    (found,) = bert.embed([text])
    np.testing.assert_allclose(found, unit(twin.states(ids(spelt)).mean(0)), atol=1e-3)


@given(
    lengths=st.lists(st.integers(1, 90), max_size=60),
    n_tokens=st.integers(1, 200),
    n_texts=st.integers(1, 9),
)
@settings(max_examples=60)
def test_packs_hold_each_text_once_and_fit(lengths, n_tokens, n_texts):
    found = list(packs(lengths, n_tokens, n_texts))
    assert [length for pack in found for length in lengths[pack]] == lengths
    for pack in found:
        assert 1 <= len(lengths[pack]) <= n_texts
        assert len(lengths[pack]) == 1 or sum(lengths[pack]) <= n_tokens


def test_a_call_that_would_end_the_process_is_refused(bert):
    vectors = np.empty((1, tiny_bert.WIDTH), np.float32)
    with pytest.raises(ValueError, match="too large"):
        bert._evaluate([[tiny_bert.CLS] * (bert.n_ctx + 1)], vectors)
    with pytest.raises(ValueError, match="too large"):
        bert._evaluate([[tiny_bert.CLS]] * (embedding.N_SEQUENCES + 1), vectors)


@pytest.mark.parametrize("pooling", [PoolingType.LAST, PoolingType.MEAN], ids=lambda x: x.name)
def test_a_decoder_that_names_its_pooling_embeds(folder, pooling):
    path = tiny_bert.write_decoder(folder / "decoder.gguf", pooling)
    texts = ["", "the cat", "<|im_end|>", "Yes " * 300, "No"]
    with LlamaEmbedder(path, n_threads=1) as opened:
        assert opened.n_ctx == 128
        together = opened.embed(texts)
        alone = np.concatenate([opened.embed([text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=2e-3)
        ends = [opened._tokens(text)[-1] for text in texts]
        assert len(set(ends)) == 1  # the closing token is kept when a text is cut
        assert len(opened._tokens("<|im_end|>")) > 2


def test_identity_and_provenance(folder, bert):
    with LlamaEmbedder(folder / "bert.gguf", n_threads=2) as again:
        assert again.id == bert.id
        assert again.id.startswith("b2:")
    assert bert.name == "tiny bert"
    expected = {"architecture": "bert", "pooling": "mean", "n_ctx": 64, "n_dimensions": 32}
    assert expected.items() <= bert.provenance.items()
    assert bert.provenance["sha256"].startswith("sha256:")


def test_a_closed_embedder_says_so(folder):
    opened = LlamaEmbedder(tiny_bert.write(folder / "closed.gguf"), n_threads=1)
    opened.close()
    opened.close()
    with pytest.raises(ValueError, match="the embedder is closed"):
        opened.embed(["a"])


def with_key(path, add, architecture="bert"):
    """A file of one tensor and a few keys: enough to be looked at, too little to be loaded."""
    writer = GGUFWriter(path, architecture)
    add(writer)
    writer.add_tensor("a", np.zeros(32, np.float32))
    return tiny_bert.finish(writer, path)


def width(writer):
    writer.add_embedding_length(32)
    writer.add_embedding_length_out(64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: tiny_gguf.write(path, "llama"), "not an embedding model"),
        (lambda path: tiny_bert.write_decoder(path, PoolingType.NONE), "not an embedding model"),
        (lambda path: tiny_bert.write(path, PoolingType.RANK), "ranks pairs"),
        (lambda path: tiny_bert.write(path, 9), "pools in an unknown way: .*: 9$"),
        (lambda path: with_key(path, lambda _: None, "t5"), "cannot embed texts: .* t5$"),
        (lambda path: with_key(path, lambda _: None), "cannot be loaded"),
        (lambda path: with_key(path, width), "another width .*: embedding_length_out is 64$"),
        (lambda path: path.write_bytes(b"GGUF") and path, "cut short"),
        (lambda path: path.write_bytes(b"nothing") and path, "no GGUF model"),
    ],
)
def test_files_that_are_refused(tmp_path, capfd, make, message):
    path = make(tmp_path / "file.gguf")
    with pytest.raises(EmbedderError, match=message) as caught:
        open_embedder(path)
    assert "\n" not in str(caught.value) + caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_vocabulary_without_its_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_bert, "SEP", 10**6)
    monkeypatch.setattr(tiny_bert, "VOCABULARY", tiny_bert.VOCABULARY[:90])  # 102 is the default
    with pytest.raises(EmbedderError, match="no whole vocabulary"):
        open_embedder(tiny_bert.write(tmp_path / "bert.gguf"))


def test_weights_that_are_no_numbers_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_bert.Tensors, "normal", not_a_number)
    with pytest.raises(EmbedderError, match="no direction for a text: nan"):
        open_embedder(tiny_bert.write(tmp_path / "bert.gguf"))


def not_a_number(self, name, *shape, scale=0.0):
    self.writer.add_tensor(name, np.full(shape, np.nan, np.float32))


def test_what_lies_at_the_path_decides(folder, tmp_path, monkeypatch, bert):
    opened = open_embedder(folder / "bert.gguf")
    assert isinstance(opened, LlamaEmbedder)
    assert opened.id == bert.id
    opened.close()
    with pytest.raises(EmbedderError, match="no such folder or file"):
        open_embedder(tmp_path / "nowhere")
    with pytest.raises(EmbedderError, match="no sentence-embedding model"):
        open_embedder(tmp_path)
    monkeypatch.setattr(SentenceEmbedder, "__init__", lambda self, path: None)
    assert isinstance(open_embedder(tmp_path), SentenceEmbedder)
