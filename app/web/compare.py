"""The comparison of edits with their source, as HTML: pictures with a slider, the difference, and the scores.

The strip of edits is a group of radio buttons and the slider is a range input, so that the keyboard reaches both
without any script of ours; everything that people or files bring in is escaped. `SCRIPT` only moves the slider's line
and keeps the chosen edit when new scores arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmreward.score import DIMENSIONS, Score

__all__ = ["MOST_EDITS", "SCRIPT", "Picture", "Shown", "comparison", "notice"]

MOST_EDITS = 8
_TITLES = {"instruction_following": "following", "preservation": "preservation", "quality": "quality"}


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it: its address and its true size."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """One edited image with its difference map, or `error` where it could not be opened.

    `changed`: share of pixels that differ from the source. `note`: what was done to show it, if anything.
    """

    name: str
    edited: Picture | None = None
    difference: Picture | None = None
    changed: float = math.nan
    note: str | None = None
    error: str | None = None


def notice(text: str) -> str:
    """A sentence in place of a comparison."""
    return f'<div class="cv"><p class="cv-notice" role="status">{escape(text)}</p></div>'


def comparison(
    instruction: str, source: Picture | None, shown: Sequence[Shown], scores: Mapping[str, Sequence[Score] | None]
) -> str:
    """The whole comparison. `scores`: per reward one score per edit, or None while they are being made."""
    shown = shown[:MOST_EDITS]
    radios = "".join(
        f'<input type="radio" name="cv-edit" id="cv-{i}" class="cv-pick"{" checked" if i == 0 else ""} '
        f'aria-label="edit {i + 1}: {escape(one.name)}">'
        for i, one in enumerate(shown)
    )
    labels = "".join(_label(i, one, scores) for i, one in enumerate(shown))
    panels = "".join(_panel(i, one, source, instruction, scores) for i, one in enumerate(shown))
    asked = escape(instruction.strip()) or '<span class="cv-soft">no instruction</span>'
    strip = f'<div class="cv-strip">{labels}</div>' if len(shown) > 1 else ""
    return f'<div class="cv"><p class="cv-asked">{asked}</p>{radios}{strip}<div class="cv-panels">{panels}</div></div>'


def _label(index: int, one: Shown, scores: Mapping[str, Sequence[Score] | None]) -> str:
    inside = f'<img src="{escape(one.edited.address)}" alt="">' if one.edited else '<span class="cv-broken">!</span>'
    mean = _mean([row[index] for row in scores.values() if row is not None])
    number = "–" if math.isnan(mean) else f"{mean:.2f}"
    title = f"{escape(one.name)}: mean overall of the rewards that answered"
    return f'<label for="cv-{index}" title="{title}">{inside}<span>{escape(one.name)}</span><b>{number}</b></label>'


def _mean(scores: Sequence[Score]) -> float:
    """Mean overall of the scores that are ok; NaN where none of them measures whether the instruction was followed,
    because an untouched copy is perfect by all other measures.
    """
    known = [score for score in scores if score.ok]
    if not any("instruction_following" in score.dims for score in known):
        return math.nan
    return sum(score.overall for score in known) / len(known)


def _panel(
    index: int, one: Shown, source: Picture | None, instruction: str, scores: Mapping[str, Sequence[Score] | None]
) -> str:
    if one.edited is None or source is None:
        pictures = f'<p class="cv-notice">{escape(one.error or "nothing to show")}</p>'
    else:
        figures = _figure(source, "source", f"source image: {instruction}")
        figures += _figure(one.edited, "edit", f"edited image {one.name}") + _difference(one)
        note = f'<p class="cv-note">{escape(one.note)}</p>' if one.note else ""
        look = f'{_slider(source, one.edited)}<div class="cv-figures">{figures}</div>'
        pictures = f'<div class="cv-look">{look}</div>{note}'
    return f'<section class="cv-panel" aria-label="{escape(one.name)}">{pictures}{_table(index, scores)}</section>'


def _slider(source: Picture, edited: Picture) -> str:
    ratio = f"{source.width}/{source.height}"
    small = " cv-pixels" if max(source.width, source.height) <= 256 else ""
    return (
        f'<div class="cv-slider{small}" style="--cv-ratio:{ratio};--cv-at:50%">'
        f'<img src="{escape(edited.address)}" alt=""><img class="cv-before" src="{escape(source.address)}" alt="">'
        '<span class="cv-bar" aria-hidden="true"></span><span class="cv-tag cv-left" aria-hidden="true">source</span>'
        '<span class="cv-tag cv-right" aria-hidden="true">edit</span>'
        '<input type="range" min="0" max="100" value="50" step="1" '
        'aria-label="how much of the source is shown, in percent">'
        "</div>"
    )


def _difference(one: Shown) -> str:
    if one.difference is None:
        return ""
    share = "" if math.isnan(one.changed) else f"{100 * one.changed:.1f} % of pixels differ"
    scale = (
        '<div class="cv-scale"><span class="cv-ramp" aria-hidden="true"></span><p><span>the same</span>'
        f'<span>as far as can be</span></p><p class="cv-soft">{share} by more than 8 of 255 levels</p></div>'
    )
    return _figure(one.difference, "difference", f"difference map: {share}") + scale


def _figure(picture: Picture, title: str, alt: str) -> str:
    small = ' class="cv-pixels"' if max(picture.width, picture.height) <= 256 else ""
    address = escape(picture.address)
    detail = f'{title} <span class="cv-soft">{picture.width} × {picture.height}</span>'
    return (
        f'<figure{small}><a href="{address}" target="_blank" rel="noopener" title="open at full size">'
        f'<img src="{address}" alt="{escape(alt)}"></a><figcaption>{detail}</figcaption></figure>'
    )


def _table(index: int, scores: Mapping[str, Sequence[Score] | None]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("overall", *_TITLES.values()))
    rows = "".join(_row(name, None if row is None else row[index]) for name, row in scores.items())
    return (
        '<div class="cv-wide"><table class="cv-table"><thead><tr><th scope="col">reward</th>'
        f'{heads}<th scope="col">status</th></tr></thead><tbody>{rows}</tbody></table></div>'
        if scores
        else ""
    )


def _row(name: str, score: Score | None) -> str:
    head = f'<th scope="row">{escape(name)}</th>'
    if score is None:
        waiting = '<td class="cv-n cv-none">…</td>' * (1 + len(DIMENSIONS))
        return f'<tr>{head}{waiting}<td class="cv-soft">scoring …</td></tr>'
    cells = _number(score.overall, strong=True) + "".join(_number(score.dims.get(dim, math.nan)) for dim in DIMENSIONS)
    status = f'<td><span class="cv-status cv-{escape(score.status)}">{escape(score.status)}</span></td>'
    said = [f"<span>{escape(score.error)}</span>"] if score.error else []
    if score.rationale:
        said.append(f'<span class="cv-soft">{escape(score.rationale)}</span>')
    others = {key: value for key, value in score.dims.items() if key not in DIMENSIONS}
    if others:
        listed = ", ".join(f"{escape(key)} {value:.2f}" for key, value in others.items())
        said.append(f'<span class="cv-soft">{listed}</span>')
    if score.spread:
        said.append(f'<span class="cv-soft">± {score.spread.value:.2f} ({escape(score.spread.kind)})</span>')
    why = (
        f'<tr class="cv-why"><td></td><td colspan="{2 + len(DIMENSIONS)}">{" · ".join(said)}</td></tr>' if said else ""
    )
    return f"<tr{' class=cv-with' if said else ''}>{head}{cells}{status}</tr>{why}"


def _number(value: float, strong: bool = False) -> str:
    if not math.isfinite(value):
        return '<td class="cv-n cv-none">–</td>'
    text = f"<b>{value:.2f}</b>" if strong else f"{value:.2f}"
    return f'<td class="cv-n"><span class="cv-meter" style="--cv-v:{value:.3f}">{text}</span></td>'


SCRIPT = """
const at = (range) => range.closest('.cv-slider').style.setProperty('--cv-at', range.value + '%');
let chosen = 0, asked = '';
element.addEventListener('input', (event) => {
  if (event.target.matches('.cv-slider input')) at(event.target);
  if (event.target.matches('.cv-pick')) chosen = Number(event.target.id.slice(3));
});
new MutationObserver(() => {
  const now = element.querySelector('.cv-asked')?.textContent + element.querySelectorAll('.cv-pick').length;
  if (now !== asked) { asked = now; chosen = 0; }
  const radio = element.querySelector('#cv-' + chosen);
  if (radio && !radio.checked) radio.checked = true;
}).observe(element, { childList: true, subtree: true });
"""
