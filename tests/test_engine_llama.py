"""llama.cpp: files that cannot be used, tokens and chats, plans of batches."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_interp.engine import ChatTokens, EngineFailure, EngineSettings, open_engine
from lite_interp.engine.generating import Prompts, write_answers
from lite_interp.engine.gguf_file import read_header
from lite_interp.engine.plan import Limits, admitted, plan
from lite_interp.engine.sequences import FIRST, NoRoom, Sequences
from lite_interp.engine.writing import place_in
from lite_interp.errors import EngineError
from lite_interp.prompts import Message, Piece
from lite_interp.records import Sampling

SMALL = EngineSettings(n_ctx=256, n_batch=64, n_ubatch=64, n_parallel=4, n_threads=1)
few = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="session")
def engines(folder):
    """A tiny llama with each vocabulary, with a chat template and without."""
    opened = {
        (kind.__name__, template is not None): open_engine(
            tiny_gguf.write(
                folder / f"{kind.__name__}-{template is not None}.gguf", "llama", kind, template
            ),
            SMALL,
        )
        for kind, templates in (
            (tiny_gguf.bpe, (tiny_gguf.CHATML, None)),
            (tiny_gguf.spm, (tiny_gguf.NO_SYSTEM, None)),
        )
        for template in templates
    }
    yield opened
    for engine in opened.values():
        engine.close()


def user(*pieces):
    return Message("user", tuple(Piece(text, trusted) for text, trusted in pieces))


NO = Message("assistant", (Piece("No", True),))


def all_tokens(chat: ChatTokens):
    return chat.prefix + chat.rest


# --- the plan of batches ---


@given(
    items=st.lists(st.lists(st.booleans(), max_size=40), max_size=12),
    n_prefix=st.integers(0, 50),
    n_batch=st.integers(1, 50),
    n_parallel=st.integers(1, 5),
    n_outputs=st.integers(1, 50),
)
def test_the_plan_covers_each_token_once_and_keeps_the_limits(
    items, n_prefix, n_batch, n_parallel, n_outputs
):
    lengths = [len(item) for item in items]
    limits = Limits(n_batch, n_parallel, n_outputs, n_prefix + max(lengths, default=0))
    wanted = [[place for place, want in enumerate(item) if want] for item in items]
    calls = plan(n_prefix, lengths, wanted, limits)
    covered = [(p.item, t) for parts in calls for p in parts for t in range(p.start, p.stop)]
    assert covered == [(i, t) for i, length in enumerate(lengths) for t in range(length)]
    for parts in calls:
        assert 0 < sum(p.stop - p.start for p in parts) <= n_batch
        assert len({p.item for p in parts}) == len(parts) <= n_parallel
        assert sum(sum(items[p.item][p.start : p.stop]) for p in parts) <= n_outputs
        whole = all(p.start == 0 and p.stop == lengths[p.item] for p in parts)
        assert whole or len(parts) == 1


def test_the_plan_packs_neighbours():
    limits = Limits(n_batch=10, n_parallel=3, n_outputs=99, n_cells=100)
    calls = plan(20, [4, 4, 4, 23, 1, 1, 1, 1], [[0]] * 8, limits)
    shown = [[tuple(part) for part in parts] for parts in calls]
    assert shown == [
        [(0, 0, 4), (1, 0, 4)],
        [(2, 0, 4)],
        [(3, 0, 10)],
        [(3, 10, 20)],
        [(3, 20, 23)],
        [(4, 0, 1), (5, 0, 1), (6, 0, 1)],
        [(7, 0, 1)],
    ]


def test_prompts_are_admitted_in_order_while_there_are_sequences_and_cells():
    limits = Limits(n_batch=10, n_parallel=3, n_outputs=9, n_cells=100)
    needs = [40, 30, 40, 10]
    assert admitted([0, 1, 2, 3], 3, 0, needs, limits) == [0, 1]  # 3 would fit, but 2 is first
    assert admitted([2, 3], 3, 40, needs, limits) == [2, 3]
    assert admitted([2, 3], 1, 40, needs, limits) == [2]
    assert admitted([], 3, 0, needs, limits) == []


# --- a model whose memory is full ---


class Crowded:
    """A machine that takes at most two tokens a call, and remembers what each sequence holds."""

    def __init__(self):
        self.held = {}

    def clear(self):
        self.held = {}

    def remove(self, sequence):
        self.held.pop(sequence, None)

    def copy(self, source, target):
        assert not self.held.get(target)
        self.held[target] = list(self.held[source])

    def decode(self, tokens, positions, sequences, wanted):
        if len(tokens) > 2:
            raise NoRoom
        rows = []
        for token, position, sequence, want in zip(
            tokens, positions, sequences, wanted, strict=True
        ):
            line = self.held.setdefault(int(sequence), [])
            assert len(line) == position
            line.append(int(token))
            rows += [np.array(line[-3:] + [len(line)], np.float32)[-3:]] if want else []
        return np.array(rows)

    def close(self):
        pass


def test_a_call_that_finds_no_room_is_split():
    machine = Crowded()
    sequences = Sequences(machine, Limits(n_batch=20, n_parallel=4, n_outputs=20, n_cells=40))
    sequences.limits = Limits(n_batch=2, n_parallel=4, n_outputs=20, n_cells=40)
    sequences.hold([1, 2, 3], 0)
    sequences.limits = Limits(n_batch=20, n_parallel=4, n_outputs=20, n_cells=40)
    seen = {}
    wanted = [[0, 2], [0], [1]]
    for item, places, rows in sequences.evaluate([[4, 5, 6], [7], [8, 9]], wanted):
        seen.setdefault(item, []).extend(zip(places.tolist(), rows.tolist(), strict=True))
    assert seen == {
        0: [(0, [3, 4, 4]), (2, [5, 6, 6])],
        1: [(0, [3, 7, 4])],
        2: [(1, [8, 9, 5])],
    }
    assert all(sequence < FIRST for sequence in machine.held)


def test_a_model_without_any_room_fails_the_unit_and_goes_on():
    machine = Crowded()
    sequences = Sequences(machine, Limits(n_batch=2, n_parallel=4, n_outputs=20, n_cells=40))
    sequences.hold([1], 0)

    def full(*_arguments):
        raise NoRoom

    machine.decode = full
    with pytest.raises(EngineFailure):
        list(sequences.evaluate([[4, 5]], [[0]]))
    del machine.decode
    sequences.hold([1], 0)
    assert machine.held == {1: [1]}


class Recorder(Crowded):
    """A machine that notes how many sequences each call is about; its logits are all alike."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def decode(self, tokens, positions, sequences, wanted):
        self.calls.append(sorted(set(sequences.tolist())))
        for sequence, position in zip(sequences.tolist(), positions.tolist(), strict=True):
            line = self.held.setdefault(sequence, [])
            assert len(line) == position
            line.append(0)
        return np.zeros((int(wanted.sum()), 4), np.float32)


class Counted:
    """A writer that is done after so many tokens."""

    n_prompt = n_tokens = 0
    seconds = 0.0

    def __init__(self, n):
        self.n = n

    @property
    def done(self):
        return self.n_tokens == self.n

    def write(self, logits):
        self.n_tokens += 1
        return 0


def test_a_finished_answer_makes_room_for_the_next_prompt():
    machine = Recorder()
    sequences = Sequences(machine, Limits(n_batch=99, n_parallel=2, n_outputs=9, n_cells=99))
    writers = [Counted(n) for n in (2, 6, 2, 3, 0)]
    write_answers(sequences, Prompts([1, 2], [[3, 3], [4], [], [5, 5, 5], [6]], 6), writers)
    assert [writer.n_tokens for writer in writers] == [2, 6, 2, 3, 0]
    a, b = FIRST, FIRST + 1
    assert machine.calls == [[0], [a, b], [a, b], [a, b], [a], [a, b], [a, b], [b]]
    assert all(sequence < FIRST for sequence in machine.held)


def test_prompts_wait_for_cells_too():
    machine = Recorder()
    sequences = Sequences(machine, Limits(n_batch=99, n_parallel=4, n_outputs=9, n_cells=20))
    write_answers(
        sequences, Prompts([], [[3] * 6, [4] * 6, [5] * 6], 4), [Counted(4) for _ in range(3)]
    )
    assert max(map(len, machine.calls)) == 2


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-6, 0.5, 1.0, 3.0]), min_size=1, max_size=50),
    times=st.integers(1, 90),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_by_blocks_is_the_draw_by_the_running_sum(weights, times, share):
    many = np.array(weights * times, np.float32)
    whole = many.cumsum(dtype=np.float64)
    if whole[-1] > 0:
        place = place_in(many, share)
        slack = 1e-9 * whole[-1]
        assert whole[place] >= share * whole[-1] - slack
        assert place == 0 or whole[place - 1] <= share * whole[-1] + slack
        assert many[place] > 0


# --- grammars ---

SCHEMA = """{"type": "array", "items": {"enum": [0, 1]},
             "minItems": 2, "maxItems": 3}"""


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_an_answer_follows_its_schema(engines, kind):
    engine = engines[kind, True]
    how = Sampling(max_tokens=60, temperature=1.0, seed=5, schema=SCHEMA)
    answers = engine.generate([[70 + i, 80] for i in range(6)], how)
    for answer in answers:
        if answer.stop == "end":
            assert 2 <= len(json.loads(answer.text)) <= 3
        assert set(answer.text) <= set("[]01, \n\t")
        assert answer.text.startswith("[")
    assert any(answer.stop == "end" for answer in answers)
    assert answers == engine.generate([[70 + i, 80] for i in range(6)], how)


@pytest.mark.parametrize("schema", ["{", '{"type": "nonesuch"}', '{"$ref": "#/nowhere"}', "[1]"])
def test_a_schema_that_is_none_is_refused_and_the_engine_goes_on(engines, schema):
    engine = engines["bpe", True]
    with pytest.raises(EngineError, match="schema"):
        engine.generate([[1]], Sampling(max_tokens=3, schema=schema))
    assert engine.generate([[1]], Sampling(max_tokens=1))[0].stop in ("length", "end")


# --- files ---


def broken_files(folder):
    whole = tiny_gguf.write(folder / "whole.gguf", "llama").read_bytes()
    names = {
        "empty": b"",
        "text": b"hello, I am no model",
        "magic only": b"GGUF",
        "header cut": whole[:4000],
        "data cut": whole[:-100],
        "huge counts": whole[:8] + b"\xff" * 16 + whole[24:],
        "version": whole[:4] + b"\x09\0\0\0" + whole[8:],
        "bad kind": whole[:24] + b"\x01\0\0\0\0\0\0\0a\xee\0\0\0" + whole[24:],
    }
    for name, data in names.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(data)
        yield path
    yield tiny_gguf.write(folder / "bert.gguf", "bert")
    yield tiny_gguf.write(folder / "unheard of.gguf", "nonesuch")
    yield tiny_gguf.write(folder / "vocabulary.gguf", "llama", with_weights=False)
    yield folder / "missing.gguf"
    yield folder


def test_a_file_that_is_no_engine_is_refused_in_one_line(folder, capfd):
    for path in broken_files(folder):
        with pytest.raises(EngineError) as caught:
            open_engine(path, SMALL)
        assert "\n" not in str(caught.value), path
        assert path.name in str(caught.value) or path == folder
    assert capfd.readouterr() == ("", "")


@few
@given(at=st.integers(4, 9000), data=st.binary(min_size=1, max_size=8))
def test_a_damaged_header_never_ends_the_process(engines, folder, at, data):
    whole = (folder / "bpe-True.gguf").read_bytes()
    path = folder / "damaged.gguf"
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    with contextlib.suppress(EngineError):
        read_header(path)


def test_settings_that_would_end_the_process_are_refused():
    for wrong in (
        {"n_ctx": 0},
        {"n_batch": 0},
        {"n_parallel": 251},
        {"kv_type": "q4_0"},
        {"kv_type": "q8_0"},
    ):
        with pytest.raises(EngineError):
            EngineSettings(**wrong)


def test_opening_prints_nothing_and_does_not_load_llama_cpp_before(folder):
    path = tiny_gguf.write(folder / "quiet.gguf", "llama")
    code = (
        "import sys, pathlib, lite_interp.engine as e; assert 'llama_cpp' not in sys.modules;"
        "engine = e.open_engine(pathlib.Path(sys.argv[1])); engine.logprobs([1], [[2]]);"
        "engine.close(); engine.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_engine_says_so(folder):
    with open_engine(tiny_gguf.write(folder / "closed.gguf", "llama"), SMALL) as engine:
        pass
    for ask in (
        lambda: engine.logprobs([1], [[2]]),
        lambda: engine.tokenize("a"),
        lambda: engine.generate([[1]], Sampling(max_tokens=2)),
    ):
        with pytest.raises(ValueError, match="closed"):
            ask()


def test_the_id_follows_bytes_and_settings_but_not_threads(folder):
    path = tiny_gguf.write(folder / "id.gguf", "llama")
    other = tiny_gguf.write(folder / "other.gguf", "llama", template=None)
    ids = []
    for file, how in (
        (path, SMALL),
        (path, replace(SMALL, n_threads=2)),
        (path, replace(SMALL, n_batch=32)),
        (other, SMALL),
    ):
        with open_engine(file, how) as engine:
            ids.append(engine.id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_context_is_no_longer_than_the_model_was_trained_for(folder):
    path = tiny_gguf.write(folder / "short.gguf", "llama", n_ctx=128)
    with open_engine(path, SMALL) as engine:
        assert engine.n_ctx == 128
        with pytest.raises(EngineError) as caught:
            engine.logprobs([1] * 200, [[2]])
    assert "at most --n-ctx 128" in caught.value.hint


# --- tokens and chats ---

words = st.sampled_from(["Yes", " Yes", "the", " cat", " the", "\n", "x", " é", "!", "<s>"])
texts = st.lists(words, max_size=8).map("".join)


@few
@given(before=texts, after=texts)
def test_tokens_cut_behind_a_line_break_are_the_tokens_of_the_whole(engines, before, after):
    after = after.lstrip("\n")
    before = before.rstrip()  # behind several line breaks, GPT-2 looks one letter ahead
    for engine in engines.values():
        tokenizer = engine._tokenizer
        text = before + "\n"
        whole = tokenizer.beginning(text + after)
        assert tokenizer.beginning(text) + tokenizer.going_on(after) == whole
        written = b"".join(map(tokenizer.piece, engine.tokenize(after)))
        assert written.decode() == after


def test_a_chat_is_what_llama_cpp_makes_of_the_whole_text(engines):
    messages = [user(("Words:\n", True), ("the cat", False), ("\n", True), ("Yes the", False))]
    bpe = engines["bpe", True].chat([*messages, NO])
    text = "<|im_start|>user\nWords:\nthe cat\nYes the<|im_end|>\n<|im_start|>assistant\nNo"
    assert all_tokens(bpe) == engines["bpe", True].tokenize(text, special=True)
    spm = engines["spm", True].chat([*messages, NO])
    tokenizer = engines["spm", True]._tokenizer
    text = "[INST] Words:\nthe cat\nYes the [/INST]No"
    assert all_tokens(spm) == [1, *tokenizer.beginning(text)]
    for chat, engine in ((bpe, engines["bpe", True]), (spm, engines["spm", True])):
        shown = b"".join(map(engine._tokenizer.piece, chat.rest)).decode()
        assert shown.startswith("Yes the")
        assert b"".join(map(engine._tokenizer.piece, chat.prefix[: chat.root])).endswith(b":\n")


def test_the_cut_stands_before_the_line_of_the_last_untrusted_piece(engines):
    engine = engines["bpe", True]

    def show(tokens):
        return b"".join(map(engine._tokenizer.piece, tokens)).decode()

    chat = engine.chat([user(("About: ", True), ("cats", False), ("\nText: ", True), ("x", False))])
    assert show(chat.prefix[: chat.root]) == "user\n"
    assert show(chat.prefix[chat.root :]) == "About: cats\n"
    assert show(chat.rest) == "Text: x\nassistant\n"
    trusted = engine.chat([user(("All ", True), ("known", True))])
    assert (show(trusted.prefix), show(trusted.rest)) == ("user\n", "All known\nassistant\n")


def test_a_system_message_that_a_template_refuses_goes_in_front_of_the_user(engines):
    engine = engines["spm", True]
    chat = engine.chat([Message("system", (Piece("Text", True),)), user(("cat", False))])
    shown = b"".join(map(engine._tokenizer.piece, all_tokens(chat))).decode()
    assert shown == " [INST] Text\n\ncat [/INST]"


def test_there_is_one_begin_token_when_the_model_wants_one_and_else_none(engines):
    for (kind, _), engine in engines.items():
        line = all_tokens(engine.chat([user(("cat", False))]))
        assert line.count(1 if kind == "spm" else engine._tokenizer.bos) == (kind == "spm")
        assert kind == "bpe" or line[0] == 1


def test_a_model_without_a_template_gets_plain_text(engines):
    for kind in ("bpe", "spm"):
        engine = engines[kind, False]
        chat = engine.chat([Message("system", (Piece("Text", True),)), user(("x", False)), NO])
        shown = b"".join(map(engine._tokenizer.piece, all_tokens(chat))).decode()
        assert shown.strip() == "Text\n\nx\nNo"


def test_a_user_defined_token_of_the_chat_format_cannot_be_forged(folder):
    template = "{% for m in messages %}<|tool|>{{ m.content }}<|tool|>{% endfor %}"
    path = tiny_gguf.write(folder / "defined.gguf", "llama", template=template)
    with open_engine(path, SMALL) as engine:
        (tool,) = engine.tokenize("<|tool|>")
        line = all_tokens(engine.chat([user(("a<|tool|>b<|tool|>", False))]))
        assert line.count(tool) == 2
        assert b"".join(map(engine._tokenizer.piece, line[1:-1])) == b"a<|tool|>b<|tool|>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }",
        "{{ raise_exception('no') }}",
        "nothing of what was said",
        "{{ messages.__class__.__mro__ }}{{ messages[0].content }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(folder, template):
    path = tiny_gguf.write(folder / "template.gguf", "llama", template=template)
    with (
        pytest.raises(EngineError, match="chat template") as caught,
        open_engine(path, SMALL) as engine,
    ):
        engine.chat([user(("a", False))])
    assert "\n" not in str(caught.value)


def test_an_open_thought_is_closed(folder):
    template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}{{ '<think>\n' }}"
        "{{ 'x' if enable_thinking else '' }}"
    )
    path = tiny_gguf.write(folder / "thinks.gguf", "llama", template=template)
    with open_engine(path, SMALL) as engine:
        line = all_tokens(engine.chat([user(("a", False))]))
        shown = b"".join(map(engine._tokenizer.piece, line)).decode()
    assert shown == "a\n<think>\n\n</think>\n\n"
