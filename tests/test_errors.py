import re

import pytest

from lite_interp import errors
from lite_interp.errors import LiteInterpError, ResultsError, UsageError, nearest, one_line

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
]


def test_an_error_has_a_message_a_hint_and_an_exit_code():
    error = UsageError("no scorer is named: x", "did you mean y?")
    assert (str(error), error.hint, error.exit_code) == (
        "no scorer is named: x", "did you mean y?", 2,
    )  # fmt: skip
    assert LiteInterpError("plain").hint == ""


def test_every_kind_stands_in_the_tree_and_ends_with_its_exit_code():
    tree = re.findall(r"^[ ├└─]*(\w+Error) ", errors.__doc__, re.MULTILINE)
    assert sorted(tree) == sorted(kind.__name__ for kind in KINDS)
    assert all(issubclass(kind, LiteInterpError) for kind in KINDS)
    codes = {kind.exit_code for kind in KINDS if kind not in (UsageError, ResultsError)}
    assert (codes, UsageError.exit_code, ResultsError.exit_code) == ({1}, 2, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\nb\r\tc", "a b  c"),
        ("\x1b[31mred\x07", "[31mred"),
        ("turn\u202eed\u2028apart", "turn ed apart"),
        ("half \ud800 pair", "half   pair"),
        ("naïve 日本 🙂", "naïve 日本 🙂"),
        (KeyError("x"), "'x'"),
        ("", ""),
    ],
)
def test_any_text_becomes_one_line_that_can_be_printed(text, expected):
    assert one_line(text) == expected
    assert one_line(text).isprintable()
    one_line(text).encode()


NAMES = ["detection", "embedding", "fuzzing"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("detecton", "did you mean `detection`?"),
        ("zzz", "there is: detection, embedding, fuzzing"),
        ("", "there is: detection, embedding, fuzzing"),
    ],
)
def test_what_was_perhaps_meant_is_named_or_else_all_there_is(name, expected):
    assert nearest(name, NAMES) == nearest(name, reversed(NAMES)) == expected


def test_of_many_names_a_dozen_are_enough():
    hint = nearest("zzz", (f"n{number:02}" for number in range(40)))
    assert hint == "there is: " + ", ".join(f"n{number:02}" for number in range(12)) + ", …"
    assert nearest("x", []) == "there is none"


def test_names_that_come_from_a_file_move_no_cursor():
    assert nearest("evi\x1b[2Jl", ["evi\x1b[2Jl"]).isprintable()
    assert nearest("zzz", ["\x1b[2J"]).isprintable()
