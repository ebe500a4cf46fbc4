"""The page in a real browser: nothing in the data runs, and everything can be reached by key.

Needs Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/it; without one it is skipped.
"""

import re

import pytest
from tiny_browser import EVIL, TABLE, Tab, latents
from tiny_report import TOKENS, make_results

from lite_interp.report.making import make_report
from lite_interp.report.page import render_page, write_text
from lite_interp.terminal import Terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def plain(folder):
    """Five latents, each explained twice."""
    texts = ["years", "months of the year", "kings", "queens", "lords"]
    path = make_results(folder / "plain.db", 5, texts)
    return make_report(path, folder / "plain.html", Terminal()).path


@pytest.fixture(scope="module")
def evil(folder):
    """Texts and tokens that try to run, to leave, and to have no end."""
    tokens = (*TOKENS[:3], "x" * 1_000_000, EVIL, EVIL)
    path = make_results(folder / "evil.db", 2, [EVIL, "y" * 100_000], tokens)
    return make_report(path, folder / "evil.html", Terminal()).path


@pytest.fixture(scope="module")
def long(folder):
    """A table of 3,000 latents without pages of their own."""
    ways = [{"name": "detection", "variant": "raw", "statistic": "auroc", "unit": ""}]
    rows = [
        {
            "latent": number, "density": 0.001 + number / 1e6, "n_firings": 9, "flags": [],
            "top_tokens": [], "tokens": number, "seconds": 1.0, "arm": "llm", "failure": None,
            "explanation": f"meaning {number % 7}", "diagnosis": "unsure",
            "scores": [[(number % 100) / 100, 0, 1, 0.5, 0.1, 0, 0.2, 0.3] if number % 3 else None],
        }
        for number in range(3000)
    ]  # fmt: skip
    study = {"coder": "c", "hookpoint": "h", "facts": [], "models": [], "details": []}
    overview = {
        "study": {**study, "prompts": [], "runs": []}, "ways": ways, "rows": rows,
        "summary": [], "agreement": [], "costs": [],
    }  # fmt: skip
    write_text(folder / "long.html", render_page("long", overview, []))
    return folder / "long.html"


@pytest.fixture
def tab(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    tab = Tab(context)
    yield tab
    assert tab.said == []
    assert all(url.startswith("file://") for url in tab.requests)
    context.close()


def focused(page):
    return page.evaluate("document.activeElement.textContent")


# Nothing runs, nothing leaves


@pytest.mark.parametrize("hash_", ["", "#latent-0", "#latent-1"])
def test_nothing_in_the_data_runs_and_no_request_leaves(tab, evil, hash_):
    page = tab.open(evil, hash_)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert len(tab.requests) == 1
    for name in ("img", "iframe", "link", "[onerror]", "[onload]", "a[href^=javascript]"):
        assert page.locator(f"main {name}").count() == 0
    text = page.locator("main").text_content()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\u2066\U000e0041]", text)
    if hash_ != "#latent-1":
        assert "<script>window.ran=1</script><img src=x onerror='window.ran=1'>" in text
        assert "{{7*7}}${7*7}" in text
        assert "␛[2J␛]0;t␇␀⟨U+202E⟩gnol⟨U+2066⟩ ⟨U+E0041⟩" in text
    if hash_:
        assert "x" * 120 + "… [cut: 1,000,000 characters]" in text
    assert len(text) < 200_000


def test_the_policy_stops_what_a_mistake_would_let_through(browser, plain):
    """With the page's own policy, markup that was let in would still not run or fetch."""
    context = browser.new_context()
    tab = Tab(context)
    page = tab.open(plain)
    attempt = """() => {
        const script = document.createElement("script");
        let refused = 0;
        try { script.textContent = "window.ran = 1"; document.body.append(script); }
        catch { refused += 1; }
        try { document.body.innerHTML += "<img src=x onerror='window.ran=1'>"; }
        catch { refused += 1; }
        const image = new Image();
        image.src = "http://example.invalid/x.png";
        document.body.append(image);
        return refused;
    }"""
    assert page.evaluate(attempt) == 2
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in tab.said)
    context.close()


# The table


def test_search_filter_and_sort(tab, plain):
    page = tab.open(plain)
    assert latents(page) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    page.get_by_role("searchbox").fill("YEAR months")
    assert latents(page) == [1]
    assert page.get_by_role("status").inner_text() == "1 of 10 rows"
    page.get_by_role("searchbox").fill("")
    page.get_by_label("explanations by").select_option("llm")
    assert latents(page) == [0, 1, 2, 3, 4]
    page.get_by_role("button", name="density").click()
    assert latents(page) == [4, 3, 2, 1, 0]
    heads = page.locator(".rows thead th[aria-sort]")
    assert heads.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="density").click()
    assert latents(page) == [0, 1, 2, 3, 4]
    page.get_by_role("button", name="explanation", exact=True).click()
    assert latents(page) == [2, 4, 1, 3, 0]
    page.get_by_role("button", name="add a range").click()
    page.get_by_label("from", exact=True).fill("0.2")
    page.get_by_label("to", exact=True).fill("0.4")
    assert latents(page) == [2, 1, 3]
    page.get_by_role("button", name="Remove this condition").click()
    assert len(latents(page)) == 5


def test_what_has_no_score_stands_last_whichever_way_is_up(tab, long):
    page = tab.open(long)
    head = page.get_by_role("button", name="detection")
    for down in (True, False):
        head.click()
        first = page.locator(".rows tbody tr[aria-rowindex='2'] td").nth(2).inner_text()
        assert first == ("0.99" if down else "0.00")
        page.locator(".rows").evaluate("(box) => { box.scrollTop = 1e9 }")
        page.wait_for_selector("tr[aria-rowindex='3001']")
        last = page.locator("tr[aria-rowindex='3001'] td").nth(2).inner_text()
        assert last == "–"


def test_only_rows_that_are_seen_are_drawn(tab, long):
    page = tab.open(long)
    assert len(latents(page)) < 60
    assert page.locator(".rows table").get_attribute("aria-rowcount") == "3001"
    page.locator(".rows").evaluate("(box) => { box.scrollTop = box.scrollHeight / 2 }")
    page.wait_for_selector("tr[aria-rowindex='1500']")
    found = latents(page)
    assert found == [*range(found[0], found[0] + len(found))]
    assert len(found) < 60
    page.get_by_role("searchbox").fill("meaning 3")
    assert latents(page)[:3] == [3, 10, 13]  # each word, anywhere
    assert page.locator(".rows").evaluate("(box) => box.scrollTop") == 0


def test_scores_less_null_and_other_variants(tab, plain):
    page = tab.open(plain)
    cell = page.locator("tr[aria-rowindex='2'] td").nth(2)
    assert cell.inner_text() == "0.83"
    page.get_by_label("show").select_option("difference")
    assert cell.inner_text().startswith("+")
    page.get_by_label("scores", exact=True).select_option("relative")
    assert page.locator("#scores figure").count() == 2
    assert page.locator(".rows thead th").all_inner_texts()[3:5] == ["detection", "fuzzing"]


# A latent


def test_a_latent_opens_and_a_token_tells_its_activation(tab, plain):
    page = tab.open(plain)
    page.get_by_role("link", name="2", exact=True).first.click()
    page.wait_for_selector("#latent")
    assert page.title().startswith("latent 2 – ")
    assert focused(page).startswith("Latent 2")
    token = page.get_by_role("region", name="Windows").locator("mark").first
    token.hover()
    assert token.get_attribute("title") == "activation 8.8"
    assert token.get_attribute("aria-description") == "activation 8.8"
    page.get_by_role("link", name="latent → 3").click()
    page.wait_for_selector("[data-latent='3']")
    page.get_by_role("link", name="4", exact=True).first.click()  # a neighbour
    page.wait_for_selector("[data-latent='4']")
    page.go_back()
    page.go_back()
    page.wait_for_selector("[data-latent='2']")
    page.go_back()
    page.wait_for_selector(TABLE)
    assert focused(page) == "2"


def test_mistakes_can_be_read(tab, plain):
    page = tab.open(plain, "#latent-0")
    windows = page.get_by_role("region", name="Windows")
    assert windows.locator(".item .bad").all_inner_texts() == [" missed"]
    page.get_by_label("order").select_option("mistakes")
    first = windows.locator(".item").first.inner_text()
    assert "missed" in first
    assert "decile 5" in first
    page.get_by_label("judged by").select_option("fuzzing")
    assert windows.locator(".bracket").first.inner_text() == "<<"
    assert "wrong marks" in windows.inner_text()
    page.get_by_label("judged by").select_option("simulation")
    rated = windows.locator(".rated")
    assert rated.nth(5).get_attribute("title") == "expected rating 9"
    page.get_by_label("explanation", exact=True).select_option("1")
    assert windows.locator(".bad").count() == 0


def test_everything_about_a_latent_is_there(tab, plain):
    page = tab.open(plain, "#latent-1")
    page.get_by_text("questions about intruders").click()
    assert page.locator(".questions li.odd").count() == 10
    text = page.locator("#latent").inner_text()
    for part in ("Fires on", "Promotes", "Suppresses", "Neighbours by direction", "Steered"):
        assert part in text
    assert "no explanation: no_windows" in text
    assert "what the engine wrote" in text
    row = page.locator("table.steered tbody tr").first.locator("td").all_inner_texts()
    assert [cell.split() for cell in row[1:]] == [
        ["a", "time", "a", "hill"],
        ["months", "of", "the", "year"] * 2,
    ]
    assert page.get_by_role("img", name=re.compile("^Histogram of 151 activations")).count() == 1
    assert page.get_by_role("link", name="2", exact=True).count() == 2
    assert page.get_by_role("link", name="99").count() == 0


def test_a_latent_that_is_not_in_the_page_says_so(tab, plain):
    page = tab.open(plain, "#latent-77")
    assert "This latent is not in the page." in page.locator("#latent").inner_text()


# By key, in the dark, on paper, on a telephone


def test_all_of_it_by_key_alone(tab, plain):
    page = tab.open(plain)
    page.keyboard.press("Tab")
    assert focused(page) == "To the content"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "search":
            break
    page.keyboard.type("kings")
    assert latents(page) == [2]
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.rows tbody a')"):
            break
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "End", "Home", "PageDown"):
        page.keyboard.press(key)
    assert focused(page) == "4"
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-latent='4']")
    assert focused(page).startswith("Latent 4")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "MARK":
            break
    titles = [page.evaluate("document.activeElement.title")]
    for key in ("ArrowRight", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        titles.append(page.evaluate("document.activeElement.title"))
    assert titles == ["activation 8.6", "activation 1.23", "activation 7.6", "activation 8.6"]
    assert page.locator("mark[tabindex='0']").count() == 2  # scored windows, and the questions


def test_the_focus_stays_on_a_row_that_is_scrolled_away_and_back(tab, long):
    page = tab.open(long)
    page.locator(TABLE).nth(3).focus()
    page.locator(".rows").evaluate("(box) => { box.scrollTop = 40000 }")
    page.wait_for_selector("tr[aria-rowindex='1145']")
    assert focused(page) == "3"
    page.keyboard.press("ArrowDown")
    assert focused(page) == "4"


CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith("color(") ? 1 : 255;
    return [...found.slice(0, 3).map((each) => each / scale), found[3] ?? 1];
  };
  const light = (color) => color.slice(0, 3)
    .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const page = parse(getComputedStyle(document.body).backgroundColor);
  const over = (color) => [0, 1, 2].map((n) => color[3] * color[n] + (1 - color[3]) * page[n]);
  const ratio = (node) => {
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(style.color)), light(over(parse(style.backgroundColor)))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const box = document.createElement("p");
  box.className = "window";
  document.querySelector("main").append(box);
  const found = {};
  for (const [tag, name] of [
    ...[...Array(10).keys()].map((n) => ["mark", `a${n + 1}`]),
    ...[...Array(10).keys()].map((n) => ["span", `rated r${n + 1}`]),
    ["span", "dim"], ["span", "bad"], ["span", "good"], ["span", "bracket"],
  ]) {
    const node = document.createElement(tag);
    node.className = name;
    box.append(node);
    found[name] = ratio(node);
  }
  box.remove();
  found.link = ratio(document.querySelector("main a"));
  found.text = ratio(document.body);
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart(tab, plain, scheme):
    page = tab.open(plain)
    page.get_by_label("Colours").select_option(scheme)
    ratios = page.evaluate(CONTRAST)
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


def test_dark_as_the_system_or_as_chosen(tab, plain):
    page = tab.open(plain)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.reload()
    page.wait_for_selector(TABLE)
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


def test_on_paper_all_rows_stand_and_no_controls(tab, long):
    page = tab.open(long)
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_selector("tr[aria-rowindex='2001']")
    assert len(latents(page)) == 2000
    assert not page.locator(".controls").first.is_visible()
    assert not page.get_by_label("Colours").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    page.wait_for_selector("tr[aria-rowindex='2001']", state="detached")
    assert len(latents(page)) < 60


@pytest.mark.parametrize("hash_", ["", "#latent-1"])
@pytest.mark.parametrize("name", ["plain", "evil"])
def test_a_narrow_page_is_no_wider_than_its_window(browser, request, name, hash_):
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = Tab(context).open(request.getfixturevalue(name), hash_)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    context.close()


def test_a_reader_hears_names_for_what_can_be_used(tab, plain):
    page = tab.open(plain)
    for hash_ in ("", "#latent-0"):
        tab.open(plain, hash_)
        unnamed = page.evaluate(
            """[...document.querySelectorAll("select, input, button, a, [role=img]")].filter(
                (node) => !(node.getAttribute("aria-label") || node.textContent.trim()
                    || node.labels?.length)).length"""
        )
        assert unnamed == 0
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"
