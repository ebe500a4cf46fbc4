"""Rules do what they say; what is made of them is stored once; true beats half true beats false."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import tiny_study
from hypothesis import given
from hypothesis import strategies as some
from sqlite_utils import Database
from transformers import PreTrainedTokenizerFast

from lite_interp import analysis, oracles, scoring
from lite_interp.corpus import CorpusSettings, build_contexts, corpus_record
from lite_interp.db import caches, studies, trials
from lite_interp.db.caches import CacheInfo
from lite_interp.db.file import add, open_results
from lite_interp.documents import Skips, read_documents
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import SubjectError
from lite_interp.ids import content_id
from lite_interp.oracle_rules import (
    KINDS,
    RULES,
    Rule,
    activations,
    oracle_latent,
    rule_firings,
)
from lite_interp.prompts import Prompt
from lite_interp.records import Document
from lite_interp.samplers import DrawSettings
from lite_interp.score import SCORERS, Tools, find_scorer
from lite_interp.scoring import Judging, Wanted
from lite_interp.tokenizer import load_tokenizer
from lite_interp.tools import store_tools

RULE = {rule.name: rule for rule in RULES}
N_CTX = 32
BOS = "<he>"
"""A special token whose name holds a pronoun."""


def fired(rule: Rule, text: str) -> str:
    """What a rule fires on, when words and signs are tokens; tokens with ` ` between them."""
    tokens = re.findall(r"\s?\w+|\s?[^\w\s]|\s", text)
    assert "".join(tokens) == text
    values = activations(rule, tokens)
    assert values.dtype == np.float32 and set(values.tolist()) <= {0.0, 1.0}
    return " ".join(token.strip() for token, value in zip(tokens, values, strict=True) if value)


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("the", "The cat, then the other: THE theory of _the_ bathe", "The the THE _the_"),
        ("the", "", ""),
        ("the", "théâtre, the", "the"),
        ("digits", "In 1987, 3.14 of B52 and twelve; ٣", "1987 3 14 B52 ٣"),
        ("pronouns", "She saw hers; he'll tell them, not her. Hello", "She hers he them her"),
        ("pronouns", "I saw you and it, who is this, the she-wolf", "she"),
        ("quotes", "“So,” he said, \"it's « it » „so‟", "“ ” \" « » „"),
        ("quotes", "it's 'so' (not) `so`", ""),
        ("negation", "Not now; notable, no, nobody cannot knot none", "Not no nobody cannot none"),
        ("negation", "Don't, can’t, n't; ant, isn'tx", "Don ' t can ’ t n ' t"),
    ],
)  # fmt: skip
def test_rules_do_what_they_say(rule, text, found):
    if rule == "negation" and "Don" in text:
        # The word before n't ends in its n, so it is a part of it.
        assert fired(RULE[rule], text).split() == found.split()
    else:
        assert fired(RULE[rule], text) == found


@pytest.mark.parametrize(
    ("rule", "tokens", "values"),
    [
        ("the", (" t", "he", "ory"), (0, 0, 0)),
        ("the", (" t", "h", "e", " end"), (1, 1, 1, 0)),
        ("the", ("of the", "the"), (0, 0)),
        ("the", ("of the", " the"), (1, 1)),
        ("digits", ("19", "", "87", "", " 🐈", "7"), (1, 0, 1, 0, 0, 1)),
        ("quotes", ("", "", "“", "So", "", "”", "\ufffd"), (0, 0, 1, 0, 0, 1, 0)),
        ("quotes", ('."', "\n", '"'), (1, 0, 1)),
        ("negation", (" did", "n", "'t"), (0, 1, 1)),
        ("negation", (" didn", "'t", " n't"), (1, 1, 1)),
        ("pronouns", ("she", "\ud800", "her"), (1, 0, 1)),
        ("the", (), ()),
        ("the", ("", ""), (0, 0)),
    ],
)
def test_odd_tokens(rule, tokens, values):
    assert activations(RULE[rule], tokens).tolist() == list(values)


PIECES = [
    "the",
    "The",
    " the",
    "th",
    "e",
    "9",
    "٣",
    "she",
    "n",
    "'t",
    "n't",
    "“",
    '"',
    "",
    "_",
    "\n",
]
PIECES += [" ", "\u0301", "\u202e", "\x00", "\ud83d", "🐈", "\ufffd", "<s>", "no", "<<", "ſhe"]


def slow_activations(rule: Rule, tokens) -> list[float]:
    """Character by character."""
    text = "".join(tokens)
    held = [False] * len(text)
    for match in rule.pattern.finditer(text):
        for place in range(match.start(), match.end()):
            held[place] = True
    values, place = [], 0
    for token in tokens:
        values.append(float(any(held[place : place + len(token)])))
        place += len(token)
    return values


@given(some.lists(some.one_of(some.sampled_from(PIECES), some.text(max_size=3)), max_size=12))
def test_hostile_tokens_fire_as_in_a_slow_loop(tokens):
    for rule in RULES:
        assert activations(rule, tokens).tolist() == slow_activations(rule, tokens)


@pytest.mark.parametrize("text", ["the" * 50_000, "9" * 200_000, "n'" * 100_000, " the" * 50_000])
def test_long_hostile_texts_take_linear_time(text):
    """Ends at once; a pattern that went back over the text would take minutes."""
    for rule in RULES:
        activations(rule, [text])


def test_a_rule_that_was_released_never_changes():
    """The file knows a rule by its place. Add rules at the end, with a line of their own here."""
    names = [
        content_id([rule.name, rule.pattern.pattern, rule.pattern.flags, *rule.meanings])[3:11]
        for rule in RULES
    ]
    assert names == RELEASED
    assert [oracle_latent(number) for number in range(3)] == [-1, -2, -3]


RELEASED = ["17a5d909", "38593182", "ac1aaf15", "b0c2c119", "0ec590a5"]


def test_meanings_are_told_apart():
    texts = [text for rule in RULES for text in rule.meanings]
    assert len(set(texts)) == len(texts) == 4 * len(RULES)
    assert KINDS == ("true", "broader", "narrower", "false")


def test_rules_fire_neither_rarely_nor_everywhere_in_english():
    """On the shipped corpus, words and signs as tokens: about as many as a subject's."""
    path = Path(__file__).parent.parent / "models" / "demo" / "corpus.jsonl.zst"
    documents = read_documents([path], "text", Skips())
    tokens = [re.findall(r"\s?\w+|\s?[^\w\s]|\s", document.text) for document in documents]
    n_tokens = sum(map(len, tokens))
    for rule, firings in zip(RULES, rule_firings(RULES, tokens), strict=True):
        assert 0.002 < len(firings.values) / n_tokens < 0.055, rule.name


NARROWER = {
    "the": r"The\b",
    "digits": r"\b\d{4}\b",
    "pronouns": r"\bshe\b",
    "quotes": r'\?"',
    "negation": r"n't",
}
"""What the narrower explanations mean to the scripted engine, in the corpus below."""
MORE = {
    "the": r"\ba\b",
    "digits": r"\btwelve\b",
    "pronouns": r"\byou\b",
    "quotes": r"[.?]",
    "negation": r"\bbut\b",
}
"""What the broader ones mean beside what is true."""
SENTENCES = {
    "the": ("of the {}", "The {} of", "a {} of"),
    "digits": ("{} 31 of", "{} 1987 of", "twelve {} of"),
    "pronouns": ("{} saw him", "she saw {}", "you saw {}"),
    "quotes": ('"{}" or', 'saw {}?"', "saw {}. or"),
    "negation": ("not {} of", "didn't {} of", "but {} of"),
}
"""Rule → what it fires on, what the narrower explanation fits too, what only the broader does."""


def documents(n: int = 13) -> list[str]:
    """Of each sentence n, with words of their own that no rule fires on."""
    draw = np.random.default_rng(0)
    letters = list("bdfgklmpruo")
    words = ["".join(draw.choice(letters, draw.integers(4, 14))) for _ in range(n * 15)]
    sentences = [sentence for each in SENTENCES.values() for sentence in each]
    return [sentences[number % 15].format(word) for number, word in enumerate(words)]


class Case(NamedTuple):
    """A results file with a corpus and what stands for a cache of it."""

    path: Path
    subject: Path


def write_tokenizer(folder: Path) -> Path:
    backend = tiny.make_tokenizer()
    backend.add_special_tokens([BOS])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS)
    fast.save_pretrained(folder)
    return folder


def write_case(folder: Path, texts) -> Case:
    """Each text is one context of one window: BOS, the text, and spaces up to 32 tokens."""
    subject = write_tokenizer(folder / "subject")
    tokenizer = load_tokenizer(subject)
    padded = [text + " " * (N_CTX - 1 - len(tokenizer.encode(text))) for text in texts]
    settings = CorpusSettings(N_CTX, True, False, 0, 40)
    stream = build_contexts(
        (Document(str(number), text) for number, text in enumerate(padded)),
        tokenizer.encode_many,
        tokenizer.bos_id,
        settings,
        tokenizer.bos_id,
    )
    shards = list(stream)
    corpus = corpus_record("tiny", tokenizer.hash, stream.settings, stream.totals, 0)
    path = folder / "results.db"
    with open_results(path, create=True) as db:
        caches.store_corpus(db, corpus, shards)
        subject_row = {"id": "s", "name": "s", "architecture": "", "d_model": 8}
        add(db, "subjects", {**subject_row, "provenance": {"path": str(subject)}})
        coder = {"id": "c", "name": "c", "format": "", "hookpoint": "", "activation": "", "d_in": 8}
        add(db, "coders", {**coder, "n_latents": 4, "fit": {}, "provenance": {}})
        row = {"id": "b2:cache", "corpus_id": corpus.id, "subject_id": "s", "coder_id": "c"}
        add(db, "caches", {**row, "settings": {}, "n_counted": corpus.n_tokens})
    return Case(path, subject)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Case:
    """A case in which the oracles are written; tests read it."""
    case = write_case(tmp_path_factory.mktemp("oracles"), documents())
    told = write(case)
    assert told.totals == {"rule-made latents": len(RULES)} and not told.lines
    return case


TABLES = ("example_sets", "windows", "example_set_windows", "explanations")
SETTINGS = DrawSettings(width=N_CTX, n_shown=1, n_active=10, n_silent=12)


def write(case: Case, subject: str = "", told=None):
    told = told or tiny_study.Told()
    with open_results(case.path) as db:
        oracles.write_oracles(db, the_cache(db), subject, told, SETTINGS)
    return told


def the_cache(db: Database) -> CacheInfo:
    return caches.the_cache(db)


def test_windows_hold_what_a_slow_loop_finds(written):
    tokenizer = load_tokenizer(written.subject)
    with open_results(written.path) as db:
        cache = the_cache(db)
        lengths, token_ids = caches.load_tokens(db, cache.corpus)
        found = {each.latent: each for each in studies.load_explanations(db, cache.id)}
        assert set(found) == {oracle_latent(number) for number in range(len(RULES))}
        for number, rule in enumerate(RULES):
            name = found[oracle_latent(number)].example_set_id
            examples = studies.load_example_set(db, name)
            assert len(examples.shown) == 1
            active = [placed for placed in examples.scored if placed.window.peak > 0]
            assert (len(active), len(examples.scored)) == (10, 22)
            for window, _, _ in (*examples.shown, *examples.scored):
                ids = token_ids[window.context, : lengths[window.context]].tolist()
                texts = list(tokenizer.texts(ids))
                assert texts[0] == BOS == window.tokens[0] and len(texts) == N_CTX
                values = slow_activations(rule, ["\n", *texts[1:]])
                assert window.values.tolist() == values


def test_firings_of_all_contexts_equal_a_slow_loop():
    contexts = [["the", " cat"], [], ["no", " the", "9"], ["", "a"], ["he", "\n", "she"]]
    for rule, firings in zip(RULES, rule_firings(RULES, contexts), strict=True):
        slow = [
            (context, position, 1.0)
            for context, tokens in enumerate(contexts)
            for position, value in enumerate(slow_activations(rule, tokens))
            if value
        ]
        fast = zip(firings.contexts, firings.positions, firings.values, strict=True)
        assert [tuple(map(float, each)) for each in fast] == slow
        kinds = [each.dtype for each in (firings.contexts, firings.positions, firings.values)]
        assert kinds == [np.int32, np.int32, np.float32]


def test_every_rule_has_four_explanations(written):
    with open_results(written.path) as db:
        explanations = studies.load_explanations(db, the_cache(db).id)
    assert len(explanations) == 4 * len(RULES)
    for each in explanations:
        rule = RULES[-each.latent - 1]
        assert each.text == each.raw == getattr(rule.meanings, each.settings["kind"])
        assert (each.explainer, each.prompt_id, each.engine_id) == ("oracle", None, None)
        question = ["oracle", each.example_set_id, each.settings["kind"], each.text]
        assert each.id == content_id(question)


ABLE = [name for name, scorer in SCORERS.items() if not scorer.steers]


@pytest.mark.parametrize("name", ABLE)
def test_scorers_find_items_in_windows_of_rules(written, name):
    scorer = SCORERS[name]
    with open_results(written.path) as db:
        for latent in map(oracle_latent, range(len(RULES))):
            examples = next(
                studies.load_example_set(db, each.example_set_id)
                for each in studies.load_explanations(db, the_cache(db).id)
                if each.latent == latent
            )
            assert len(scorer.items(examples, scorer.settings, None)) >= 4, latent


def test_the_same_corpus_gives_the_same_ids_and_a_second_call_adds_nothing(written, tmp_path):
    other = write_case(tmp_path, documents())
    write(other)
    before = tiny_study.dump(other.path, *TABLES)
    assert before == tiny_study.dump(written.path, *TABLES)
    told = write(other, subject=str(tmp_path / "nowhere"))
    assert (told.totals, told.lines) == ({}, [])
    assert tiny_study.dump(other.path, *TABLES) == before


def test_interrupted_it_goes_on_with_the_rules_that_are_left(written, tmp_path, monkeypatch):
    case = write_case(tmp_path, documents())
    with pytest.raises(KeyboardInterrupt):
        write(case, told=tiny_study.Told(stop_after=2))
    real = studies.store_explanations
    monkeypatch.setattr(studies, "store_explanations", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(case)
    with open_results(case.path) as db:
        assert studies.count(db, "example_sets") == 2
        assert studies.count(db, "explanations") == 8
    monkeypatch.setattr(studies, "store_explanations", real)
    assert write(case).totals == {"rule-made latents": len(RULES) - 2}
    assert tiny_study.dump(case.path, *TABLES) == tiny_study.dump(written.path, *TABLES)


def _interrupted(*_):
    raise KeyboardInterrupt


def test_a_subject_that_has_moved_and_another_one(tmp_path):
    case = write_case(tmp_path, documents())
    moved = case.subject.rename(tmp_path / "moved")
    other = tiny.write_tokenizer(tmp_path / "other")
    with pytest.raises(SubjectError, match="another tokenizer"):
        write(case, subject=str(other))
    assert write(case, subject=str(moved)).totals == {"rule-made latents": len(RULES)}


def test_a_rule_with_too_few_windows_is_judged_by_nobody(tmp_path):
    texts = [text for text in documents() if not re.search(r"\d|not|n't", text)]
    case = write_case(tmp_path, [*texts, "fog 7 of", "fog 8 of"])
    told = write(case)
    assert told.lines == ["too few windows to judge the rule-made latents: digits, negation"]
    with open_results(case.path) as db:
        found = studies.load_explanations(db, the_cache(db).id)
    failed = {each.latent for each in found if each.text is None}
    assert failed == {each.latent for each in found if each.failure == "no_windows"} == {-2, -5}
    assert write(case).totals == {}


def knows(text: str) -> dict[str, float]:
    """A judge who knows what the explanations mean, to the letter."""
    (explanation,) = re.findall(r"Feature: (.*)", text)
    (shown,) = re.findall(r"Text: (.*?)<\|end\|>", text, re.DOTALL)
    shown = shown.replace(BOS, "")
    (rule, kind) = next(
        (rule, kind)
        for rule in RULES
        for kind, told in rule.meanings._asdict().items()
        if told == explanation
    )
    true = bool(rule.pattern.search(shown))
    yes = {
        "true": true,
        "broader": true or bool(re.search(MORE[rule.name], shown)),
        "narrower": bool(re.search(NARROWER[rule.name], shown)),
        "false": False,
    }[kind]
    return {"Yes": 2.0, "No": 0.0} if yes else {"Yes": 0.0, "No": 2.0}


PROMPT = Prompt.model_validate(
    {
        "name": "test",
        "description": "Plain.",
        "messages": [{"role": "user", "text": "Feature: $explanation\n\nText: $window"}],
    }
)


def judged_rows(case: Case, engine) -> list[dict]:
    """Scores of the oracles by detection."""
    tools = Tools(engine=engine, prompt=PROMPT)
    with open_results(case.path) as db:
        cache = the_cache(db)
        found = studies.load_explanations(db, cache.id)
        wanted = Wanted(found, found, find_scorer("detection"), tools, Judging())
        work = scoring.pending_trials(db, wanted)
        assert len(work) == len(found)
        store_tools(db, tools)
        for _ in scoring.write_trials(db, work, wanted):
            pass
        analysis.write_scores(db, cache.id)
        return trials.load_scores(db, cache.id)


def test_a_judge_who_knows_puts_true_first_and_false_last(tmp_path):
    case = write_case(tmp_path, documents())
    write(case)
    rows = judged_rows(case, ScriptedEngine(judge=knows))
    found = oracles.ceilings(rows)
    (raw,) = [each for each in found if each.variant == "raw" and each.statistic == "auroc"]
    assert (raw.scorer, raw.n_rules, raw.ordered) == ("detection", len(RULES), True)
    assert (raw.true, raw.false) == (1.0, 0.5)
    for number in range(len(RULES)):
        of_one = oracles.ceilings(row for row in rows if row["latent"] == oracle_latent(number))
        (each,) = [each for each in of_one if each.variant == "raw"]
        # Of one rule no silent window may have been drawn that the broader one wrongly fits.
        assert each.true >= each.broader > each.narrower > each.false, RULES[number].name
    lines = oracles.ceiling_lines(found)
    assert len(lines) == 1 + len(found)
    assert any("true 1.000" in line and "false 0.500" in line for line in lines)


def row(latent: int, kind: str | None, value: float | None, **changes):
    """A score as the file gives it."""
    own = None if kind is None else f'{{"kind":"{kind}"}}'
    name = None if kind is None else f"{latent}{kind}"
    judge = {"scorer": "detection", "settings": "{}", "model_id": "b2:0123456789"}
    made = {"variant": "raw", "statistic": "auroc", "explanation_id": name, "latent": latent}
    return {**judge, **made, "explained_settings": own, "value": value, **changes}


def rows_of(latent: int, *values, **changes):
    return [row(latent, kind, value, **changes) for kind, value in zip(KINDS, values, strict=True)]


def test_ceilings_are_means_over_whole_rules():
    rows = [
        *rows_of(-1, 0.9, 0.8, 0.7, 0.5),
        *rows_of(-2, 1.0, 0.6, 0.9, 0.4),
        *rows_of(-3, 0.1, None, 0.1, 0.1),
        row(7, "true", 0.0),
        row(7, None, 0.0),
    ]
    (found,) = oracles.ceilings(rows)
    means = (found.true, found.broader, found.narrower, found.false)
    assert means == pytest.approx((0.95, 0.7, 0.8, 0.45))
    assert (found.n_rules, found.ordered) == (2, True)
    assert oracles.ceiling_lines([found])[1:] == [
        "  detection raw auroc, 2 latents: true 0.950, broader 0.700, narrower 0.800, false 0.450"
    ]


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ((0.9, 0.8, 0.7, 0.6), True),
        ((0.8, 0.8, 0.7, 0.6), False),
        ((0.8, 0.7, 0.9, 0.6), False),
        ((0.9, 0.6, 0.7, 0.6), False),
        ((0.9, 0.7, 0.5, 0.6), False),
    ],
)
def test_order_of_truth(values, ordered):
    (found,) = oracles.ceilings(rows_of(-1, *values))
    assert found.ordered is ordered
    assert ("not in the order" in oracles.ceiling_lines([found])[1]) is not ordered


def test_judges_and_readings_are_kept_apart():
    rows = [
        *rows_of(-1, 0.9, 0.8, 0.7, 0.6),
        *rows_of(-1, 0.8, 0.8, 0.7, 0.6, variant="relative"),
        *rows_of(-1, 0.7, 0.8, 0.7, 0.6, model_id="b2:9999999999"),
        *rows_of(-1, 0.6, 0.8, 0.7, 0.6, settings='{"list":\u202e5}'),
    ]
    found = oracles.ceilings(rows)
    assert [each.true for each in found] == [0.9, 0.8, 0.7, 0.6]
    lines = oracles.ceiling_lines(found)
    assert len(set(lines)) == 5 and "by 99999999" in lines[3]
    assert not re.search("[\u202e\x1b\n]", "".join(lines))


def test_a_scorer_without_explanations_has_a_ceiling_too():
    rows = [row(-1, None, 0.9, scorer="intruder"), row(-2, None, 0.7, scorer="intruder")]
    (found,) = oracles.ceilings(rows)
    assert (found.n_rules, found.true) == (2, pytest.approx(0.8))
    assert found.broader is found.narrower is found.false is found.ordered is None
    assert oracles.ceiling_lines([found])[1:] == [
        "  intruder raw auroc, 2 latents: 0.800, asked without any"
    ]


def test_nothing_judged_nothing_said():
    assert oracles.ceilings([row(3, "true", 1.0), row(-1, "true", None)]) == []
    assert oracles.ceiling_lines([]) == []
