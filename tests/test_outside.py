"""Explanations of others: every format, every flaw by its line, and nothing that fills memory."""

import csv
import gzip
import io
import json
import re

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lite_interp.errors import LiteInterpError
from lite_interp.outside import fields, formats, lines
from lite_interp.outside.formats import FORMATS, Flaw, Record, read_outside

ROWS = [
    {"latent": 3, "explanation": "names of years", "source": "Anna"},
    {"latent": 0, "explanation": 'so "said", and\nnew lines', "source": "Ben", "coder": "layers.9"},
]


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(tmp_path, data, name="people.jsonl"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path):
    """Records and flaws, the places without the folder."""
    found = list(read_outside(path))
    folder = f"{path.parent}/"
    return [each._replace(place=each.place.removeprefix(folder)) for each in found]


def what(path):
    """Each flaw as one text."""
    return [f"{each.place} {each.what}" for each in read(path) if isinstance(each, Flaw)]


def plain(records):
    return [(each.latent, each.text, each.source, each.coder) for each in records]


def test_json_lines_are_the_same_packed_or_not_and_whatever_they_are_called(tmp_path):
    data = b"\xef\xbb\xbf\n" + jsonl(ROWS)
    packed = {
        "a.jsonl": data,
        "b.jsonl.gz": gzip.compress(data),
        "c.zst": zstandard.compress(data),
        "d": zstandard.compress(data[:40]) + zstandard.compress(data[40:]),
        "e.csv": data,
    }
    for name, packed_data in packed.items():
        found = read(write(tmp_path, packed_data, name))
        assert plain(found) == [
            (3, "names of years", "Anna", ""),
            (0, 'so "said", and↵new lines', "Ben", "layers.9"),
        ]
        assert [each.place for each in found] == [f"{name}:2", f"{name}:3"]
        assert found[1].raw == ROWS[1]["explanation"]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_tables_say_the_same_as_json_lines(tmp_path, delimiter):
    text = io.StringIO()
    names = ["source", "latent", "explanation", "coder", "rating"]
    writer = csv.DictWriter(text, names, delimiter=delimiter)
    writer.writeheader()
    writer.writerows({"rating": 5, **row} for row in ROWS)
    for packed in (
        text.getvalue().encode(),
        gzip.compress(b"\xef\xbb\xbf" + text.getvalue().encode()),
    ):
        found = read(write(tmp_path, packed, "people.txt"))
        assert plain(found) == plain(read(write(tmp_path, jsonl(ROWS))))
        assert [each.place for each in found] == ["people.txt:2", "people.txt:3"]


@pytest.mark.parametrize("latent", formats.LATENT_KEYS)
@pytest.mark.parametrize("text", formats.TEXT_KEYS)
def test_names_that_others_use(tmp_path, latent, text):
    rows = write(tmp_path, jsonl([{latent: " 12 ", text: "wishes"}]), "mine.jsonl")
    table = write(tmp_path, f"{text},{latent}\nwishes,12\n", "mine.csv")
    assert plain(read(rows)) == [(12, "wishes", "mine.jsonl", "")]
    assert plain(read(table)) == [(12, "wishes", "mine.csv", "")]


def test_neuronpedia(tmp_path):
    row = {
        "id": "x", "modelId": "gpt2-small", "layer": "9-res-jb", "index": "12",
        "description": " years ", "authorId": "u1", "typeName": "np_max-act",
        "explanationModelName": "gpt-4o-mini", "notes": None, "embedding": [0.5] * 256,
    }  # fmt: skip
    rows = [row, {**row, "explanationModelName": None}, {**row, "typeName": "oai"}]
    rows += [{**row, "authorId": None, "explanationModelName": "", "typeName": None}]
    found = read(write(tmp_path, gzip.compress(jsonl(rows)), "batch-0.jsonl.gz"))
    sources = ["gpt-4o-mini/np_max-act", "u1/np_max-act", "gpt-4o-mini/oai", "batch-0.jsonl.gz"]
    assert [each.source for each in found] == sources
    assert {(each.latent, each.text, each.coder_name) for each in found} == {
        (12, "years", "gpt2-small/9-res-jb")
    }


def test_delphi_a_folder_with_a_file_for_each_latent(tmp_path):
    folder = tmp_path / "llama-run" / "explanations"
    folder.mkdir(parents=True)
    for name, text in {
        "layers.9_latent10.txt": '"ten"', "layers.9_latent2.txt": '"two\\nlines"',
        ".model.layers.9_feature3.txt": '"hidden"', "layers.9_latent4.txt": "no JSON",
        "layers.9_latent5.txt": '["list"]', "layers.9_latent6.txt": json.dumps(formats.UNREADABLE),
        "layers.9_latent7.txt": '""', "notes.txt": "?", "log.pdf": "?",
        "a_latent1_latent8.txt": '"eight"',
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    found = read(folder)
    assert plain(each for each in found if isinstance(each, Record)) == [
        (8, "eight", "llama-run", "a_latent1"),
        (2, "two↵lines", "llama-run", "layers.9"),
        (10, "ten", "llama-run", "layers.9"),
    ]
    assert what(folder) == [
        "explanations/layers.9_latent4.txt broken JSON: Expecting value: line 1 column 1 (char 0)",
        "explanations/layers.9_latent5.txt the explanation is no text: list",
        "explanations/layers.9_latent6.txt Delphi found no explanation in the answer",
        "explanations/layers.9_latent7.txt empty explanation",
        "explanations/notes.txt its name ends in no latent",
    ]
    with pytest.raises(LiteInterpError, match="no explanation of Delphi") as told:
        read(folder.parent)
    assert told.value.hint == "name the folder `explanations` in it"


FLAWS = {
    '{"explanation": "x"}': "no latent",
    '{"latent": null, "explanation": "x"}': "no latent",
    '{"latent": "", "explanation": "x"}': "no latent",
    '{"latent": true, "explanation": "x"}': "not the index of a latent: True",
    '{"latent": 3.0, "explanation": "x"}': "not the index of a latent: 3.0",
    '{"latent": -3, "explanation": "x"}': "not the index of a latent: -3",
    '{"latent": "٣", "explanation": "x"}': "not the index of a latent: ٣",
    '{"latent": 1000000000000000000, "explanation": "x"}':
        "not the index of a latent: 1000000000000000000",
    '{"latent": 3, "index": "4", "explanation": "x"}': "two latents: 3, 4",
    '{"latent": 3}': "no explanation",
    '{"latent": 3, "explanation": null, "text": "x"}': "no explanation",
    '{"latent": 3, "explanation": ["x"]}': "the explanation is no text: list",
    '{"latent": 3, "explanation": " \\u200b\\n"}': "empty explanation",
    '{"latent": 3, "explanation": "\\u0007"}': "empty explanation",
    '{"latent": 3, "explanation": "a\\u0000b"}': "binary",
    '{"latent": 3, "explanation": "half \\ud800"}': "broken UTF-8",
    '{"latent": 3, "explanation": "%s"}' % ("x" * 2001):
        "explanation of 2,001 characters, 2,000 are the most",
    '{"latent": 3, "explanation": "x", "source": 4}': "the source is no text: int",
    '{"latent": 3, "explanation": "x", "coder": "%s"}' % ("x" * 201):
        "coder of 201 characters, 200 are the most",
    '{"latent": 3, "description": "x", "modelId": "m", "layer": ""}': "no modelId or layer",
    "[3]": "not a JSON object",
    '{"latent": 3,': "broken JSON: Expecting property name enclosed in double quotes.*",
    "{" * 100_000: "broken JSON: .*",
    '{"a":' * 100_000: "broken JSON: .*",
    '{"latent": %s, "explanation": "x"}' % ("9" * 5000): "broken JSON: .*|not the index .*",
}  # fmt: skip


@pytest.mark.parametrize("line", FLAWS, ids=lambda line: line[:40])
def test_a_bad_line_is_a_flaw_at_its_place_and_the_others_are_read(tmp_path, line):
    good = b'{"latent": 1, "explanation": "x"}\n'
    found = read(write(tmp_path, good + line.encode() + b"\n" + good))
    assert [type(each) for each in found] == [Record, Flaw, Record]
    assert found[1].place == "people.jsonl:2"
    assert re.fullmatch(FLAWS[line], found[1].what)


def test_bytes_that_are_no_text_are_flaws(tmp_path):
    good = b'{"latent": 1, "explanation": "x"}\n'
    bad = b'{"latent": 1, "explanation": "caf\xe9"}\n{"latent": 1, "explanation": "\x00"}\n'
    assert what(write(tmp_path, good + bad)) == [
        "people.jsonl:2 broken UTF-8",
        "people.jsonl:3 binary",
    ]
    table = write(tmp_path, b"latent,text\n1,caf\xe9\n2,a\x00b\n3,good\n", "t.csv")
    assert what(table) == ["t.csv:2 broken UTF-8", "t.csv:3 binary"]
    assert plain(read(table)[2:]) == [(3, "good", "t.csv", "")]


def test_a_table_is_told_where_it_is_broken(tmp_path):
    rows = 'latent,text\n1,"two\nlines"\n2,a,b\n3\n\n4,"a"b\n5,good\n'
    path = write(tmp_path, rows, "t.csv")
    assert what(path) == [
        "t.csv:4 3 fields where the first line names 2",
        "t.csv:5 1 fields where the first line names 2",
        "t.csv:7 broken table: ',' expected after '\"'",
    ]
    assert [each.latent for each in read(path) if isinstance(each, Record)] == [1, 5]


@pytest.mark.parametrize(
    "rest", ['1,"open\n2,b\n', '1,"open\n2,"b"\n', '1,"' + "x\n" * 80_000 + '"\n']
)
def test_a_quote_that_swallows_lines_ends_all(tmp_path, rest):
    path = write(tmp_path, "latent,text\n0,a\n" + rest, "t.csv")
    with pytest.raises(LiteInterpError, match=r"a quote that does not end: .*lines 3 to \d+"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither JSON lines nor a table"),
        (b"some words\n", "neither JSON lines nor a table"),
        (b'[{"latent": 1, "explanation": "x"}]', "neither JSON lines nor a table"),
        (b"Latent,Explanation\n1,x\n", "neither JSON lines nor a table"),
        (b'latent,"' + b"x" * 200_000, "neither JSON lines nor a table"),
        (b"latent,text,text\n1,a,b\n", "two columns have one name"),
        (b"PAR1\x00\x00", "no text: .*: binary"),
        ("latent,text\n1,a\n".encode("utf-16"), "no text"),
        (gzip.compress(jsonl(ROWS))[:-12], "cut short"),
        (zstandard.compress(jsonl(ROWS))[:-6], "cut short"),
        (b"\x1f\x8b" + b"x" * 40, "damaged"),
        (zstandard.FRAME_HEADER + b"x" * 40, "damaged"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, data, message):
    with pytest.raises(LiteInterpError, match=message):
        read(write(tmp_path, data, "x.jsonl"))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(LiteInterpError, match="no such file or folder"):
        read(tmp_path / "nothing")
    with pytest.raises(LiteInterpError, match="no explanation of Delphi"):
        read(tmp_path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_a_line_or_a_file_has_a_greatest_size(tmp_path, monkeypatch, pack):
    long = write(tmp_path, pack(jsonl(ROWS) + b'{"a": "' + b"x" * (3 << 20)), "long.jsonl")
    with pytest.raises(LiteInterpError, match=r"a line longer than 1 MiB: .*long.jsonl:3"):
        read(long)
    monkeypatch.setattr(lines, "MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(LiteInterpError, match="longer than 1 MiB"):
        read(write(tmp_path, pack(jsonl(ROWS) + b"\n" * (2 << 20)), "much.jsonl"))


def test_no_block_that_is_unpacked_is_large(tmp_path):
    """64 MiB of zeros pack into 2 KiB: what is in memory at a time is far less."""
    path = write(tmp_path, zstandard.compress(bytes(1 << 26)), "bomb.zst")
    blocks = list(map(len, lines._blocks(path)))
    assert sum(blocks) == 1 << 26
    assert max(blocks) <= 32 << 20
    with pytest.raises(LiteInterpError, match="a line longer"):
        next(lines.read_lines(path))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_lines_are_those_of_the_whole(tmp_path_factory, data, size):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(b" " + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", size)
        assert list(lines.read_lines(path)) == list(io.BytesIO(b" " + data))


@given(st.text(max_size=60))
def test_an_explanation_is_one_line_that_can_be_stored(text):
    line = json.dumps({"latent": 1, "explanation": text}).encode()
    try:
        record = fields.read_line("x:1", formats._json(line), "me")
    except fields.BadLineError:
        return
    assert len(record.text.splitlines()) == 1
    assert record.text == record.text.strip()
    assert record.raw == text
    record.text.encode()


def test_every_format_is_known_by_what_is_in_it(tmp_path):
    assert list(FORMATS) == ["Delphi", "JSON lines", "table"]
    for head, expected in {"{}": "JSON lines", "index,text": "table", "": None}.items():
        found = [name for name, kind in FORMATS.items() if kind.is_one(tmp_path / "x", head)]
        assert found == ([expected] if expected else [])
