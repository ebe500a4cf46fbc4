"""A served file in a real browser: the same pages as a report, filled as they are needed.

Needs Chromium, as test_report_browser.py. The server is a process of its own.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tiny_browser import EVIL, TABLE, Tab, latents
from tiny_report import TOKENS, make_results
from tiny_results import CACHE

from lite_interp.db.file import open_results, read_results
from lite_interp.db.ratings import load_ratings

TEXTS = ["years", "months of the year", "kings", "queens", "lords"]


@contextmanager
def serving(path, *options):
    """The address at which a file is served."""
    command = [sys.executable, "-m", "lite_interp", "serve", str(path), *options]
    cache = {"XDG_CACHE_HOME": str(path.parent / "cache")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **cache}
    ) as process:
        address = process.stdout.readline().decode().strip()
        assert address, process.stderr.read()
        try:
            yield address
        finally:
            process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(20) == 0 and "Traceback" not in said, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def plain(browser, folder):
    path = make_results(folder / "plain.db", 5, TEXTS)
    with open_results(path) as db:
        db.execute("update coders set provenance = ?", ['{"path": "/models/c"}'])
    with serving(path) as address:
        yield address


@pytest.fixture(scope="module")
def many(browser, folder):
    """More rows than the browser is sent at once: 440, of latents 0 to 59."""
    path = make_results(folder / "many.db", 5, TEXTS)
    with open_results(path) as db:
        names = list(db["explanations"].columns_dict)
        copied = ", ".join({"id": "id || n", "latent": "n % 60"}.get(each, each) for each in names)
        db.execute(
            f"""with recursive numbers (n) as
                (select 0 union all select n + 1 from numbers where n < 429)
                insert into explanations select {copied} from explanations join numbers
                where id = 'b2:x0'"""
        )
    with serving(path) as address:
        yield address


@pytest.fixture(scope="module")
def evil(browser, folder):
    tokens = (*TOKENS[:3], "x" * 1_000_000, EVIL, EVIL)
    path = make_results(folder / "evil.db", 2, [EVIL, "y" * 100_000], tokens)
    with serving(path, "--annotate") as address:
        yield address


class LiveTab(Tab):
    """A tab at an address."""

    allowed = ()

    def go(self, address, hash_="", wait=TABLE):
        """Go to a page, and wait for what it shows."""
        self.page.goto("about:blank")
        self.page.goto(address + hash_)
        self.page.wait_for_selector(wait)
        return self.page


@pytest.fixture
def tab(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    tab = LiveTab(context)
    yield tab
    assert [text for text in tab.said if not text.startswith(tab.allowed or "\0")] == []
    assert all(re.match(r"http://127\.0\.0\.1:\d+/[\w-]{32}/|about:", url) for url in tab.requests)
    context.close()


def test_search_filter_sort_and_open_as_in_a_report(tab, plain):
    page = tab.go(plain)
    assert latents(page) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    page.get_by_role("searchbox").fill("YEAR months")
    page.get_by_text("1 of 10 rows").wait_for()
    assert latents(page) == [1]
    page.get_by_role("searchbox").fill("")
    page.get_by_label("explanations by").select_option("llm")
    page.get_by_text("5 of 10 rows").wait_for()
    page.get_by_role("button", name="density").click()
    page.wait_for_selector("th[aria-sort=descending]")
    assert latents(page) == [4, 3, 2, 1, 0]
    page.locator(TABLE).first.click()
    page.wait_for_selector("#latent[data-latent='4']")
    moves = page.get_by_role("navigation", name="Other latents").inner_text()
    assert "latent → 3" in moves and "←" not in moves
    page.get_by_role("link", name="latent → 3").click()
    page.wait_for_selector("#latent[data-latent='3']")
    neighbour = page.locator(".tokens a", has_text="4").first
    assert neighbour.get_attribute("title") == "lords"
    page.go_back()
    page.wait_for_selector("#latent[data-latent='4']")
    page.go_back()
    page.wait_for_selector(f"{TABLE}:focus")
    assert page.evaluate("document.activeElement.textContent") == "4"


def test_hover_and_keys_tell_activations(tab, plain):
    page = tab.go(plain, "#latent-2", "#latent")
    mark = page.locator(".item .window mark").first
    mark.hover()
    assert re.fullmatch(r"activation [\d.]+", mark.get_attribute("title"))
    mark.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.tagName") == "MARK"


def test_rows_are_fetched_while_one_scrolls(tab, many):
    page = tab.go(many)
    page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
    page.wait_for_selector(f"{TABLE} >> text=59")
    assert latents(page)[-1] == 59
    page.locator(TABLE).last.focus()
    page.keyboard.press("Home")
    page.wait_for_selector(f"{TABLE}:focus >> text=0")
    page.keyboard.press("End")
    page.wait_for_selector(f"{TABLE}:focus >> text=59")


def test_the_end_stays_the_end_when_its_rows_come(tab, many):
    page = tab.go(many)
    page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
    page.wait_for_selector(f"{TABLE} >> text=59")
    place = "(box => box.scrollHeight - box.scrollTop - box.clientHeight)"
    assert page.evaluate(f"{place}(document.querySelector('.rows'))") < 2


def test_rows_that_did_not_come_are_asked_for_again(tab, many):
    tab.allowed = "Failed to load resource"
    page = tab.go(many)
    page.route("**/api/rows?*", lambda route: route.abort())
    page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
    page.get_by_role("alert").wait_for()
    page.unroute("**/api/rows?*")
    page.evaluate("document.querySelector('.rows').scrollTop -= 10")
    page.wait_for_selector(f"{TABLE} >> text=59")
    assert page.get_by_role("alert").count() == 0, "what was said of it holds no longer"


def test_only_rows_that_are_there_are_printed(tab, many):
    page = tab.go(many)
    assert "the first 200 are printed" in page.locator("#latents").inner_text()
    page.evaluate(
        """matchMedia("print").addEventListener("change", (event) => {
            const count = (kind) => document.querySelectorAll(kind).length;
            if (event.matches) window.printed = [count(".waiting"), count(".rows tbody a")];
        })"""
    )
    page.pdf()
    assert page.evaluate("window.printed") == [0, 200]


def test_any_latent_is_opened_by_its_number(tab, plain):
    page = tab.go(plain)
    page.get_by_label("Latent, 0 to 99").fill("3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#latent[data-latent='3']")


def test_the_link_to_the_content_leaves_the_page_as_it_is(tab, plain):
    page = tab.go(plain, "#latent-2", "#latent")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.wait_for_timeout(100)
    assert page.locator("#latent").count() == 1


def test_dark_and_light_have_colours_of_their_own(tab, plain):
    page = tab.go(plain)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour)
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(colour) == light != dark


def test_search_by_words_has_an_address_and_links(tab, plain):
    page = tab.go(plain)
    page.get_by_role("link", name="search").click()
    page.get_by_role("searchbox", name="Words").fill("kings")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits li")
    assert "search?text=kings" in page.url
    assert page.locator("#hits mark").all_inner_texts() == ["kings"]
    page.locator("#hits a").click()
    page.wait_for_selector("#latent[data-latent='2']")
    page.go_back()
    page.wait_for_selector("#hits li")
    page.evaluate("document.querySelector('#hits').replaceChildren()")
    page.get_by_role("button", name="search").click()
    page.wait_for_selector("#hits li")  # the same again is asked again
    tab.allowed = "Failed to load resource"
    page.get_by_role("searchbox", name="Words").fill("!")
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").inner_text()


def test_what_fires_without_models_is_said_in_the_page(tab, plain):
    tab.allowed = "Failed to load resource"
    page = tab.go(plain, "#fires", "textarea")
    page.get_by_label("Text", exact=True).fill("in the year of our lord")
    page.get_by_role("button", name="which latents fire here").click()
    assert page.get_by_role("alert").inner_text()


STRONGEST = {" the": [], " ": [], " year": [[2, 3.0], [1, 0.5]], EVIL: [[2, 1.0]]}
FIRED = {
    "tokens": [
        {"token": token, "special": False, "context": 0, "fires": fires}
        for token, fires in STRONGEST.items()
    ],
    "latents": [
        {"latent": 2, "peak": 3.0, "share": 0.5, "at": [[2, 3.0], [3, 1.0]]},
        {"latent": 1, "peak": 0.5, "share": None, "at": [[2, 0.5]]},
    ],
    "told": {"2": EVIL, "1": None},
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_fires_is_shaded_walked_and_still_there_after_a_latent(tab, plain, scheme):
    page = tab.go(plain, "#fires", "textarea")
    page.emulate_media(color_scheme=scheme)
    page.route("**/api/fires", lambda route: route.fulfill(json=FIRED))
    page.get_by_label("Text", exact=True).fill("the year")
    page.get_by_role("button", name="which latents fire here").click()
    page.get_by_role("button", name="Show where latent 2 fires").click()
    shades = page.eval_on_selector_all(
        ".fired button", "all => all.map(each => getComputedStyle(each).backgroundColor)"
    )
    assert shades[0] == shades[1] == "rgba(0, 0, 0, 0)"
    assert len({shades[0], shades[2], shades[3]}) == 3, "stronger is shaded more"
    assert page.locator(".fired button").nth(1).get_attribute("aria-label") == "space"
    assert page.locator(".fired [tabindex='0']").count() == 1
    page.locator(".fired button").first.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#at li").count() == 2
    assert page.evaluate("window.ran") is None
    page.locator("#at a").first.click()
    page.wait_for_selector("#latent[data-latent='2']")
    page.go_back()
    page.wait_for_selector("#at li")
    assert page.get_by_label("Text", exact=True).input_value() == "the year"


def test_what_takes_long_is_announced(tab, plain):
    tab.allowed = "Failed to load resource"
    page = tab.go(plain)
    page.route("**/api/search?*", lambda route: None)
    page.goto(f"{plain}#search?text=kings&meaning=1")
    assert "embedder" in page.locator("#hits [role=status]").inner_text()
    page.goto(f"{plain}#rate/explanation/anna")
    page.get_by_role("alert").wait_for()  # nobody rates here, and that it begins is taken back
    assert page.locator("#sitting [role=status]").inner_text() == ""
    page.route("**/api/asked", lambda route: None)
    page.goto(f"{plain}#rate/explanation/ben")
    page.get_by_text("questions are drawn").wait_for()
    page.route("**/api/fires", lambda route: None)
    page.goto(f"{plain}#fires")
    page.get_by_label("Text", exact=True).fill("a")
    page.get_by_role("button", name="which latents fire here").click()
    assert "loaded" in page.locator("#fired [role=status]").inner_text()


def test_a_latent_that_is_not_there_and_a_server_that_is_gone(tab, folder, browser):
    tab.allowed = "Failed to load resource"
    with serving(make_results(folder / "gone.db", 2)) as address:
        page = tab.go(address, "#latent-100", "[role=alert]")
        assert "no such latent: 100" in page.get_by_role("alert").inner_text()
        tab.go(address)
    page.get_by_role("searchbox").fill("a")
    assert "was it stopped?" in page.get_by_role("alert").inner_text()


def test_people_rate_by_keys_undo_skip_and_go_on(tab, folder, browser):
    path = make_results(folder / "rated.db", 3, TEXTS)
    with serving(path, "--annotate") as address:
        page = tab.go(address)
        page.get_by_role("link", name="rate").click()
        page.get_by_label("Your name").fill("Änna / 1")
        page.get_by_role("button", name="begin").click()
        count = page.locator("#sitting [role=status]")
        count.wait_for()
        assert count.inner_text() == "0 of 4"
        first = page.locator("blockquote").inner_text()
        page.keyboard.press("s")
        page.locator("blockquote").filter(has_not_text=first).wait_for()
        page.keyboard.press("3")
        page.get_by_text("1 of 4").wait_for()
        page.get_by_role("button", name="4").click()
        page.get_by_text("2 of 4").wait_for()
        page.keyboard.press("u")
        page.get_by_text("1 of 4").wait_for()
        page.reload()
        page.get_by_text("1 of 4").wait_for()
        for n in (2, 3, 4):
            page.keyboard.press("1")
            page.get_by_text(f"{n} of 4").wait_for()
        page.get_by_text("Everything is answered").wait_for()
        page.get_by_role("link", name="end").click()
        page.get_by_role("cell", name="Rate explanations").wait_for()
    with read_results(path) as db:
        ratings = load_ratings(db, CACHE)
        assert sorted(each.answer for each in ratings) == [1, 1, 1, 3]
        assert {each.rater for each in ratings} == {"Änna / 1"}
        assert all(0 < each.seconds < 60 for each in ratings)


def test_two_tabs_of_one_rater_and_presses_in_a_row(browser, folder):
    path = make_results(folder / "twice.db", 3, TEXTS)
    with serving(path, "--annotate") as address:
        context = browser.new_context()
        first, second = LiveTab(context), LiveTab(context)
        for tab in (first, second):
            tab.go(address, "#rate/explanation/dora", "#sitting .ask")
        for _ in range(4):
            first.page.keyboard.press("4")
        first.page.get_by_text("1 of 4").wait_for()
        second.page.keyboard.press("1")
        second.page.get_by_text("the first answer stays").wait_for()
        assert second.page.locator("#sitting .controls [role=status]").inner_text() == "1 of 4"
        second.page.get_by_role("link", name="end").click()
        second.page.wait_for_selector("#rate")
        second.page.go_back()
        second.page.wait_for_selector("#sitting .ask")
        second.page.keyboard.press("2")
        second.page.get_by_text("2 of 4").wait_for()
        assert first.said + second.said == []
        context.close()
    with read_results(path) as db:
        assert [each.answer for each in load_ratings(db, CACHE)] == [4, 2]


def test_a_server_that_stops_in_a_sitting_loses_nothing_and_is_told(tab, folder, browser):
    tab.allowed = "Failed to load resource"
    path = make_results(folder / "stopped.db", 3, TEXTS)
    with serving(path, "--annotate") as address:
        page = tab.go(address, "#rate/explanation/emil", "#sitting .ask")
        page.keyboard.press("4")
        page.get_by_text("1 of 4").wait_for()
    asked = page.locator("blockquote").inner_text()
    page.keyboard.press("3")
    assert "was it stopped?" in page.get_by_role("alert").inner_text()
    assert page.locator("blockquote").inner_text() == asked
    with read_results(path) as db:
        assert [each.answer for each in load_ratings(db, CACHE)] == [4]


@pytest.mark.parametrize("name", ["%", "%zz", "x" * 60, "%00", "%20"])
def test_an_address_that_names_nobody_is_one_line(tab, evil, name):
    tab.allowed = "Failed to load resource"
    tab.go(evil, f"#rate/explanation/{name}", "main [role=alert]")


@pytest.mark.parametrize(
    ("task", "keys"), [("detection", "yn"), ("fuzzing", "ny"), ("intruder", "25")]
)
def test_people_judge_as_scorers_do(tab, evil, task, keys):
    page = tab.go(evil, f"#rate/{task}/ben", "#sitting .ask")
    assert page.locator("blockquote").count() == (task != "intruder")
    assert (page.locator(".rated-windows .bracket").count() > 0) == (task != "detection")
    assert page.locator(".rated-windows mark").count() == 0, "activations give the answer away"
    for n, key in enumerate(keys, 1):
        page.keyboard.press(key)
        page.locator("#sitting [role=status]").filter(has_text=re.compile(f"^{n} of")).wait_for()


@pytest.mark.parametrize(
    ("hash_", "wait"),
    [
        ("", TABLE), ("#latent-0", "#latent"), ("#search?text=img", "#hits li"),
        ("#rate/explanation/<img src=x onerror=window.ran=1>", "#sitting .ask"),
        ("#rate/fuzzing/carl", "#sitting .ask"), ("#rate/intruder/carl", "#sitting .ask"),
        ("#search?text=<script>window.ran=1</script>", "#hits [role=status]"),
    ],
)  # fmt: skip
def test_nothing_in_the_data_runs_and_no_request_leaves(tab, evil, hash_, wait):
    page = tab.go(evil, hash_, wait)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    for name in ("img", "iframe", "link", "[onerror]", "[onload]", "a[href^=javascript]"):
        assert page.locator(f"main {name}").count() == 0
    text = page.locator("main").text_content()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\u2066\U000e0041]", text)
    assert len(text) < 200_000


def test_another_site_gets_nothing_and_cannot_frame(browser, plain):
    """A page of another origin that knows even the token."""
    context = browser.new_context()
    page = context.new_page()
    page.goto("data:text/html,<p>elsewhere")
    asked = """async (address) => {
        try { return await (await fetch(address + "api/overview")).text(); }
        catch (error) { return "refused"; }
    }"""
    assert page.evaluate(asked, plain) == "refused"
    frame = """(address) => { const frame = document.createElement("iframe");
        frame.src = address; document.body.append(frame); }"""
    page.evaluate(frame, plain)
    page.wait_for_timeout(500)
    assert all("Latents" not in (each.content() or "") for each in page.frames[1:])
    context.close()
