"""Rendering a view in a terminal with rich. Every text is printed as it is: no markup, no highlighting of names."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fastgpu.formatting import format_utc
from fastgpu.view import Bar, Cell, Link, Table, View

PIPED_WIDTH = 240
BAR_WIDTH = 8
GAP_WIDTH = 2
LONGEST_WORD = 14


def terminal(stderr: bool = False) -> Console:
    """A console for people; into a pipe it is wide, so that no identifier is folded."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def show(view: View, console: Console) -> None:
    """Print a view."""
    console.print(Text(view.title, style="bold"), Text(f"as of {format_utc(view.as_of)}", style="dim"))
    if view.facts:
        grid = RichTable.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        for name, value in view.facts:
            grid.add_row(Text(name), _text(value))
        console.print(grid)
    for table in view.tables:
        console.print(_table(table, console.width))
    for note in view.notes:
        console.print(Text(note))


def column_widths(table: Table, width: int) -> list[int] | None:
    """Widths at which no id, no word and, given room, no short value breaks; None when even words do not fit."""
    columns = list(zip(table.columns, *([_text(cell).plain for cell in row] for row in table.rows), strict=True))
    natural = [max(map(len, cells)) for cells in columns]
    words = [
        min(full, LONGEST_WORD, max(len(word) for cell in cells for word in cell.split()))
        for full, cells in zip(natural, columns, strict=True)
    ]
    whole = [full if table.whole(place) else words[place] for place, full in enumerate(natural)]
    room = width - GAP_WIDTH * len(columns)
    widths = next((least for least in (whole, words) if sum(least) <= room), None)
    if widths is None:
        return None
    spare = room - sum(widths)
    for place, full in sorted(enumerate(natural), key=lambda column: column[1] - widths[column[0]]):
        more = min(spare, full - widths[place])
        widths[place] += more
        spare -= more
    return widths


def _table(table: Table, width: int) -> RichTable | Text:
    caption = f"{table.caption}: " if table.caption else ""
    if not table.rows:
        return Text(f"{caption}{table.empty}")
    rich_table = RichTable(
        title=Text(table.caption) if table.caption else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    widths = column_widths(table, width)
    for place, name in enumerate(table.columns):
        justify: Literal["left", "right"] = "right" if place in table.right else "left"
        fixed = widths[place] if widths else None
        rich_table.add_column(Text(name), justify=justify, overflow="fold", width=fixed)
    for row in table.rows:
        rich_table.add_row(*(_text(cell) for cell in row))
    return rich_table


def _text(cell: Cell) -> Text:
    if isinstance(cell, Bar) and cell.fraction is not None:
        filled = round(min(1.0, max(0.0, cell.fraction)) * BAR_WIDTH)
        return Text(f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {cell.text}")
    if isinstance(cell, Link):
        return Text(cell.address)
    return Text(cell.text if isinstance(cell, Bar) else cell)
