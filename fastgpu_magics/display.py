"""Rendering views as text and as HTML that stands by itself.

Pure. The HTML says everything in words and uses only what notebooks let through (tables, ``progress``): no script, no
colour that means something; only alignment and
spacing are styled, because notebooks put every cell to the right and widgets put them close together. Every text is
escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastgpu.formatting import NO_VALUE, clean_text, format_utc
from fastgpu.view import Bar, Cell, Link, Table, View

LEFT, RIGHT, WHOLE = "text-align:left;padding:.3em .6em", "text-align:right;padding:.3em .6em", ";white-space:nowrap"
JOB_MIME = "application/vnd.fastgpu.job+json"
Bundle = dict[str, Any]


def to_text(view: View) -> str:
    """A view for a plain terminal."""
    lines = [f"{view.title} (as of {format_utc(view.as_of)})"]
    width = max((len(name) for name, _ in view.facts), default=0)
    lines += [f"  {name:<{width}}  {_words(value)}" for name, value in view.facts]
    for table in view.tables:
        lines += ["", *_text_table(table)]
    if view.notes:
        lines += ["", *view.notes]
    return "\n".join(lines)


def _text_table(table: Table) -> Iterator[str]:
    if not table.rows:
        yield f"{table.caption}: {table.empty}" if table.caption else table.empty
        return
    if table.caption:
        yield table.caption
    rows = [table.columns, *(tuple(_words(cell) for cell in row) for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    for number, row in enumerate(rows):
        cells = (
            cell.rjust(width) if place in table.right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield ("  " + "  ".join(cells)).rstrip()
        if number == 0:
            yield "  " + "  ".join("-" * width for width in widths)


def _words(cell: Cell) -> str:
    if isinstance(cell, Link):
        return cell.address
    return cell.text if isinstance(cell, Bar) else cell


def to_html(view: View) -> str:
    """A view for a notebook: true as of its instant, which it names."""
    parts = [f"<p><strong>{escape(view.title)}</strong> <small>as of {format_utc(view.as_of)}</small></p>"]
    if view.facts:
        facts = "".join(
            f'<tr><th style="{LEFT}{WHOLE}">{escape(name)}</th><td style="{LEFT}">{_html_cell(value)}</td></tr>'
            for name, value in view.facts
        )
        parts.append(f"<table><tbody>{facts}</tbody></table>")
    parts += [_html_table(table) for table in view.tables]
    parts += [f"<p>{escape(note)}</p>" for note in view.notes]
    return f'<div class="fastgpu">{"".join(parts)}</div>'


def _html_table(table: Table) -> str:
    if not table.rows:
        return f"<p>{escape(f'{table.caption}: {table.empty}' if table.caption else table.empty)}</p>"
    caption = f'<caption style="{LEFT}">{escape(table.caption)}</caption>' if table.caption else ""
    sides = [RIGHT if place in table.right else LEFT for place in range(len(table.columns))]
    head = "".join(f'<th style="{side}">{escape(name)}</th>' for side, name in zip(sides, table.columns, strict=True))
    styles = [side + (WHOLE if table.whole(place) else "") for place, side in enumerate(sides)]
    rows = (
        "".join(f'<td style="{style}">{_html_cell(cell)}</td>' for style, cell in zip(styles, row, strict=True))
        for row in table.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, Bar) and cell.fraction is not None:
        value = round(min(1.0, max(0.0, cell.fraction)) * 100)
        return f'<progress max="100" value="{value}"></progress> {escape(cell.text)}'
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.address)}" target="_blank" rel="noopener">{escape(cell.text)}</a>'
    return escape(_words(cell))


def bundle_of(view: View) -> Bundle:
    """The MIME bundle of a view."""
    return {"text/plain": to_text(view), "text/html": to_html(view)}


class Shown:
    """What a magic returns: shows a view, carries the plain data as ``data``."""

    def __init__(self, view: View, data: Any) -> None:
        self.view = view
        self.data = data

    def __repr__(self) -> str:
        return to_text(self.view)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return bundle_of(self.view)


class ShownLog:
    """A job's log: ``text`` without terminal escape sequences."""

    def __init__(self, job_id: str, text: str, shortened: bool) -> None:
        self.job_id = job_id
        self.text = text
        self.shortened = shortened

    @property
    def data(self) -> Any:
        """Plain data."""
        return {"id": self.job_id, "log": self.text, "shortened": self.shortened}

    def __repr__(self) -> str:
        head = f"… earlier lines left out; job.logs() has all of job {self.job_id}\n" if self.shortened else ""
        return head + (self.text or NO_VALUE)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return {"text/plain": repr(self), "text/html": f"<pre>{escape(repr(self))}</pre>"}


def plain_outputs(output: dict[str, Any]) -> str:
    """The words of a notebook output, for readers who must not run what is in it."""
    kind = output.get("output_type")
    if kind == "stream":
        return clean_text(_joined(output.get("text", "")))
    if kind == "error":
        return clean_text("\n".join(output.get("traceback", []))) + "\n"
    return clean_text(_joined(output.get("data", {}).get("text/plain", ""))) + "\n"


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def output_bundle(output: dict[str, Any]) -> tuple[Bundle, Bundle] | None:
    """Data and metadata of a rich notebook output, with nbformat's lists of lines joined; None for plain ones."""
    if output.get("output_type") not in ("display_data", "execute_result"):
        return None
    data = {mime: value if mime.endswith("json") else _joined(value) for mime, value in output.get("data", {}).items()}
    return data, dict(output.get("metadata", {}))
