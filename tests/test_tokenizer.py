"""Text to token ids and back: nothing lost, nothing added, special tokens are plain text."""

import shutil

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lite_interp.errors import SubjectError
from lite_interp.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


any_text = st.text(st.characters(exclude_categories=["Cs"]))
any_ids = st.lists(st.integers(0, tiny.N_VOCAB - 1))


@given(text=any_text)
def test_a_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.texts(ids)) == text


@given(ids=any_ids)
def test_texts_of_tokens_join_to_the_whole_whatever_the_bytes(tokenizer, ids):
    texts = tokenizer.texts(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(4, tiny.N_VOCAB - 1)))
def test_decode_agrees_with_the_library(tokenizer, ids):
    # With special tokens in the row the library may join bytes around them; ours never does.
    assert tokenizer.decode(ids) == tokenizer.backend.decode(ids, skip_special_tokens=False)


def test_a_character_belongs_to_the_token_that_completes_it(tokenizer):
    assert tokenizer.texts(tokenizer.encode("a🙂b")) == ("a", "", "", "", "🙂", "b")


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer):
    first, *_ = tokenizer.encode("🙂")
    letter = tokenizer.encode("a")[0]
    assert tokenizer.texts([first, letter]) == ("", "\ufffda")
    assert tokenizer.texts([letter, first]) == ("a", "\ufffd")
    assert tokenizer.texts([]) == ()


@pytest.mark.parametrize("text", ["<s>", "a</s>b", "<pad><unk>"])
def test_the_name_of_a_special_token_is_plain_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(ids) & tokenizer.special_ids
    assert len(ids) == len(text)
    assert tokenizer.encode_many([text]) == [ids]


def test_many_texts_are_encoded_as_one_by_one(tokenizer):
    texts = ["the other", "", "thé\n\t", "  two  "]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_many([]) == []


def test_what_it_says_of_itself(tokenizer):
    assert (tokenizer.bos_id, tokenizer.adds_bos) == (tiny.BOS, False)
    assert tokenizer.special_ids == {tiny.BOS, tiny.EOS, tiny.PAD, tiny.UNKNOWN}
    assert tokenizer.n_vocab == tiny.N_VOCAB
    assert tokenizer.texts([tiny.BOS, 9999]) == ("<s>", "")


def test_a_tokenizer_that_adds_bos_says_so_and_encode_leaves_it_out(tmp_path):
    from tokenizers.processors import TemplateProcessing

    made = tiny.make_tokenizer()
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tiny.BOS)])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.adds_bos
    assert len(tokenizer.encode("a")) == 1


def test_the_hash_is_of_the_content(folder, tokenizer, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_tokenizer(copy).hash == tokenizer.hash
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace('"<unk>"', '"<odd>"'))
    assert load_tokenizer(copy).hash != tokenizer.hash


def test_use_does_not_change_the_hash(folder, tokenizer):
    AutoTokenizer.from_pretrained(folder)(["a", "bcd"], padding=True, truncation=True, max_length=2)
    tokenizer.encode("something")
    assert load_tokenizer(folder).hash == tokenizer.hash


def test_sentencepiece_tokens_keep_their_spaces_and_bytes(tmp_path):
    pieces = ["<unk>", "▁the", "▁", "x", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Tokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(parts)
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    smile = [4 + byte for byte in "🙂".encode()]
    assert tokenizer.texts([1, 3, *smile]) == (" the", "x", "", "", "", "🙂")
    assert tokenizer.bos_id is None
    assert not tokenizer.adds_bos


def test_wordpiece_tokens_are_read_one_by_one(tmp_path):
    made = Tokenizer(models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?").save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).texts([0, 1]) == ("one", "two")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(SubjectError, match="holds no language model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("break_it", [lambda text: text[:-9], lambda text: text.replace("the", "")])
def test_a_broken_tokenizer_is_refused_in_one_line(folder, tmp_path, break_it):
    file = shutil.copytree(folder, tmp_path / "broken") / "tokenizer.json"
    file.write_text(break_it(file.read_text()))
    with pytest.raises(SubjectError, match="tokenizer cannot be read") as caught:
        load_tokenizer(file.parent)
    assert "\n" not in str(caught.value)
