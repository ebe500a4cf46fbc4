"""The table of `list`: explanations with their scores, made to fit a terminal.

Everything shown comes from models, corpora and files, so every text goes through
`render.terminal_safe` and is never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lite_interp.render import shortened, terminal_safe
from lite_interp.score_lines import short
from lite_interp.terminal import CellText
from lite_interp.ways import header, in_order

Row = dict[str, Any]


class _Column(NamedTuple):
    head: str
    cells: list[str]
    justify: Literal["left", "right"] = "right"
    way: str = ""

    @property
    def width(self) -> int:
        """Terminal cells that the column takes if nothing is folded."""
        lines = [line for text in (self.head, *self.cells) for line in text.split("\n")]
        return max(map(cell_len, lines))


LEFT_OUT = ("interval", "s", "tokens", "density")
"""What a narrow table leaves out, the first first: the interval is that of detection."""

STYLES = {"good": "green", "bad": "red", "unsure": "dim"}
"""First word of a diagnosis → its style."""

ROOM = 0.28
"""Share of the terminal's width that an explanation should have."""
LEAST_ROOM = 16
"""Cells that it has in any case; else ways to score are left out."""
WIDEST_HEAD = 7
"""Cells of a heading; what is longer stands below the table."""
BLOCK_ROWS = 500
"""Rows that are laid out, and printed, at once."""
MOST_EXPLANATION, MOST_REASON = 500, 200
"""Characters that are shown."""


def latents_table(rows: Sequence[Row], width: int) -> Group:
    """The whole table at once."""
    return Group(*latents_tables(rows, width))


def latents_tables(rows: Sequence[Row], width: int) -> Iterator[RenderableType]:
    """Explanations with their scores in a terminal of some width: one table in blocks of rows.

    A column for each way to score; where it is narrow first the interval of detection is left out,
    then seconds, tokens, and the density, at last the ways that differ from a scorer's first one.
    What is left out, and what headings stand for, is said below.
    """
    names = _names(rows)
    heads, notes = _heads(names)
    columns, space, unseen = _layout(rows, heads, width)
    texts = _texts(rows, names)
    # Known widths make all blocks alike, and spare Rich the measuring of each cell.
    widths = [column.width for column in columns]
    rest = width - sum(widths) - space * len(widths)
    room = min(rest, max([len("explanation"), *(text.cell_len for text in texts)]))
    places = [column.head for column in columns]
    after = places.index("density" if "density" in places else "latent") + 1
    for first in range(0, max(1, len(rows)), BLOCK_ROWS):
        table = Table(
            box=None, padding=(0, space, 0, 0), header_style="bold", pad_edge=False,
            show_header=not first,
        )  # fmt: skip
        for place, column in enumerate(columns):
            if place == after:
                table.add_column("explanation", width=max(LEAST_ROOM, room), overflow="fold")
            own = widths[place] if rest >= LEAST_ROOM else None
            table.add_column(Text(column.head), justify=column.justify, overflow="fold", width=own)
        for place, text in enumerate(texts[first : first + BLOCK_ROWS], first):
            cells = [Text(column.cells[place], _style(column, place)) for column in columns]
            table.add_row(*cells[:after], text, *cells[after:])
        yield table
    for line in [note for name, note in notes.items() if name not in unseen]:
        yield Text(line, "dim")
    if unseen:
        named = terminal_safe(shortened(", ".join(in_order(unseen)), MOST_EXPLANATION))
        yield Text(f"no room here, but in --json and --csv: {named}", "dim")


def _layout(
    rows: Sequence[Row], heads: Mapping[str, str], width: int
) -> tuple[list[_Column], int, list[str]]:
    """The columns that have room, the space between them, and the ways that have none."""
    layouts = [(2, 0), *((1, n) for n in range(len(LEFT_OUT) + 1))]
    space, columns = 1, []
    for space, n_left_out in layouts:
        columns = _columns(rows, heads, LEFT_OUT[:n_left_out])
        if width - sum(column.width + space for column in columns) >= ROOM * width:
            break
    shown, unseen = list(heads), []
    while len(shown) > 1 and width - sum(each.width + space for each in columns) < LEAST_ROOM:
        unseen.append(next((name for name in reversed(shown) if "@" in name), shown[-1]))
        shown.remove(unseen[-1])
        columns = [column for column in columns if column.way != unseen[-1]]
    return columns, space, unseen


def _heads(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Ways to score → their headings, and → what a heading stands for, where it had no room."""
    heads, notes = {}, {}
    for name in names:
        head = terminal_lines(shortened(header(name), MOST_REASON))
        first, *more = head.split("\n")
        if more and max(map(cell_len, more)) > WIDEST_HEAD:
            head = f"{first}\n({len(notes) + 1})"
            notes[name] = f"({len(notes) + 1}) {first}, {', '.join(more)}"
        heads[name] = head
    return heads, notes


def _style(column: _Column, place: int) -> str:
    """Colour of a diagnosis; all else has none."""
    if column.head != "diagnosis":
        return ""
    return STYLES.get(column.cells[place].partition("\n")[0], "")


def _columns(
    rows: Sequence[Row], heads: Mapping[str, str], without: Sequence[str]
) -> list[_Column]:
    """All columns but the explanation; `heads` are those of the ways to score."""
    found = [_Column("latent", [str(row["latent"]) for row in rows])]
    if "density" not in without:
        found.append(_Column("density", [f"{100 * row['density']:.2f}%" for row in rows]))
    for name, head in heads.items():
        wide = name == "detection" and "interval" not in without
        cells = [_interval(row, name) if wide else short(row.get(name)) for row in rows]
        found.append(_Column(head, cells, way=name))
        if name == "detection":
            cells = [short(row.get("detection_null")) for row in rows]
            found.append(_Column("null", cells, way=name))
    said = [row["diagnosis"].replace(" ", "\n") for row in rows]
    found.append(_Column("diagnosis", said, "left"))
    if "tokens" not in without:
        found.append(_Column("tokens", [_thousands(row["tokens"]) for row in rows]))
    if "s" not in without:
        found.append(_Column("s", [f"{row['seconds']:.0f}" for row in rows]))
    return found


def terminal_lines(text: str) -> str:
    """A text of several lines, each safe."""
    return "\n".join(terminal_safe(line) for line in text.split("\n"))


def _names(rows: Sequence[Row]) -> list[str]:
    """Ways to score that have columns."""
    end = "_difference_low"
    return in_order({key.removesuffix(end) for row in rows for key in row if key.endswith(end)})


def _texts(rows: Sequence[Row], names: Sequence[str]) -> list[CellText]:
    """Explanations, with what is missing and why."""
    several = len({row["arm"] for row in rows}) > 1
    texts = []
    for row in rows:
        arm = f"{_safe(row['arm'], MOST_REASON)}: " if several else ""
        if row["failure"]:
            told = (f"(none: {_safe(row['failure'], MOST_REASON)})", "italic")
        else:
            told = (_safe(row["explanation"] or "", MOST_EXPLANATION), "")
        reasons: dict[str, list[str]] = {}
        for name in names:
            if row.get(f"{name}_reason"):
                reasons.setdefault(row[f"{name}_reason"], []).append(header(name))
        said = [f"{', '.join(heads)}: {reason}" for reason, heads in reasons.items()]
        said = [(f" ({_safe(each, MOST_REASON)})", "dim italic") for each in said]
        texts.append(CellText.assemble((arm, "dim"), told, *said))
    return texts


def _safe(text: str, most: int) -> str:
    return terminal_safe(shortened(text.replace("\n", " "), most))


def _interval(row: Row, name: str) -> str:
    if row.get(name) is None:
        return "–"
    return f"{short(row[name])} {short(row[f'{name}_low'])}–{short(row[f'{name}_high'])}"


def _thousands(n: int) -> str:
    return f"{n / 1000:.1f}k" if n >= 1000 else str(n)
