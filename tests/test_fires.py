"""What fires on a text: as in the cache, in a terminal, as rows, as a page without a script."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_study
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from lite_interp import study, text_firings
from lite_interp.cli import app
from lite_interp.db import cached, caches, masking
from lite_interp.db.caches import the_cache
from lite_interp.db.file import add, open_results, read_results
from lite_interp.db.told import Told
from lite_interp.errors import UsageError
from lite_interp.pipeline import cache_corpus
from lite_interp.reopening import Places, Reopened, reopen
from lite_interp.text_firings import TextFirings, html_page, terminal_page
from lite_interp.text_firings.reading import MOST_CHARACTERS
from lite_interp.tokenizer import load_tokenizer

EVIL = "\x1b[2J\u202e<script>alert(1)</script>{{ 7*7 }}\x07\x00\n\"'><img src=x onerror=1>"


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("study"))


def job(parts, bos=False, random=False, **settings):
    """What to cache; norms differ little in the tiny subject, so a small multiple masks some."""
    plain = tiny_study.cache_job(parts, **settings)
    return plain._replace(
        corpus=plain.corpus.model_copy(update={"add_bos": bos}),
        coder=study.CoderSection(path=str(parts.coder), random=random, force=True),
    )


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    """Files by name: plain, with BOS and outliers masked, of a random coder."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, wanted in {
            "plain": job(parts),
            "masked": job(parts, bos=True, outlier_multiple=1.2),
            "bos": job(parts, bos=True, mask_special=False, outlier_multiple=0),
            "random": job(parts, random=True),
        }.items():
            cache_corpus(folder / f"{name}.db", wanted, tiny_study.Told())
    return folder


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copy(made / "plain.db", tmp_path / "results.db"))


def call(*arguments, code=0, stdin=None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def opened(db, cache) -> Reopened:
    return reopen(db, cache, Places(), tiny_study.Told())


def contexts(db, cache, tokenizer):
    """(ordinal, text) of the contexts of the corpus whose text is cut into the same tokens."""
    lengths, token_ids = caches.load_tokens(db, cache.corpus)
    for number, (length, row) in enumerate(zip(lengths, token_ids, strict=True)):
        ids = row[int(cache.corpus.add_bos) : length].tolist()
        text = tokenizer.decode(ids)
        if tokenizer.encode(text) == ids:
            yield number, text


def in_cache(db, cache, context):
    """(position, latent) → activation of a context, as the file has it."""
    found = {}
    for latent, firings in cached.iterate_firings(db, cache):
        for at in np.flatnonzero(firings.contexts == context):
            found[int(firings.positions[at]), latent] = float(firings.values[at])
    return found


def on_text(found: TextFirings):
    return {
        (int(found.positions[place]), int(latent)): float(value)
        for place, latent, value in zip(found.places, found.latents, found.values, strict=True)
    }


# As in the cache


@pytest.mark.parametrize("name", ["plain", "masked", "bos", "random"])
def test_the_text_of_a_context_fires_as_the_context_did(made, name):
    with read_results(made / f"{name}.db") as db:
        cache = the_cache(db)
        models = opened(db, cache)
        some = list(contexts(db, cache, models.tokenizer))[:6]
        assert len(some) == 6
        n_outlier = 0
        for number, text in some:
            found = text_firings.read_text(db, cache, models, text)
            expected = in_cache(db, cache, number)
            assert expected
            assert on_text(found).keys() == expected.keys()
            assert on_text(found) == pytest.approx(expected, rel=2e-3)
            n_outlier += found.n_outlier
        assert (n_outlier > 0) == (name == "masked"), "outliers are masked, and there are some"
        assert bool(found.special.any()) == (name == "masked")
        assert found.tokens[0] == ("<s>" if name in ("masked", "bos") else found.tokens[0])


def test_outliers_of_a_second_corpus_are_measured_on_it(made, parts, tmp_path):
    """The coder's row has the median norm of the first: of the other it is measured again."""
    path = Path(shutil.copy(made / "masked.db", tmp_path / "two.db"))
    other = tiny_study.write_corpus(tmp_path / "other.jsonl", 25)
    wanted = job(parts, bos=True, outlier_multiple=1.2)
    wanted = wanted._replace(corpus=wanted.corpus.model_copy(update={"paths": (str(other),)}))
    told = tiny_study.Told()
    (name,) = cache_corpus(path, wanted, told)
    with open_results(path) as db:
        cache = the_cache(db, name)
        assert masking.load_median_norm(db, cache)[1] is False
        # What is noted would leave out nothing at all.
        db.execute("update coders set fit = json_set(fit, '$.median_norm', 1e9)")
        models = opened(db, cache)
        number, text = next(contexts(db, cache, models.tokenizer))
        found = text_firings.read_text(db, cache, models, text)
        assert on_text(found).keys() == in_cache(db, cache, number).keys()


def test_a_long_text_is_cut_as_the_corpus_was_and_nothing_of_it_is_lost(made):
    with read_results(made / "masked.db") as db:
        cache = the_cache(db)
        models = opened(db, cache)
        room = cache.corpus.n_ctx - 1
        text = "the cat " * 26
        tokens = models.tokenizer.encode(text)
        found = text_firings.read_text(db, cache, models, text)
        n_contexts = -(-len(tokens) // room)
        assert len(tokens) % room < 8, "the last piece is one that a corpus would drop"
        assert found.contexts[-1] == n_contexts - 1
        assert len(found.tokens) == len(tokens) + n_contexts
        assert found.special.sum() == n_contexts
        assert "".join(found.tokens).replace("<s>", "") == text
        # Each context by itself: the second is what it is alone.
        middle = models.tokenizer.decode(tokens[room : 2 * room])
        assert models.tokenizer.encode(middle) == tokens[room : 2 * room]
        alone = text_firings.read_text(db, cache, models, middle)
        second = found.contexts[found.places] == 1
        assert found.values[second] == pytest.approx(alone.values, rel=1e-4)


def test_the_same_text_twice_is_read_twice(made):
    with read_results(made / "plain.db") as db:
        cache = the_cache(db)
        models = opened(db, cache)
        n = cache.corpus.n_ctx
        text = ("abcdefgh" * n)[: 2 * n]
        found = text_firings.read_text(db, cache, models, text)
        assert found.contexts.tolist() == [0] * n + [1] * n


def test_firings_are_sorted_and_grouped_as_a_loop_would(made):
    with read_results(made / "plain.db") as db:
        cache = the_cache(db)
        found = text_firings.read_text(db, cache, opened(db, cache), "the cat sat on the mat")
    rows = list(
        zip(found.places.tolist(), found.latents.tolist(), found.values.tolist(), strict=True)
    )
    for token in range(len(found.tokens)):
        own = sorted(((value, -latent) for at, latent, value in rows if at == token), reverse=True)
        assert found.at(token) == [(-latent, value) for value, latent in own]
    peaks = {
        latent: max(value for _, other, value in rows if other == latent)
        for latent in {latent for _, latent, _ in rows}
    }
    every = found.by_latent()
    assert [each.latent for each in every] == sorted(peaks, key=lambda key: (-peaks[key], key))
    for each in every:
        assert each.peak == peaks[each.latent]
        assert each.tokens.tolist() == sorted(at for at, latent, _ in rows if latent == each.latent)


# The command


def test_rows_are_tokens_then_latents(path):
    out, err = call("fires", path, "the cat", "--top", "2", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    tokens = [row for row in rows if row["kind"] == "token"]
    latents = [row for row in rows if row["kind"] == "latent"]
    assert [row["token"] for row in tokens] == ["the", " ", "c", "a", "t"]
    assert all(len(row["latents"]) == 2 and row["n_firings"] > 2 for row in tokens)
    assert [row["peak"] for row in latents] == sorted(
        (row["peak"] for row in latents), reverse=True
    )
    at = {
        (position, row["latent"]): value
        for row in latents
        for _, position, value in row["at"]
    }  # fmt: skip
    for row in tokens:
        for each in row["latents"]:
            assert at[row["position"], each["latent"]] == each["value"]
            assert each["explanation"] is None
    with read_results(path) as db:
        cache = the_cache(db)
        for row in latents:
            stats = caches.load_latent(db, cache.id, row["latent"])
            assert row["density"] == stats.density
            assert row["share"] == pytest.approx(row["peak"] / stats.max_value)
    assert "loading the subject" in err


def test_explanations_stand_beside_latents(path):
    with open_results(path) as db:
        cache = the_cache(db)
        add(db, "example_sets", {"id": "e", "cache_id": cache.id, "latent": 0, "sampler": "s",
            "settings": {}, "seed": 0})  # fmt: skip
        for latent in range(32):
            row = {"id": f"x{latent}", "cache_id": cache.id, "latent": latent,
                   "example_set_id": "e", "explainer": "llm", "settings": {}, "raw": "",
                   "text": f"meaning {latent}", "prompt_tokens": 0, "output_tokens": 0,
                   "seconds": 0.0}  # fmt: skip
            add(db, "explanations", row)
    out, _ = call("fires", path, "the cat", "--top", "1", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row["explanation"] == f"meaning {row['latent']}" for row in rows if "at" in row)
    out, _ = call("fires", path, "the cat", "--top", "1")
    lines = out.splitlines()
    assert lines[0].split() == ["pos", "token", "latent", "value", "max", "explanation"]
    number, token, latent, _, _, *words = lines[1].split()
    assert (number, token, words) == ("0", "the", ["meaning", latent])
    assert any(line.split()[:4] == ["latent", "peak", "max", "n"] for line in lines)


def test_the_text_may_come_on_stdin(path):
    assert call("fires", path, "-", "--json", stdin="the cat") == call(
        "fires", path, "the cat", "--json"
    )
    out, _ = call("fires", path, "-", "--json", stdin=b"the \xff cat")
    assert any(json.loads(line).get("token") == "�" for line in out.splitlines())


def test_models_that_have_moved_are_named_and_others_refused(path, parts, tmp_path):
    with open_results(path) as db:
        db.execute("update subjects set provenance = json_set(provenance, '$.path', '/gone')")
        db.execute("update coders set provenance = json_set(provenance, '$.path', '/gone')")
    _, err = call("fires", path, "the cat", code=1)
    assert err.startswith("Error: ")
    call("fires", path, "the cat", "--subject", parts.subject, "--coder", parts.coder)
    other = tiny.write_subject(tmp_path / "other", seed=5)
    _, err = call("fires", path, "x", "--subject", other, "--coder", parts.coder, code=1)
    assert "another subject than the one of this cache: other" in err
    coder = tiny.write_sparsify(tmp_path / "wrong", "layers.1", seed=9)
    _, err = call("fires", path, "x", "--subject", parts.subject, "--coder", coder, code=1)
    assert "another coder than the one of this cache" in err


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_is_refused(path, text):
    assert call("fires", path, text, code=2)[1] == "Error: there is no text to read\n"
    assert call("fires", path, "-", code=2, stdin=text)[1] == "Error: there is no text to read\n"


def test_a_megabyte_is_refused_in_one_line_before_a_model_is_loaded(path):
    for given in ({}, {"stdin": "a" * (1 << 20)}):
        text = "-" if given else "a" * (1 << 20)
        _, err = call("fires", path, text, code=2, **given)
        assert err.startswith("Error: the text is too long: ")
        assert err.count("\n") == 3
        assert "loading" not in err


def test_what_is_no_unicode_becomes_a_question_mark():
    assert text_firings.checked_text("a\ud800b") == "a?b"
    assert text_firings.checked_text("a\x00b") == "a\x00b"
    with pytest.raises(UsageError, match="too long"):
        text_firings.checked_text("a" * (MOST_CHARACTERS + 1))


def test_special_tokens_named_in_a_text_are_text(path):
    out, _ = call("fires", path, "<s></s>", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    tokens = [row for row in rows if row["kind"] == "token"]
    assert len(tokens) == 7
    assert not any(row["special"] for row in tokens)


@pytest.mark.parametrize("text", [EVIL, "'; drop table latents; --", "日本語 🎉 שלום", "a\tb\r\nc"])
def test_hostile_texts_are_harmless_in_the_terminal(path, text):
    out, err = call("fires", path, "-", stdin=text.encode())
    assert not {"\x1b", "\x07", "\x00", "\u202e", "\t", "\r"} & set(out + err)
    assert max(map(cell_len, out.splitlines())) <= 80


# Pages


def told(latent, text=EVIL):
    return Told(latent, "x", text, "llm", {}, 0.01, 4.0, (EVIL, " year", "year"))


def firings(tokens, rows, special=()):
    """Firings by hand: rows of (token, latent, value)."""
    rows = sorted(rows, key=lambda row: (row[0], -row[2]))
    return TextFirings(
        tuple(tokens),
        np.zeros(len(tokens), np.int64),
        np.arange(len(tokens)),
        np.isin(np.arange(len(tokens)), special),
        1,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.float32),
    )


FOUND = firings(
    ["<s>", " rain", EVIL, "雨雨雨雨雨雨雨雨雨", "🎉" * 20, " ", "", " rain"],
    [
        (1, 131071, 3.0),
        (1, 7, 1.0),
        (2, 7, 2.0),
        (3, 7, 4.0),
        (4, 8, 1.0),
        (5, 8, 1.0),
        (7, 131071, 1.0),
    ],
    special=(0,),
)
TOLD = {7: told(7), 8: told(8, None), 131071: told(131071, "rain and snow, " * 20)}


def printed(found, known, width, top=2):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(terminal_page(found, known, top))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_page_fits_and_its_numbers_are_whole(width):
    text = printed(FOUND, TOLD, width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(text)
    (rain,) = [line for line in lines if line.startswith("  1 rain")]
    assert rain.split()[2:5] == ["131071", "3", "75%"]
    assert "…" in rain
    assert any("special: left out" in line for line in lines)
    assert any("␣" in line for line in lines)
    assert any("rain ×2" in line for line in lines)
    assert "1 special, 1 with an outlying norm" in text


def test_a_text_on_which_nothing_fires_says_so():
    text = printed(firings([" a"], []), {}, 80)
    assert text.count("nothing fires") == 2


def test_more_latents_than_are_listed_are_counted():
    found = firings(["a"], [(0, latent, 1.0 + latent) for latent in range(50)])
    assert "… and 30 more latents" in printed(found, {n: told(n) for n in range(50)}, 80)


class Seen(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def page(made, found=FOUND, known=TOLD):
    with read_results(made / "plain.db") as db:
        cache = replace(the_cache(db), coder_name=EVIL)
    return html_page(cache, found, known, 2)


def test_the_page_has_no_script_and_fetches_nothing(made):
    text = page(made)
    seen = Seen()
    seen.feed(text)
    assert not {"script", "img", "link", "iframe", "object", "svg", "form"} & set(seen.tags)
    names = {name for name, _ in seen.attributes}
    assert not any(name.startswith("on") or name in ("src", "style") for name in names)
    assert all(value.startswith("#") for name, value in seen.attributes if name == "href")
    assert "<script>alert(1)</script>" in seen.text, "shown as text"
    assert "{{ 7*7 }}" in seen.text
    assert not {"\x1b", "\x07", "\x00"} & set(text)
    assert "://" not in text


def test_the_page_allows_its_own_style_alone(made):
    text = page(made)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    assert f'content="{policy}"' in text
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_links_of_the_page_lead_somewhere(made):
    seen = Seen()
    seen.feed(page(made))
    ids = {value for name, value in seen.attributes if name == "id"}
    targets = {value[1:] for name, value in seen.attributes if name == "href"}
    assert {"t0", "t1", "l7", "l131071"} <= ids
    assert targets <= ids


def test_the_command_writes_the_page(path, tmp_path):
    out = tmp_path / "page.html"
    assert call("fires", path, "the cat", "--html", out)[0] == ""
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert len(re.findall(r'id="t\d', text)) == 5
    _, err = call("fires", path, "the cat", "--html", out, code=2)
    assert "there is such a file" in err
    assert "loading" not in err
    call("fires", path, "a dog", "--html", out, "--force")
    assert out.read_text(encoding="utf-8") != text
    assert "no such folder" in call("fires", path, "x", "--html", tmp_path / "a/b", code=2)[1]


def test_the_tokenizer_of_the_tests_is_what_the_file_was_cut_with(made, parts):
    with read_results(made / "plain.db") as db:
        assert the_cache(db).corpus.tokenizer_hash == load_tokenizer(parts.subject).hash


@pytest.mark.parametrize(("table", "what"), [("subjects", "subject"), ("coders", "coder")])
def test_a_file_that_does_not_say_where_a_model_is_asks_for_it(path, table, what):
    with open_results(path) as db:
        db.execute(f"update {table} set provenance = json_remove(provenance, '$.path')")
    _, err = call("fires", path, "a", code=1)
    assert f"the file does not say where the {what} is" in err and f"--{what}" in err
