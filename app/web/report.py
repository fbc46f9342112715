"""`report.html`: what a training run did to an editor, in one file that opens anywhere.

The page carries its images (PNG data URLs), its curves (SVG) and its style; it loads nothing and runs no script.
Whoever trains fills in a `Report` and calls `write_report(folder, report)`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from app.web.curves import Curve, Figure, draw
from app.web.images import data_url
from app.web.style import REPORT_CSS

__all__ = ["Curve", "Example", "Figure", "Notice", "Number", "Report", "Sheet", "Shown", "Table", "write_report"]


@dataclass(frozen=True)
class Shown:
    """One edited image: `score` in [0, 1] or None when there is none (`status` then says why)."""

    image: Image.Image
    score: float | None = None
    status: str = "ok"


@dataclass(frozen=True)
class Example:
    """One row of the grid: a source, its instruction, and edits by the editor before and after training."""

    instruction: str
    source: Image.Image
    before: Sequence[Shown]
    after: Sequence[Shown]


@dataclass(frozen=True)
class Number:
    """One measured number before and after. `scale` is how to print it: "share" as 37.1 %, "score" as 0.371.

    `role` says which of the three measures it is: "reward" (trained on), "monitor" or "final" (held out).
    """

    label: str
    before: float | None
    after: float | None
    scale: str = "score"
    role: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text or numbers; None is shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""


@dataclass(frozen=True)
class Notice:
    """What must not be overlooked, above everything else. `tone` is "good", "bad" or "" for neither."""

    title: str
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Sheet:
    """A large image (an image grid) with a line above it."""

    title: str
    image: Image.Image


@dataclass(frozen=True)
class Report:
    """Everything that the page shows, in the order in which it shows it; empty parts are left out.

    `lead` is one or two sentences under the title; `commands` are (what it does, the command) pairs, shown last.
    `score_name` names the score printed under the images of the examples.
    """

    title: str
    lead: str = ""
    notice: Notice | None = None
    numbers: Sequence[Number] = ()
    examples: Sequence[Example] = ()
    figures: Sequence[Figure] = ()
    sheets: Sequence[Sheet] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    score_name: str = "score"
    facts: Sequence[tuple[str, str]] = ()


def write_report(folder: str | Path, report: Report, name: str = "report.html") -> Path:
    """Write `folder/name`, whole or not at all, and return its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    partial = folder / f".{name}.{os.getpid()}"
    try:
        partial.write_text(_page(report), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _page(report: Report) -> str:
    sections = [
        _notice(report.notice),
        _numbers(report.numbers),
        _examples(report.examples, report.score_name),
        _figures(report.figures),
        _sheets(report.sheets),
        *[_table(table) for table in report.tables],
        _commands(report.commands),
        _notes(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{REPORT_CSS}</style></head><body><main>"
        f'<header><h1>{escape(report.title)}</h1><p class="lead">{escape(report.lead)}</p></header>'
        + "".join(section for section in sections if section)
        + "</main></body></html>\n"
    )


def _printed(value: float | None, scale: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if scale == "share" else f"{value:.3f}"


def _change(number: Number) -> str:
    if number.before is None or number.after is None:
        return ""
    difference = number.after - number.before
    if not math.isfinite(difference):
        return ""
    text = f"{100 * difference:+.1f} points" if number.scale == "share" else f"{difference:+.3f}"
    tone = "up" if difference > 0 else "down" if difference < 0 else "same"
    return f'<span class="change {tone}">{text.replace("-", "−")}</span>'


def _notice(notice: Notice | None) -> str:
    if notice is None:
        return ""
    title, text = escape(notice.title), escape(notice.text)
    return f'<section class="notice {escape(notice.tone)}"><strong>{title}</strong><p>{text}</p></section>'


def _numbers(numbers: Sequence[Number]) -> str:
    if not numbers:
        return ""
    cards = []
    for number in numbers:
        role = f'<span class="role">{escape(number.role)}</span>' if number.role else ""
        note = f'<p class="note">{escape(number.note)}</p>' if number.note else ""
        cards.append(
            f'<div class="card"><p class="label">{escape(number.label)} {role}</p>'
            f'<p class="figures"><span class="from">{_printed(number.before, number.scale)}</span>'
            f'<span class="arrow" aria-label="then">→</span><strong>{_printed(number.after, number.scale)}</strong>'
            f"{_change(number)}</p>{note}</div>"
        )
    return f'<section class="cards">{"".join(cards)}</section>'


def _shown(shown: Shown, alt: str) -> str:
    caption = f"{shown.score:.2f}" if shown.score is not None and math.isfinite(shown.score) else escape(shown.status)
    tone = "" if shown.score is None or not math.isfinite(shown.score) else f' style="--s:{shown.score:.3f}"'
    return (
        f'<figure class="edit"><img src="{data_url(shown.image, longest=256)}" alt="{escape(alt)}">'
        f"<figcaption{tone}>{caption}</figcaption></figure>"
    )


def _examples(examples: Sequence[Example], score_name: str) -> str:
    if not examples:
        return ""
    rows = []
    for example in examples:
        before = "".join(_shown(shown, f"before: {example.instruction}") for shown in example.before)
        after = "".join(_shown(shown, f"after: {example.instruction}") for shown in example.after)
        source = data_url(example.source, longest=256)
        columns = min(max(len(example.before), len(example.after), 3), 6)
        rows.append(
            f'<article class="example"><div class="ask"><img src="{source}" alt="source">'
            f'<p class="instruction">{escape(example.instruction)}</p></div>'
            f'<div class="strip"><h3>before</h3><div class="edits" style="--n:{columns}">{before}</div></div>'
            f'<div class="strip"><h3>after</h3><div class="edits" style="--n:{columns}">{after}</div></div></article>'
        )
    note = f'<p class="muted">Each row: the source and what was asked; edits from the same noise before and after \
training, with their {escape(score_name)}.</p>'
    return f"<section><h2>Edits before and after</h2>{note}{''.join(rows)}</section>"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    drawn = []
    for figure in figures:
        note = f'<p class="note">{escape(figure.note)}</p>' if figure.note else ""
        drawn.append(f'<div class="figure"><h3>{escape(figure.title)}</h3>{draw(figure)}{note}</div>')
    return f'<section><h2>Curves</h2><div class="charts">{"".join(drawn)}</div></section>'


def _sheets(sheets: Sequence[Sheet]) -> str:
    if not sheets:
        return ""
    shown = "".join(
        f'<figure class="figure sheet"><figcaption>{escape(sheet.title)}</figcaption>'
        f'<div><img src="{data_url(sheet.image)}" alt="{escape(sheet.title)}"></div></figure>'
        for sheet in sheets
    )
    note = '<p class="muted">A row a task: the source, then its edits from the best reward to the worst.</p>'
    return f"<section><h2>Edits while training</h2>{note}{shown}</section>"


def _cell(value: str | float | int | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '<td class="n">–</td>'
    if isinstance(value, float):
        return f'<td class="n">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{escape(value)}</td>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}</section>"
    )


def _commands(commands: Sequence[tuple[str, str]]) -> str:
    if not commands:
        return ""
    lines = "".join(f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>" for what, line in commands)
    return f'<section><h2>How to go on</h2><dl class="commands">{lines}</dl></section>'


def _notes(report: Report) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts)
    if not notes and not facts:
        return ""
    return f'<section class="fine"><h2>How it was made</h2><dl class="facts">{facts}</dl><ul>{notes}</ul></section>'
