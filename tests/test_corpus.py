import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_interp import corpus, documents
from lite_interp.corpus import CorpusSettings, build_contexts, corpus_id, corpus_record
from lite_interp.documents import Skips, read_documents
from lite_interp.errors import CorpusError, UsageError
from lite_interp.records import Document

BOS, END = 1000, 1001


def encode_many(texts):
    return [list(text.encode()) for text in texts]


def cut(texts, bos_id=BOS, separator_id=END, **options):
    """Contexts as lists of tokens, the shards and the totals."""
    named = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    stream = build_contexts(named, encode_many, bos_id, CorpusSettings(**options), separator_id)
    shards = list(stream)
    contexts = [
        row[:length].tolist()
        for shard in shards
        for row, length in zip(shard.token_ids, shard.lengths, strict=True)
    ]
    return contexts, shards, stream.totals


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(*sources, **options):
    skips = Skips()
    found = list(read_documents(sources, on_skip=skips, **options))
    return [(document.name, document.text) for document in found], dict(skips.reasons)


LINES = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(3))
LINE_TEXTS = ["line 0", "line 1", "line 2"]
AS_BYTES = {
    ".jsonl": lambda data: data,
    ".jsonl.gz": gzip.compress,
    ".jsonl.zst": zstandard.compress,
}


def test_a_folder_is_read_in_the_order_of_names_hidden_and_unknown_files_left_out(tmp_path):
    for name in ("b.txt", "a/z.md", "c.TXT", ".hidden/x.txt", ".y.txt", "picture.png"):
        write(tmp_path / name, name)
    found, skipped = read(tmp_path)
    assert found == [("a/z.md", "a/z.md"), ("b.txt", "b.txt"), ("c.TXT", "c.TXT")]
    assert skipped == {}


@pytest.mark.parametrize("suffix", AS_BYTES)
def test_json_lines_are_documents_named_by_their_line(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", AS_BYTES[suffix](b"\xef\xbb\xbf" + LINES.encode()))
    found, _ = read(path)
    assert found == [(f"x{suffix}:{number}", f"line {number - 1}") for number in (1, 2, 3)]


def test_zstandard_frames_one_after_another_are_one_file(tmp_path):
    half = zstandard.compress(LINES.encode())
    path = write(tmp_path / "x.jsonl.zst", half + half)
    assert [text for _, text in read(path)[0]] == LINE_TEXTS * 2


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("suffix", AS_BYTES)
def test_lines_do_not_depend_on_the_size_of_blocks(tmp_path, monkeypatch, suffix, block):
    monkeypatch.setattr(documents, "BLOCK_BYTES", block)
    path = write(tmp_path / f"x{suffix}", AS_BYTES[suffix](LINES.rstrip().encode()))
    assert [text for _, text in read(path)[0]] == LINE_TEXTS


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_compressed_file_cut_short_is_an_error(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 1 << 30, 20_000).tolist()
    lines = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in noise)
    data = AS_BYTES[suffix](lines.encode())
    path = write(tmp_path / f"x{suffix}", data[: int(len(data) * kept)])
    with pytest.raises(CorpusError, match="cut short"):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_compressed_file_that_is_none_is_an_error(tmp_path, suffix):
    with pytest.raises(CorpusError, match="damaged"):
        read(write(tmp_path / f"x{suffix}", "plain text, not compressed"))


def test_binary_broken_and_empty_files_are_left_out_and_counted(tmp_path):
    write(tmp_path / "binary.txt", b"\x00\x01")
    write(tmp_path / "broken.txt", b"caf\xe9")
    write(tmp_path / "empty.txt", " \n")
    write(tmp_path / "good.txt", "\ufeffcaf\u00e9")
    found, skipped = read(tmp_path)
    assert found == [("good.txt", "café")]
    assert skipped == {"binary": 1, "broken UTF-8": 1, "empty": 1}


def test_broken_and_empty_lines_are_left_out_and_counted(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\u0000"}',
        b'{"text": ""}',
        b'{"text": null}',
    ]
    found, skipped = read(write(tmp_path / "x.jsonl", b"\n".join(lines)))
    assert found == [("x.jsonl:1", "good")]
    assert skipped == {"broken UTF-8": 2, "binary": 1, "empty": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "not JSON: x.jsonl:2"),
        ('{"text": "cut sho', "not JSON: x.jsonl:2"),
        ("[" * 100_000, "not JSON: x.jsonl:2"),
        ('["text"]', "not a JSON object: x.jsonl:2"),
        ('{"text": 3}', "the text field is no text: x.jsonl:2: text: int"),
        ('{"title": "a", "body": "b"}', "no field with this name: x.jsonl:2: text"),
    ],
)
def test_a_line_that_is_not_what_it_should_be_is_an_error_with_its_place(tmp_path, line, message):
    with pytest.raises(CorpusError) as caught:
        read(write(tmp_path / "x.jsonl", '{"text": "good"}\n' + line))
    assert str(caught.value).startswith(message)


def test_a_missing_field_is_answered_with_the_fields_there_are(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"title": "a", "body": "b"}')
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert caught.value.hint == "there is: body, title"
    assert read(path, text_field="body")[0] == [("x.jsonl:1", "b")]


def test_parquet_rows_are_documents(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"text": ["one", None, "", "two"], "n": [1, 2, 3, 4]})
    path = tmp_path / "x.parquet"
    parquet.write_table(table, path)
    assert read(path) == ([("x.parquet:1", "one"), ("x.parquet:4", "two")], {"empty": 2})
    with pytest.raises(CorpusError, match="no field") as caught:
        read(path, text_field="body")
    assert caught.value.hint == "there is: n, text"
    with pytest.raises(CorpusError, match="no text: .*: n: int64"):
        read(path, text_field="n")
    with pytest.raises(CorpusError, match="not a readable Parquet file"):
        read(write(tmp_path / "y.parquet", "no parquet"))


def test_parquet_without_pyarrow_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match="needs pyarrow") as caught:
        read(write(tmp_path / "x.parquet", ""))
    assert "pip install 'lite-interp[export]'" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no such file"), ("x.csv", "not a corpus file"), ("folder", "no corpus file")],
)
def test_a_source_without_documents_is_an_error(tmp_path, name, message):
    write(tmp_path / "x.csv", "a")
    write(tmp_path / "folder" / "x.csv", "a")
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / name)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_hostile_file_names_are_stored_as_unicode_and_shown_on_one_line(tmp_path):
    good = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(good).write_text("text")
    bad = write(tmp_path / "x\n\x1b[31mred.jsonl", "no json")
    assert read(Path(good))[0] == [("caf\\xe9.txt", "text")]
    with pytest.raises(CorpusError) as caught:
        read(bad)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_documents_come_one_at_a_time(tmp_path):
    stream = read_documents([write(tmp_path / "x.jsonl", LINES + "no json")])
    assert [next(stream).text for _ in range(3)] == LINE_TEXTS
    with pytest.raises(CorpusError):
        next(stream)


def test_what_was_left_out_fits_on_one_line():
    skips = Skips()
    for name in ("a\n.txt", "b.txt"):
        skips(name, "binary")
    assert str(skips) == "2 binary (first: a .txt)"
    assert skips.total == 2


def test_documents_are_cut_and_each_context_begins_with_bos():
    contexts, shards, totals = cut(["a" * 20 + "b" * 10, "short"], n_ctx=11, shard_contexts=2)
    assert [bytes(context[1:]).decode() for context in contexts] == ["a" * 10, "b" * 10, "short"]
    assert {context[0] for context in contexts} == {BOS}
    assert totals.n_duplicates == 1
    assert [(shard.ordinal, shard.first, len(shard.lengths)) for shard in shards] == [
        (0, 0, 2),
        (1, 2, 1),
    ]
    assert shards[1].token_ids[0, 6:].tolist() == [0] * 5
    assert totals.n_contexts == 3
    assert totals.n_tokens == 11 + 11 + 6


def test_a_short_last_piece_is_dropped_unless_it_is_the_whole_document():
    contexts, _, totals = cut(["x" * 10 + "y" * 7, "z" * 10 + "w" * 8, "v"], n_ctx=11)
    assert [bytes(context[1:2]).decode() for context in contexts] == ["x", "z", "w", "v"]
    assert totals.n_short == 1
    assert totals.n_documents == 3


def test_packed_contexts_join_documents_with_a_separator():
    contexts, _, totals = cut(["abc", "de", "", "fghijkl"], n_ctx=5, add_bos=False, packed=True)
    assert contexts == [[*b"abc", END, *b"d"], [*b"e", END, *b"fgh"]]
    assert totals.n_short == 1
    assert totals.n_documents == 3
    assert totals.n_without_tokens == 1


texts_strategy = st.lists(st.text("abc", max_size=40), min_size=1, max_size=8).filter(any)


@given(texts_strategy, st.integers(2, 12), st.booleans(), st.integers(1, 4))
def test_contexts_of_a_document_joined_are_its_tokens(texts, n_ctx, add_bos, shard_contexts):
    # Letters of its own for each document: no duplicates, and tokens that tell where they are from.
    texts = [
        "".join(chr(256 + 64 * number + place) for place, _ in enumerate(text))
        for number, text in enumerate(texts)
    ]
    named = [Document(str(number), text) for number, text in enumerate(texts)]
    stream = build_contexts(
        named,
        lambda batch: [[ord(character) for character in text] for text in batch],
        0 if add_bos else None,
        CorpusSettings(n_ctx, add_bos, shard_contexts=shard_contexts),
    )
    joined = {number: [] for number in range(len(texts))}
    shards = list(stream)
    for shard in shards:
        for row, length in zip(shard.token_ids, shard.lengths, strict=True):
            tokens = row[add_bos:length].tolist()
            owners = {(token - 256) // 64 for token in tokens}
            assert len(owners) == 1, "a context holds two documents"
            joined[owners.pop()] += tokens
    for number, text in enumerate(texts):
        whole = [ord(character) for character in text]
        missing = len(whole) - len(joined[number])
        assert joined[number] == whole[: len(whole) - missing]
        assert missing < corpus.MIN_TOKENS
        assert not missing or joined[number]
    assert all(len(shard.lengths) == shard_contexts for shard in shards[:-1])
    assert stream.totals.n_documents == sum(map(bool, texts))


@given(texts_strategy, st.integers(0, 60), st.booleans())
@settings(max_examples=50)
def test_the_size_of_batches_changes_nothing(texts, max_tokens, packed):
    options = {"n_ctx": 6, "max_tokens": max_tokens, "packed": packed}
    results = []
    for size in (1, 3, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(corpus, "BATCH_DOCUMENTS", size)
            contexts, _, totals = cut(texts, **options)
            results.append((contexts, totals))
    assert results[0] == results[1] == results[2]
    assert len({tuple(context) for context in results[0][0]}) == len(results[0][0])


@given(texts_strategy, st.integers(1, 60))
def test_the_limit_on_tokens_is_kept(texts, max_tokens):
    contexts, _, totals = cut(texts, n_ctx=6, max_tokens=max_tokens)
    assert sum(len(context) - 1 for context in contexts) <= max_tokens
    assert totals.stopped == (sum(map(len, texts)) >= max_tokens)


def test_the_limit_stops_reading():
    def endless():
        while True:
            yield Document("x", "0123456789")

    stream = build_contexts(
        endless(), encode_many, None, CorpusSettings(5, add_bos=False, max_tokens=12)
    )
    [shard] = stream
    assert shard.token_ids.tolist() == [[*b"01234"], [*b"56789"], [*b"01", 0, 0, 0]]


def test_the_id_follows_from_documents_tokenizer_and_settings():
    settings_ = CorpusSettings(n_ctx=8)
    _, _, totals = cut(["text one", "text two"], n_ctx=8)
    record = corpus_record("mine", "sha256:t", settings_, totals, n_skipped=3)
    again = corpus_record("yours", "sha256:t", CorpusSettings(n_ctx=8, shard_contexts=9), totals, 0)
    assert record.id == again.id == corpus_id(record.source_hash, "sha256:t", settings_)
    assert record.n_skipped == 3
    others = [
        corpus_id(totals.source_hash, "sha256:u", settings_),
        corpus_id(totals.source_hash, "sha256:t", CorpusSettings(n_ctx=9)),
        corpus_id(totals.source_hash, "sha256:t", CorpusSettings(n_ctx=8, max_tokens=1)),
        corpus_id(cut(["text onet", "ext two"], n_ctx=8)[2].source_hash, "sha256:t", settings_),
    ]
    assert len({record.id, *others}) == 5


def test_a_corpus_without_contexts_is_an_error():
    with pytest.raises(CorpusError, match="gives no context"):
        cut([""])


def test_totals_before_the_end_are_a_bug():
    stream = build_contexts([Document("x", "text")], encode_many, BOS, CorpusSettings())
    with pytest.raises(RuntimeError):
        _ = stream.totals


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"n_ctx": 1}, {}),
        ({"max_tokens": -1}, {}),
        ({"shard_contexts": 0}, {}),
        ({}, {"bos_id": None}),
        ({"packed": True}, {"separator_id": None}),
    ],
)
def test_settings_that_cannot_be_are_refused(options, tokens):
    with pytest.raises(UsageError):
        cut(["text"], **tokens, **options)
