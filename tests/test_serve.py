"""`serve`: who is let in, what is answered, and that nothing is written but ratings."""

import asyncio
import hashlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import tiny_report
from hypothesis import given
from hypothesis import strategies as st
from tiny_browser import EVIL
from tiny_results import CACHE
from tiny_serve import HOME, PORT, TOKEN, query_json, served
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.db.file import open_results, read_results
from lite_interp.db.ratings import load_ratings
from lite_interp.errors import UsageError
from lite_interp.report.latent import latent_record
from lite_interp.report.making import overview_record
from lite_interp.serve import live as serving
from lite_interp.serve.guard import HEADERS, MOST_BYTES, Guard
from lite_interp.serve.running import serve
from lite_interp.serve.table import SHOWN, Query, Table

TEXTS = ["years", "months of the year", "kings", "Queens", "lords"]


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tiny_report.make_results(tmp_path_factory.mktemp("serve") / "whole.db", 5, TEXTS)
    with open_results(path) as db:
        db.execute("update coders set provenance = ?", ['{"path": "/models/c"}'])
    return path


@pytest.fixture
def results(whole, tmp_path):
    path = tmp_path / "results.db"
    path.write_bytes(whole.read_bytes())
    return path


@pytest.fixture
def asker(results):
    with served(results) as asker:
        yield asker


# Who is let in


def status(asker, address=HOME, method="GET", **headers):
    return asker.send(method, address, headers=headers).status_code


def test_one_who_knows_the_address_is_let_in(asker):
    for host in ("127.0.0.1", "localhost"):
        assert status(asker, HOME.replace("127.0.0.1", host)) == 200
    origin = f"http://127.0.0.1:{PORT}"
    assert status(asker, origin=origin, **{"sec-fetch-site": "same-origin"}) == 200
    assert status(asker, **{"sec-fetch-site": "none"}) == 200


@pytest.mark.parametrize(
    "address",
    [
        f"http://127.0.0.1:{PORT}/", f"http://127.0.0.1:{PORT}/{TOKEN}", HOME.replace("s3", "S3"),
        f"http://127.0.0.1:{PORT}/x{TOKEN}/", f"http://127.0.0.1:{PORT}//{TOKEN}/",
        f"http://127.0.0.1:{PORT}/api/overview", f"http://127.0.0.1:{PORT}/%ff/",
        f"http://127.0.0.1:{PORT}/x/../{TOKEN}x/", f"http://127.0.0.1:{PORT + 1}/{TOKEN}/",
        f"http://rebound.example:{PORT}/{TOKEN}/", f"http://127.0.0.1/{TOKEN}/",
        f"http://127.0.0.1.example:{PORT}/{TOKEN}/",
    ],
)  # fmt: skip
def test_a_wrong_token_or_host_is_refused(asker, address):
    answer = asker.send("GET", address)
    assert (answer.status_code, answer.text) == (403, "forbidden")
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": ""},
        {"origin": f"https://127.0.0.1:{PORT}"}, {"origin": f"http://localhost:{PORT}"},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_a_page_from_elsewhere_is_refused(asker, headers):
    assert status(asker, **headers) == 403
    assert status(asker, f"{HOME}api/overview", **headers) == 403


def test_nothing_is_answered_without_a_host(asker):
    said = []

    async def send(message):
        said.append(message)

    scope = {"type": "http", "path": f"/{TOKEN}/", "headers": []}
    asyncio.run(asker.app(scope, None, send))
    assert said[0]["status"] == 403
    scope = {"type": "websocket", "path": f"/{TOKEN}/", "headers": []}
    asyncio.run(asker.app(scope, None, send))
    assert len(said) == 2, "no answer at all"


def test_every_answer_has_its_headers_and_opens_nothing(asker):
    for address in (HOME, f"{HOME}api/overview", f"{HOME}api/nothing", f"http://x:{PORT}/"):
        answer = asker.send("GET", address)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert not any("access-control" in name for name in answer.headers)
    page = asker.send("GET", HOME)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page.text)
    assert TOKEN not in page.text


def test_other_methods_and_long_bodies_are_refused(asker):
    assert status(asker, HOME, "POST") == 405
    assert status(asker, f"{HOME}api/rows", "DELETE") == 405
    assert status(asker, f"{HOME}api/answered", "GET") == 405
    long = asker.send("POST", f"{HOME}api/fires", content=b"x" * (MOST_BYTES + 1))
    assert long.status_code == 413
    for length in ("-1", "1e3", "x"):
        assert status(asker, f"{HOME}api/fires", "POST", **{"content-length": length}) == 413


def test_a_body_of_unknown_length_is_refused():
    async def never(*_):
        raise AssertionError("it was let in")

    said = []

    async def send(message):
        said.append(message)

    headers = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "path": f"/{TOKEN}/api/fires", "headers": headers}
    asyncio.run(Guard(never, TOKEN, PORT)(scope, None, send))
    assert said[0]["status"] == 413


def test_a_form_of_another_page_could_send_no_answer(asker):
    body = json.dumps({"text": "a"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = asker.send(
            "POST", f"{HOME}api/fires", content=body, headers={"content-type": kind}
        )
        assert answer.status_code == 400


# The same records as in a report


def test_what_is_served_is_what_a_report_has(asker, results):
    overview = asker.get("overview")
    study = asker.live.study
    expected = json.loads(json.dumps(overview_record(study, results.name)))
    rows = expected.pop("rows")
    assert {name: overview[name] for name in expected} == expected
    assert asker.rows() == {"n": 10, "rows": rows}
    assert asker.get("plotted", arm="") == rows
    assert overview["n_rows"] == 10
    assert overview["arms"] == list(dict.fromkeys(row["arm"] for row in rows))
    for latent in range(5):
        served = asker.get("latent", latent=latent)
        told = served.pop("told")
        assert served == json.loads(json.dumps(latent_record(study, latent)))
        assert told[str((latent + 1) % 5)] == TEXTS[(latent + 1) % 5]


def test_a_latent_that_nobody_explained_can_be_looked_at_and_others_not(results):
    with open_results(results) as db:
        db.execute(
            """insert into latents select cache_id, 50, n_firings, n_contexts, density, max_value,
               mean_value, histogram, null from latents where latent = 0"""
        )
    with served(results) as asker:
        found = asker.get("latent", latent=50)
        assert found["latent"] == 50 and found["explanations"] == []
        for wrong in (-1, 100, 10**30):
            assert "no such latent" in asker.get("latent", latent=wrong)["error"]
        # An interrupted or another's file: a latent of the coder without a row.
        assert "no statistics of latent 51" in asker.get("latent", latent=51)["error"]


def test_rows_come_in_pages(asker):
    every = asker.rows()["rows"]
    parts = [asker.rows(first, 3) for first in range(0, 12, 3)]
    assert [part["n"] for part in parts] == [10] * 4
    assert [row for part in parts for row in part["rows"]] == every
    assert asker.rows(-5, 2)["rows"] == every[:2]
    assert asker.rows(10**9, 5)["rows"] == []
    assert asker.rows(0, -3)["rows"] == []


def test_a_latent_has_a_place_and_neighbours_in_the_order_that_is_seen(asker):
    place = asker.get("place", query=query_json(key="density", down=True), latent=3)
    assert place == {"place": 2, "before": 4, "after": 2}
    assert asker.get("place", query=query_json(), latent=0) == {
        "place": 0, "before": None, "after": 1,
    }  # fmt: skip
    hidden = asker.get("place", query=query_json(text="kings"), latent=0)
    assert hidden == {"place": -1, "before": None, "after": None}


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("rows", {}), ("rows", {"query": "{}", "first": 0, "n": 1}),
        ("rows", {"query": "[]", "first": 0, "n": 1}), ("rows", {"query": "{", "first": 0, "n": 1}),
        ("rows", {"query": query_json(), "first": "x", "n": 1}),
        ("rows", {"query": query_json(more=1), "first": 0, "n": 1} | {"n": "1e3"}),
        ("rows", {"query": query_json(ranges=[["density"]]), "first": 0, "n": 1}),
        ("rows", {"query": query_json(ranges=7), "first": 0, "n": 1}),
        ("place", {"query": query_json(), "latent": "x"}), ("plotted", {}), ("latent", {}),
        ("latent", {"latent": "1; drop table latents"}), ("search", {}),
        ("latent", {"latent": "9" * 5000}), ("place", {"query": query_json(), "latent": "nan"}),
        *(
            ("rows", {"query": query, "first": 0, "n": 1})
            for query in ("7", "null", "[" * 10_000, query_json(ranges=[["density", 10**400, 1]]))
        ),
    ],
)  # fmt: skip
def test_what_is_no_question_is_said_to_be_none(asker, path, parameters):
    answer = asker.send("GET", f"{HOME}api/{path}", params=parameters)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("not a question")


def test_a_body_that_is_no_question_is_said_to_be_none(asker):
    wrong = [
        b"[" * 100_000, b'{"text":' + b'{"a":' * 90_000, b'{"text":' + b"9" * 10_000 + b"}",
        b'{"text":NaN}', b'{"text":["a"]}', b'{"text":"\xff"}', b"null", b"7", b'"a"', b"",
    ]  # fmt: skip
    kind = {"content-type": "application/json"}
    for body in wrong:
        answer = asker.send("POST", f"{HOME}api/fires", content=body, headers=kind)
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"].startswith("not a question")


def test_numbers_without_end_are_places_that_nothing_has(asker):
    assert asker.get("place", query=query_json(), latent=10**400)["place"] == -1
    assert asker.rows(first=10**400, n=10**400)["rows"] == []
    assert "no such latent" in asker.get("latent", latent=-(10**400))["error"]


def test_an_error_in_answering_is_no_wrong_question(asker, monkeypatch):
    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(serving, "found_latents", broken)
    assert asker.send("GET", f"{HOME}api/search", params={"text": "a"}).status_code == 500


def test_a_file_that_is_damaged_meanwhile_is_said_to_be(asker, monkeypatch):
    def broken(*_):
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(serving, "latent_record", broken)
    assert "damaged" in asker.get("latent", latent=0)["error"]


def test_a_browser_that_goes_before_it_has_asked_is_no_error(asker):
    said = []

    async def send(message):
        said.append(message)

    async def gone():
        return {"type": "http.disconnect"}

    headers = {
        "host": f"127.0.0.1:{PORT}",
        "content-type": "application/json",
        "content-length": "9",
    }
    scope = {
        "type": "http", "method": "POST", "path": f"/{TOKEN}/api/fires", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(asker.app(scope, gone, send))
    assert said[0]["status"] == 400


def test_a_column_that_is_not_there_is_refused_in_one_line(asker):
    for query in ({"key": "way 99"}, {"show": "nothing", "key": "way 0"}, {"key": "__class__"}):
        assert "no such column" in asker.rows(**query)["error"]
    assert "no such column" in asker.rows(ranges=[["x", 0, 1]])["error"]


# The table means what the script of a report means


def row(latent, explanation="", way=None, **changes):
    scores = None if way is None else [way, 0.1, 0.9, 0.5, way - 0.5, 0.0, 0.2, 0.04]
    plain = {"density": 0.01, "tokens": 5, "seconds": 1.0, "arm": "llm", "diagnosis": "unsure"}
    told = {"explanation": explanation, "failure": None, "flags": [], "top_tokens": []}
    return {"latent": latent, **plain, **told, "scores": [scores], **changes}


def slow(rows, query):
    """The places of rows by the plainest of code."""

    def value(row, key):
        if key.startswith("way"):
            score = row["scores"][int(key.split()[1])]
            return (
                None if score is None else score[{"value": 0, "difference": 4, "q": 7}[query.show]]
            )
        found = row[key]
        return (found.lower() or None) if isinstance(found, str) else found

    def fits(row):
        texts = [row["latent"], row["explanation"], row["failure"], row["arm"], row["diagnosis"]]
        texts += [flag.replace("_", " ") for flag in row["flags"]] + row["top_tokens"]
        whole = "\n".join("" if text is None else str(text) for text in texts).lower()
        for key, low, high in query.ranges:
            number = value(row, key)
            if number is None or (low is not None and number < low):
                return False
            if high is not None and number > high:
                return False
        return (
            query.arm in ("", row["arm"])
            and query.diagnosis in ("", row["diagnosis"])
            and all(word in whole for word in query.text.lower().split())
        )

    kept = [place for place, each in enumerate(rows) if fits(each)]
    there = [place for place in kept if value(rows[place], query.key) is not None]
    there.sort(key=lambda place: rows[place]["latent"])
    there.sort(key=lambda place: value(rows[place], query.key), reverse=query.down)
    if query.down:  # a sort that is turned round keeps equal ones as they were
        assert there == sorted(there, key=lambda place: value(rows[place], query.key), reverse=True)
    missing = [place for place in kept if place not in set(there)]
    return there + sorted(missing, key=lambda place: rows[place]["latent"])


words = st.sampled_from(["", "year", "Years", "Éclair", "kings of old", "ÉCLAIR"])
some = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
made_rows = st.lists(
    st.builds(
        lambda text, way, arm, density, flags: row(
            0, text, way, arm=arm, density=density, flags=flags, diagnosis=arm + "!"
        ),
        words, some, st.sampled_from(["llm", "token_list"]), st.sampled_from([0.001, 0.5]),
        st.lists(st.sampled_from(["dead_late", "rare"]), max_size=2),
    ),
    max_size=12,
)  # fmt: skip
keys = st.sampled_from(["latent", "density", "way 0", "explanation", "diagnosis", "tokens"])
queries = st.builds(
    Query,
    text=st.sampled_from(["", "year", "YEAR s", "éclair", "dead late", "kings llm", "nothing"]),
    arm=st.sampled_from(["", "llm", "token_list"]),
    diagnosis=st.sampled_from(["", "llm!"]),
    show=st.sampled_from(sorted(SHOWN)),
    key=keys,
    down=st.booleans(),
    ranges=st.lists(
        st.tuples(st.sampled_from(["density", "way 0", "latent"]), some, some), max_size=2
    ).map(tuple),
)


@given(made_rows, queries)
def test_rows_are_found_and_sorted_as_plainly_written(rows, query):
    rows = [{**each, "latent": number // 2} for number, each in enumerate(rows)]
    table = Table(rows, 1)
    found = table.find(query)
    assert found.places.tolist() == slow(rows, query)
    latents = [rows[place]["latent"] for place in found.places]
    assert [latents[first] for first in found.firsts] == list(dict.fromkeys(latents))


def test_plots_of_many_latents_are_made_of_some_evenly():
    rows = [row(latent, way=0.5) for latent in range(25_000)]
    plotted = json.loads(Table(rows, 1).plotted(""))
    latents = [each["latent"] for each in plotted]
    assert len(latents) == len(set(latents)) == 10_000
    assert (latents[0], latents[-1]) == (0, 24_999)
    assert set(np.diff(latents).tolist()) <= {2, 3}
    assert json.loads(Table(rows, 1).plotted("nobody")) == []


# Looking for latents


def test_words_are_found_and_pieces_told_apart(asker):
    (hit,) = asker.get("search", text="kings")
    assert hit["latent"] == 2
    assert hit["explanation"] == [["kings", True]]
    assert hit["score"][0] == "detection"
    hits = asker.get("search", text="lord year")
    assert hits and all(["year", True] in hit["window"] for hit in hits)
    assert asker.get("search", text="absent") == []
    assert "error" in asker.get("search", text="!?")
    assert "nobody" in asker.get("search", text="kings", meaning=1)["error"]


class Meanings:
    """An embedder by first letters."""

    id, name, provenance, dimensions = "letters", "letters", {}, 26

    def embed(self, texts):
        vectors = np.zeros((len(texts), 26), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            vector[ord(text.lower()[0]) % 26] = 1
        return vectors


def test_meanings_are_compared_in_memory(results, monkeypatch):
    before = hashlib.sha256(results.read_bytes()).hexdigest()
    monkeypatch.setattr("lite_interp.tools.find_embedder", lambda name: Meanings())
    with served(results) as asker:
        for _ in range(2):
            hits = asker.get("search", text="monarch", meaning=1)
            assert hits[0]["latent"] == 1 and hits[0]["cosine"] == pytest.approx(1)
            assert hits[0]["found_by"] == ["meaning"]
    assert hashlib.sha256(results.read_bytes()).hexdigest() == before


def test_what_fires_on_a_text_needs_models_and_says_so(asker):
    assert "there is no text" in asker.post("fires", text="  ")["error"]
    answer = asker.send("POST", f"{HOME}api/fires", json={"text": "a year"})
    assert answer.status_code == 422 and "/models/s" in answer.json()["error"]
    assert asker.send("POST", f"{HOME}api/fires", json=["a"]).status_code == 400


def test_firings_are_told_token_by_token_and_latent_by_latent(asker, monkeypatch):
    from lite_interp.text_firings import TextFirings

    found = TextFirings(
        ("a", "\x1b[2J\u202e"), np.zeros(2, int), np.arange(2), np.array([True, False]), 0,
        np.array([0, 1, 1]), np.array([3, 3, 4], np.int32), np.array([1.0, 4.75, 0.5], np.float32),
    )  # fmt: skip
    opened = []
    monkeypatch.setattr(serving, "reopen", lambda *_: opened.append(1))
    monkeypatch.setattr("lite_interp.text_firings.read_text", lambda *_: found)
    said = asker.post("fires", text="a")
    first, second = said["tokens"]
    assert first == {"token": "a", "special": True, "context": 0, "fires": [[3, 1.0]]}
    assert second["fires"] == [[3, 4.75], [4, 0.5]]
    assert "\x1b" not in second["token"] and "⟨U+202E⟩" in second["token"]
    assert [each["latent"] for each in said["latents"]] == [3, 4]
    assert said["latents"][0]["at"] == [[0, 1.0], [1, 4.75]]
    assert said["latents"][0]["share"] == 0.5
    assert said["told"]["3"] == "Queens"


# Rating


def begin(asker, rater="anna", task="explanation", later=()):
    return asker.post("asked", rater=rater, task=task, later=list(later))


def test_nobody_rates_unless_it_was_allowed(asker, results):
    assert asker.get("overview")["rating"] is False
    for path in ("asked", "answered", "taken-back"):
        body = {"rater": "a", "task": "explanation", "later": [], "name": "", "answer": 1}
        assert "--annotate" in asker.post(path, **body, seconds=1)["hint"]


def test_answers_are_kept_skipped_and_taken_back(results):
    with served(results, rating=True) as asker:
        first = begin(asker)
        assert (first["n_answered"], first["n_questions"]) == (0, 6)
        assert first["question"]["task"] == "explanation"
        second = begin(asker, later=[first["name"]])
        assert second["name"] != first["name"]
        answer = {"rater": "anna", "task": "explanation", "seconds": 2.5}
        assert asker.post("answered", name=first["name"], answer=3, **answer) == {"kept": True}
        asker.post("answered", name=second["name"], answer=1, **answer)
        assert asker.post("answered", name=second["name"], answer=4, **answer) == {"kept": False}
        assert begin(asker)["n_answered"] == 2
        assert begin(asker, "ben")["n_answered"] == 0
        assert asker.get("rated")["counts"] == [["anna", "explanation", 2]]
        back = asker.post("taken-back", rater="anna", task="explanation")
        assert back["name"] == second["name"] and back["question"] == second["question"]
    with read_results(results) as db:
        (rating,) = load_ratings(db, CACHE)
        assert (rating.rater, rating.answer, rating.seconds) == ("anna", 3, 2.5)
    with served(results, rating=True) as asker:
        assert begin(asker)["n_answered"] == 1, "it goes on where it stopped"


@pytest.mark.parametrize("task", ["explanation", "detection", "fuzzing", "intruder"])
def test_a_question_tells_nothing_of_whose_it_is(results, task):
    with served(results, rating=True) as asker:
        said = json.dumps(begin(asker, task=task))
        question = begin(asker, task=task)["question"]
    assert "token_list" not in said and "llm" not in said and "b2:trial" not in said
    assert not {"latent", "right_answer", "active", "stratum", "scores"} & set(question)


def test_answers_that_cannot_be_are_refused(results):
    with served(results, rating=True) as asker:
        name = begin(asker)["name"]
        right = {"rater": "anna", "task": "explanation", "name": name, "answer": 2, "seconds": 1.0}
        for wrong in (
            {"answer": 5}, {"answer": "2"}, {"answer": None}, {"name": "x"}, {"task": "x"},
            {"rater": ""}, {"rater": "a\nb"}, {"seconds": -1}, {"seconds": "nan"},
            {"seconds": "x"}, {"rater": ["anna"]}, {"seconds": 10**400}, {"rater": "a\0"},
            {"answer": True}, {"name": None}, {"task": []},
        ):  # fmt: skip
            assert "error" in asker.post("answered", **{**right, **wrong}), wrong
        assert asker.send("POST", f"{HOME}api/answered", json={}).status_code == 400
        assert asker.get("rated")["counts"] == []
        assert "error" in asker.post("taken-back", rater="anna", task="explanation")


# Nothing is written


def test_a_file_is_not_changed_by_looking_at_it(results):
    before = hashlib.sha256(results.read_bytes()).hexdigest()
    with served(results) as asker:
        for path in ("overview", "plotted?arm=", "latent?latent=1", "search?text=kings", "rated"):
            assert asker.send("GET", f"{HOME}api/{path}").status_code == 200
        asker.rows(text="year", key="way 0")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            asker.live.study.db.execute("delete from scores")
    assert hashlib.sha256(results.read_bytes()).hexdigest() == before
    assert sorted(each.name for each in results.parent.iterdir()) == ["results.db"]


def test_texts_that_are_no_unicode_and_worse_are_shown(results):
    with open_results(results) as db:
        db.execute(
            """update explanations set text = cast(x'61ff62' as text)
               where latent = 0 and text is not null"""
        )
        db.execute("update explanations set text = ? where latent = 1 and text is not null", [EVIL])
    with served(results) as asker:
        rows = asker.rows()["rows"]
        assert rows[0]["explanation"] == "a\ufffdb"
        assert "\x1b" not in json.dumps(rows, ensure_ascii=False)
        hit = asker.get("search", text="img")[0]
        assert not re.search("[\x00-\x1f\u202e]", "".join(text for text, _ in hit["explanation"]))


# The command


def test_the_command_says_what_is_wrong_before_it_serves(results, tmp_path):
    def refused(*arguments):
        told = CliRunner().invoke(app, ["serve", *map(str, arguments)])
        assert told.exit_code in (2, 4), (told.output, told.exception)
        return told.output

    assert "no such results file" in refused(tmp_path / "none.db")
    assert "no cache" in refused(results, "--cache", "zz")
    assert "65535" in refused(results, "--port", "70000")
    assert not list(tmp_path.glob("none*"))


def test_a_port_that_is_taken_is_one_line(results, monkeypatch):
    def taken(*_):
        raise OSError(98, "Address already in use")

    class Socket:
        def __init__(self, *_):
            self.closed = False

        setsockopt = close = lambda self, *_: None
        bind = taken

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(UsageError, match="cannot serve on port 80: Address already in use"):
        serve(results, "", None, 80, False, print)


def test_it_serves_until_it_is_stopped_and_leaves_one_file(results):
    command = [sys.executable, "-m", "lite_interp", "serve", str(results), "--annotate"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        address = process.stdout.readline().decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        asked = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1] + "api/overview").status)
"""
        done = subprocess.run([sys.executable, "-c", asked, address], capture_output=True)
        assert done.stdout.strip() == b"200", done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, process.stderr.read()
        assert b"Traceback" not in process.stderr.read()
    assert sorted(each.name for each in results.parent.iterdir()) == ["results.db"]
    with closing(sqlite3.connect(results)) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
