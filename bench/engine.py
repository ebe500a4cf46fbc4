"""How near the engine comes to llama.cpp's raw speed, and to itself.

    python bench/engine.py --model NAME [--json]

One process, one run; the last line is JSON. What is compared is measured in turns, because a
machine's speed wanders; a ratio is the median over the turns.

    judge_tokens_ratio   tokens evaluated for each judged window / tokens of the window and of what
                         stands behind it, 40 windows a unit, the kept root left out; `_first`
                         counts the root too, as in the first unit of a run
    judge_speed_ratio    tokens/s while judging (chat format, batches, log-softmax and all) /
                         tokens/s of one plain prompt of n_batch tokens, same batch and threads
    generate_speedup     tokens/s written with 16 prompts at once / one at a time
    self_consistency     greatest difference of a margin, nats: packed / one by one, and a run /
                         one that was stopped and went on
    peak_rss_mb          peak of resident memory, MiB
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zstandard

from lite_interp.engine import EngineSettings, open_engine
from lite_interp.engine.batched import BatchedEngine
from lite_interp.fetch import model_path
from lite_interp.prompts import load_prompt
from lite_interp.records import Sampling, Window
from lite_interp.score import Item, Tools, find_scorer
from lite_interp.score.detection import ask

CORPUS = Path(__file__).parent.parent / "models" / "demo" / "corpus.jsonl.zst"
EXPLANATIONS = (
    "names of animals that live in water",
    "the past tense of verbs that tell of moving from one place to another",
    "numbers and dates",
    "words that say how certain someone is",
)
N_WINDOWS, WIDTH, N_PROMPTS, N_NEW = 40, 32, 16, 32


def texts(engine: BatchedEngine, n: int) -> Iterator[str]:
    """Texts of WIDTH tokens each, from the shipped corpus."""
    with zstandard.open(CORPUS, "rt", encoding="utf-8") as lines:
        for line in lines:
            tokens = engine.tokenize(json.loads(line)["text"])[: 10 * WIDTH]
            for start in range(0, len(tokens) - WIDTH + 1, WIDTH):
                pieces = [engine._tokenizer.piece(token) for token in tokens[start:][:WIDTH]]
                yield b"".join(pieces).decode("utf-8", "replace")
                n -= 1
                if not n:
                    return


def window(text: str) -> Window:
    """A window of one text, for the scorer."""
    return Window(text, 0, 0, 0, (text,), np.zeros(1, np.float32))


def rate(count: Callable[[], int], act: Callable[[], object]) -> float:
    """What is counted, for each second that the act takes."""
    before, started = count(), time.perf_counter()
    act()
    return (count() - before) / (time.perf_counter() - started)


def raw_speed(engine: BatchedEngine) -> float:
    """Tokens/s of one plain prompt of n_batch tokens, straight through the model."""
    machine = engine._sequences._machine
    n = engine._sequences.limits.n_batch
    engine._sequences.reset()
    tokens = np.random.default_rng(0).integers(100, 20_000, n).astype(np.int32)
    wanted = np.zeros(n, np.int8)
    wanted[-1] = 1
    started = time.perf_counter()
    machine.decode(tokens, np.arange(n, dtype=np.int32), np.zeros(n, np.int32), wanted)
    speed = n / (time.perf_counter() - started)
    engine._sequences.reset()
    return speed


class Bench:
    """The measurements, over one open engine."""

    def __init__(self, engine: BatchedEngine, rounds: int) -> None:
        """Take the same windows, prompt and explanations every time."""
        self.engine, self.rounds = engine, rounds
        self.prompt = load_prompt("score/detection")
        self.windows = [window(text) for text in texts(engine, N_WINDOWS)]
        self.tools = Tools(engine=engine, prompt=self.prompt)
        self.scorer = find_scorer("detection")

    def judge(self, number: int, some: slice = slice(None)) -> list[float]:
        """Margins of the windows for one explanation, nats."""
        items = [Item(each, False, "", 1.0) for each in self.windows[some]]
        told = EXPLANATIONS[number]
        found = self.scorer.score(told, items, self.tools, self.scorer.settings)
        return [float("nan") if each.value is None else each.value for each in found]

    def tokens(self) -> dict[str, float]:
        """Tokens for each window, and how many of them are the window and what follows it."""
        engine = self.engine
        chats = [engine.chat(ask(EXPLANATIONS[0], each, self.prompt)) for each in self.windows]
        least = sum(len(chat.rest) for chat in chats)
        engine._sequences.reset()
        before = engine.n_evaluated
        self.judge(0)
        first = engine.n_evaluated - before
        self.judge(1)
        second = engine.n_evaluated - before - first
        return {
            "window_and_question_tokens": round(least / N_WINDOWS, 2),
            "judge_tokens_ratio": round(second / least, 3),
            "judge_tokens_ratio_first": round(first / least, 3),
        }

    def speed(self) -> dict[str, object]:
        """Judging against the plain prompt, in turns."""
        engine = self.engine
        raw_speed(engine)
        self.judge(0)
        judged, raw = [], []
        for number in range(self.rounds):
            raw.append(raw_speed(engine))
            self.judge(0, slice(1))  # the root is kept from here on, as in a run
            judged.append(
                rate(
                    lambda: engine.n_evaluated,
                    lambda number=number: self.judge(1 + number % 3),
                )
            )
        raw.append(raw_speed(engine))
        # Each turn of judging stands between two of the other.
        ratios = [j / ((a + b) / 2) for j, a, b in zip(judged, raw, raw[1:], strict=False)]
        return {
            "judge_speed_ratio": round(statistics.median(ratios), 3),
            "judge_speed_ratios": [round(ratio, 3) for ratio in ratios],
            "judge_tokens_per_second": round(statistics.median(judged), 1),
            "raw_tokens_per_second": round(statistics.median(raw), 1),
            "windows_per_second": round(statistics.median(judged) / (self.tokens_each() or 1), 2),
        }

    def tokens_each(self) -> float:
        """Tokens evaluated for a window."""
        before = self.engine.n_evaluated
        self.judge(2)
        return (self.engine.n_evaluated - before) / N_WINDOWS

    def generation(self) -> dict[str, object]:
        """Sixteen prompts at once against one at a time, in turns."""
        engine, how = self.engine, Sampling(N_NEW, temperature=1.0, seed=1)
        shared = engine.tokenize("Write on. A short story begins so:\n")
        prompts = [[*shared, *engine.tokenize(each.tokens[0])[:8]] for each in self.windows]
        prompts = prompts[:N_PROMPTS]

        def count() -> int:
            return engine.n_written

        engine.generate(prompts[:2], Sampling(2), len(shared))
        together, alone = [], []
        for number in range(self.rounds):
            alone += [
                rate(count, lambda p=p: engine.generate([p], how, len(shared)))
                for p in prompts[2 * number : 2 * number + 2]
            ]
            together.append(rate(count, lambda: engine.generate(prompts, how, len(shared))))
        one, many = statistics.median(alone), statistics.median(together)
        return {
            "generate_speedup": round(many / one, 2),
            "written_tokens_per_second": {"alone": round(one, 1), "together": round(many, 1)},
        }


def consistency(path: Path, settings: EngineSettings, rounds: int) -> dict[str, float]:
    """Greatest differences of margins: packed and alone; a run and one that went on."""
    with open_engine(path, settings) as engine:
        bench = Bench(engine, rounds)
        bench.judge(0)
        packed = bench.judge(1)
        alone = [bench.judge(1, slice(n, n + 1))[0] for n in range(N_WINDOWS)]
    with open_engine(path, settings) as engine:
        resumed = Bench(engine, rounds).judge(1)
    spread = statistics.stdev(packed)
    return {
        "packed": round(float(np.abs(np.subtract(packed, alone)).max()), 4),
        "packed_in_spreads": round(float(np.abs(np.subtract(packed, alone)).max()) / spread, 4),
        "resumed": float(np.abs(np.subtract(packed, resumed)).max()),
    }


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="installed model, or GGUF file")
    parser.add_argument("--n-batch", type=int, default=EngineSettings().n_batch)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    options = parser.parse_args()
    settings = EngineSettings(n_batch=options.n_batch)
    say = (lambda text: None) if options.json else (lambda text: print(text, file=sys.stderr))
    path = model_path(options.model, "engine")
    found: dict[str, object] = {"model": path.name}
    started = time.perf_counter()
    with open_engine(path, settings) as engine:
        found["opening_seconds"] = round(time.perf_counter() - started, 2)
        found["settings"] = engine.provenance["settings"]
        bench = Bench(engine, options.rounds)
        for part in (bench.tokens, bench.speed, bench.generation):
            values = part()
            found |= values
            say(f"{part.__name__}: {values}")
    found["self_consistency"] = consistency(path, settings, options.rounds)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    found["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
