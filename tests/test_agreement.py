"""How scorers agree: the right latents in each pair, one explanation each, a table that fits."""

import io
import json
import math
import unicodedata

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy.stats import pearsonr, spearmanr
from tiny_score_rows import EVIL, intervention_row, intruder_row, nothing_row, score_row

from lite_interp.agreement import (
    PAPER,
    Agreement,
    agree,
    agreement_head,
    agreement_page,
    agreement_rows,
)
from lite_interp.errors import UsageError
from lite_interp.ways import HEADERS, base

LATENTS = range(12)
DRAW = np.random.default_rng(0)
DETECTION = DRAW.uniform(0.4, 1.0, len(LATENTS))
FUZZING = DETECTION**3 + DRAW.normal(0, 0.05, len(LATENTS))
FOUND = DRAW.uniform(0.1, 1.0, len(LATENTS))


def rows(latents=LATENTS, **changed):
    """Detection, fuzzing and intruders of each latent."""
    found = []
    for latent in latents:
        found.append(score_row(latent, value=float(DETECTION[latent]), **changed))
        found.append(score_row(latent, "fuzzing", value=float(FUZZING[latent]), **changed))
        found.append(intruder_row(latent, float(FOUND[latent])))
    return found


def printed(found, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(agreement_page(found))
    return console.file.getvalue()


def pair(found: Agreement, *names):
    (it,) = (pair for pair in found.pairs if {pair.first, pair.second} == set(names))
    return it


def test_every_pair_of_scorers_is_correlated_over_latents():
    found = agree(rows())
    assert (found.explainer, found.n_latents, found.variant) == ("llm", 12, "raw")
    assert [(each.first, each.second) for each in found.pairs] == [
        ("fuzzing", "detection"),
        ("fuzzing", "intruder"),
        ("detection", "intruder"),
    ]
    for names, x, y in (
        (("detection", "fuzzing"), DETECTION, FUZZING),
        (("detection", "intruder"), DETECTION, FOUND),
    ):
        it = pair(found, *names)
        assert it.n == 12
        assert it.spearman.value == pytest.approx(spearmanr(x, y)[0])
        assert it.pearson.value == pytest.approx(pearsonr(x, y)[0])
        assert it.spearman.low < it.spearman.value < it.spearman.high


def test_the_same_scores_in_any_order_give_the_same_numbers():
    found = agree(rows())
    assert agree(rows()[::-1]) == found
    assert agree(rows()) == found


def test_the_papers_numbers_stand_beside_ours():
    assert pair(agree(rows()), "fuzzing", "detection").paper == (0.73, 0.74)
    assert pair(agree(rows()), "fuzzing", "intruder").paper is None
    # Five scorers, ten pairs; the order of names is that of our pairs.
    assert len(PAPER) == 10
    assert {name for names in PAPER for name in names} <= set(HEADERS)
    every = [score_row(latent, name) for latent in (1, 2) for name in HEADERS]
    known = {(each.first, each.second) for each in agree(every).pairs if each.paper}
    assert known == set(PAPER)


def test_a_latent_counts_for_the_pairs_for_which_it_has_both_numbers():
    some = [row for row in rows() if row["scorer"] != "fuzzing" or row["latent"] < 7]
    some[0] = nothing_row(0)
    found = agree(some)
    assert pair(found, "fuzzing", "detection").n == 6
    assert pair(found, "detection", "intruder").n == 11
    # Latent 0 still has its fuzzing score.
    assert found.n_latents == 12


def test_explanations_of_one_explainer_only():
    other = {"explainer": "token_list", "explained_by": None, "explained_with": None}
    both = rows() + [
        score_row(latent, value=0.5, explanation_id=f"b2:tokens{latent}", **other)
        for latent in range(5)
    ]
    found = agree(both)
    assert (found.explainer, found.others) == ("llm", ("token_list",))
    assert found.pairs == agree(rows()).pairs
    chosen = agree(both, explainer="token_list")
    assert (chosen.explainer, chosen.n_latents, chosen.others) == ("token_list", 5, ("llm",))
    assert [(each.first, each.second) for each in chosen.pairs] == [("detection", "intruder")]
    with pytest.raises(UsageError, match="no raw scores of this explainer: token_lis") as caught:
        agree(both, explainer="token_lis")
    assert "`token_list`" in caught.value.hint


def test_one_latent_counts_once():
    again = [
        {**row, "explanation_id": f"b2:z{row['latent']}", "value": 0.1, "explained_with": "b2:new"}
        for row in rows(range(5))
        if row["explanation_id"]
    ]
    assert agree(rows() + again).pairs == agree(rows()).pairs
    # Another explanation in the same way, with fewer scores.
    more = [{**again[0], "explained_with": "b2:prompt", "explanation_id": "b2:a"}]
    assert agree(rows() + more).pairs == agree(rows()).pairs


def test_scores_of_a_latent_belong_to_the_same_windows():
    moved = [
        {**row, "example_set_id": "b2:elsewhere"} if row["scorer"] == "intruder" else row
        for row in rows()
    ]
    assert [(each.first, each.second) for each in agree(moved).pairs] == [("fuzzing", "detection")]


def test_latents_made_by_rule_and_other_variants_are_left_out():
    made = [score_row(-1 - latent, value=0.01) for latent in range(5)]
    relative = [score_row(latent, variant="relative", value=0.9) for latent in LATENTS]
    assert agree(rows() + made + relative) == agree(rows())
    found = agree(rows() + relative, "relative")
    assert (found.n_latents, found.pairs) == (12, ())
    assert agreement_head(found).endswith("scores of one kind only, and a correlation needs two")


def test_each_way_to_score_is_one_of_a_pair():
    ways = [
        intervention_row(latent, settings=json.dumps({"kl": kl}), value=kl * latent)
        for latent in LATENTS
        for kl in (0.1, 1.0)
    ]
    found = agree(rows() + ways)
    it = pair(found, "intervention", "intervention@kl=1")
    assert it.spearman.value == pytest.approx(1)
    assert base(it.second) == "intervention"


def test_too_few_latents_are_told_in_one_line():
    found = agree(rows(range(3)))
    assert all(math.isnan(each.spearman.value) for each in found.pairs)
    assert printed(found) == "explanations by llm: 3 latents, and a correlation needs 4\n"
    assert printed(agree([])) == "no raw scores of explanations\n"
    assert printed(agree([intruder_row(1)])) == "no raw scores of explanations\n"
    assert "1 latent, and" in printed(agree(rows([1])))


def test_the_table_has_a_line_for_each_pair():
    lines = printed(agree(rows())).splitlines()
    assert lines[0] == "explanations by llm, 12 latents, raw scores"
    assert lines[2].split() == ["pair", "n", "Spearman", "paper", "Pearson", "paper"]
    assert lines[3].split()[:4] == ["fuzzing", "–", "detection", "12"]
    assert lines[3].split()[-1] == ".74"
    assert lines[4].split()[-1] == "–"
    assert lines[-1].startswith("paper: arXiv 2410.13928")


def harmless(text: str) -> bool:
    return not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        for character in text
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_and_sends_nothing_but_text(width):
    down = [
        score_row(latent, name, value=float(-DETECTION[latent] + 0.1 * FOUND[latent]))
        for latent in LATENTS
        for name in HEADERS
        if name not in ("detection", "fuzzing", "intruder")
    ]
    evil = [
        score_row(latent, EVIL, settings=settings, value=0.01 * latent)
        for latent in LATENTS
        for settings in ("{}", json.dumps({EVIL: EVIL}))
    ]
    other = [score_row(1, explainer=EVIL)]
    out = printed(agree(rows() + down + evil + other), width)
    assert harmless(out)
    assert max(map(cell_len, out.splitlines())) <= width
    lines = printed(agree(rows() + down), width).splitlines()
    # No line is folded: 21 pairs, a head and its space, the names of columns, the source.
    assert len(lines) == 21 + 2 + 1 + 2
    head = agreement_head(
        agree([{**row, "explainer": row["explainer"] and EVIL} for row in rows()])
    )
    assert harmless(head)


def test_rows_for_machines_have_none_where_there_is_nothing():
    found = agreement_rows(agree(rows()))
    assert list(found[0]) == [
        "explainer", "variant", "first", "second", "n", "spearman", "spearman_low",
        "spearman_high", "spearman_paper", "pearson", "pearson_low", "pearson_high",
        "pearson_paper",
    ]  # fmt: skip
    assert found[0]["spearman_paper"] == 0.73
    assert found[1]["spearman_paper"] is None
    few = agreement_rows(agree(rows(range(3))))
    assert few[0]["spearman"] is None
    assert "NaN" not in json.dumps(few)
