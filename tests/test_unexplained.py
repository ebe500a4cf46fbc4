"""Windows of latents that nobody explained: drawn to be looked at, all strengths, no text twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_study
from hypothesis import given
from hypothesis import strategies as st
from test_serve_browser import serving
from tiny_serve import served
from tiny_windows import make_world, worlds
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.db import cached, caches
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import SubjectError
from lite_interp.pipeline import cache_corpus
from lite_interp.serve.live import N_DRAWN
from lite_interp.unexplained import draw_windows, spread_windows


@given(st.data())
def test_windows_are_true_distinct_and_spread_over_the_strengths(data):
    world = data.draw(worlds())
    n = data.draw(st.integers(0, 12))
    found = spread_windows(world.source, 3, world.firings, n)
    peaks = [window.peak for window in found]
    assert peaks == sorted(peaks, reverse=True)
    assert all(peak > 0 for peak in peaks)
    assert len({window.tokens for window in found}) == len(found) <= n
    distinct = world.distinct_peaks()
    if n:
        assert bool(found) == bool(len(distinct))
    if found:
        assert found[0].peak == max(distinct), "the strongest is among them"
    for window in found:
        end = window.start + len(window.tokens)
        np.testing.assert_array_equal(
            window.values, world.dense[window.context, window.start : end]
        )


def test_all_strengths_are_seen_from_the_strongest_to_the_weakest():
    world = make_world()
    every = world.distinct_peaks()
    found = spread_windows(world.source, 3, world.firings, 5)
    wanted = [every[round(share * (len(every) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    assert len(every) > 20
    np.testing.assert_allclose([window.peak for window in found], wanted, rtol=1e-6)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unexplained")
    path = folder / "results.db"
    cache_corpus(path, tiny_study.cache_job(tiny_study.write_parts(folder)), tiny_study.Told())
    return path


def busiest(path):
    with read_results(path) as db:
        return db.execute("select latent from latents order by n_firings desc").fetchone()[0]


def show(path, *options):
    return CliRunner().invoke(app, ["show", str(path), str(busiest(path)), *options])


def test_show_prints_windows_and_json_has_them(results):
    told = show(results)
    assert told.exit_code == 0, told.output
    assert "no explanation yet" in told.output
    page = told.output.split("windows it fires in, evenly over all strengths")[1]
    rows = [
        json.loads(line)
        for line in show(results, "--json", "--windows", "4").stdout.split("\n")[:-1]
    ]
    windows = [row for row in rows if row["kind"] == "window"]
    assert 0 < len(windows) <= 4
    assert f"{windows[0]['peak']:.3g}" in page
    assert all(row["example_set_id"] is row["role"] is row["stratum"] is None for row in windows)


def test_what_is_missing_is_said_and_the_rest_shown(results, tmp_path):
    path = tmp_path / "results.db"
    path.write_bytes(results.read_bytes())
    with open_results(path) as db:
        db.execute("""update subjects set provenance = '{"path":"/gone"}'""")
    told = show(path)
    assert told.exit_code == 0 and "density" in told.output
    assert "its windows cannot be shown: no such" in " ".join(told.output.split())
    wrong = show(path, "--subject", str(tmp_path))
    assert wrong.exit_code == 1 and wrong.output.startswith("Error:")
    with open_results(path) as db:
        db.execute("delete from firings")
    assert "firings" in " ".join(show(path).output.split())


def test_another_tokenizer_is_refused(results):
    with read_results(results) as db:
        cache = caches.the_cache(db)
        other = replace(cache, corpus=replace(cache.corpus, tokenizer_hash="another"))
        with pytest.raises(SubjectError, match="another tokenizer"):
            draw_windows(db, other, busiest(results), 3)
        assert cached.load_firings(db, cache, busiest(results)).values.size


def test_served_pages_have_the_same_windows(results):
    latent = busiest(results)
    with read_results(results) as db:
        drawn = draw_windows(db, caches.the_cache(db), latent, N_DRAWN)
    with served(results) as asker:
        for _ in range(2):
            found = asker.get("windows", latent=latent)
            assert [window["tokens"] for window in found] == [list(each.tokens) for each in drawn]
            assert all(window["fires"] for window in found)
        assert "no such latent" in asker.get("windows", latent=10**6)["error"]


def test_a_page_says_why_there_are_no_windows(results, tmp_path, browser):
    path = tmp_path / "results.db"
    path.write_bytes(results.read_bytes())
    latent = busiest(results)
    shot = browser.new_page()
    with serving(path) as address:
        shot.goto(f"{address}#latent-{latent}")
        shot.get_by_text("evenly over all strengths").wait_for()
        assert shot.locator(".item .window mark").count() > 0
    with open_results(path) as db:
        db.execute("delete from firings")
    with serving(path) as address:
        shot.goto(f"{address}#latent-{latent}")
        assert "firings" in shot.get_by_role("alert").inner_text()
        assert shot.get_by_text("No windows are stored").count() == 1
    shot.close()
