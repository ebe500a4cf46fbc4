"""Messages go to stderr, a line each; bars only to a terminal."""

import pytest

from lite_interp.terminal import Terminal, duration


def test_what_is_said_is_one_line_on_stderr_without_escapes(capsys):
    Terminal().say("a [bold]b[/] \x1b[2J c\nd " + "long " * 60)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("a [bold]b[/]  [2J c d long")


def test_a_stage_is_said_when_it_ends(capsys):
    assert list(Terminal().track(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "reading: 3 in 0 s\n"


def test_nothing_to_do_is_said(capsys):
    assert list(Terminal().track(iter(""), 0, "reading")) == []
    assert capsys.readouterr().err == "reading: nothing left to do\n"


def test_work_that_nothing_is_stored_of_is_said_only_if_it_takes_long(capsys, monkeypatch):
    assert list(Terminal().watch(iter("ab"), 2, "looking")) == ["a", "b"]
    assert capsys.readouterr().err == ""
    times = iter([0.0, 7.0])
    monkeypatch.setattr("lite_interp.terminal.time.monotonic", lambda: next(times, 7.0))
    assert list(Terminal().watch(iter("ab"), 2, "looking")) == ["a", "b"]
    assert capsys.readouterr() == ("", "looking: 2 in 7 s\n")


def test_bytes_have_a_bar_on_a_terminal_alone(capsys, monkeypatch):
    def read():
        with Terminal().reading("reading [model]", 3_000_000) as bar:
            bar.reach(1_000_000)
            bar.add(2_000_000)
        return capsys.readouterr().err

    assert read() == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "reading [model]" in (seen := read())
    assert "3.0/3.0 MB" in seen and "left" in seen


def test_an_interrupted_stage_says_nothing_of_an_end(capsys):
    def items():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Terminal().track(items(), 2, "reading"))
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert list(Terminal().track(iter("ab"), 2, "reading")) == ["a", "b"]
    err = capsys.readouterr().err
    assert "2/2" in err
    assert err.endswith("reading: 2 in 0 s\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (7261, "2 h 01 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
