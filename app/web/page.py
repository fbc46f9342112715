"""One page: pick a bundled example or bring images, and see what each reward says about each edit.

The page is put together here; what it shows comes from `compare` (HTML), `pictures` (lossless images), `images` (the
difference map) and `rewards`. Scores arrive one reward after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.web.compare import MOST_EDITS, SCRIPT, Picture, Shown, comparison, notice
from app.web.images import difference_map, match
from app.web.pictures import Pictures
from app.web.rewards import PageRewards
from app.web.style import PAGE_CSS
from mmreward import Edit, ImageError
from mmreward.score import Score

__all__ = ["MOST_BYTES", "MOST_PIXELS", "Example", "Page", "examples_of"]

MOST_BYTES = 32 * 1024 * 1024
"""Largest file that the page accepts."""

MOST_PIXELS = 25_000_000
"""Largest upload that is opened: what is shown and compared is held in memory several times."""


@dataclass(frozen=True)
class Example:
    """Edits of one source by one instruction, with a name for the menu."""

    name: str
    edits: tuple[Edit, ...]


def examples_of(edits: Sequence[Edit], most: int = 200) -> list[Example]:
    """Edits in groups of one source and instruction, in the order in which they come."""
    groups: dict[tuple[str, str], list[Edit]] = {}
    for edit in edits:
        groups.setdefault((str(edit.source), edit.instruction), []).append(edit)
    found: list[Example] = []
    for (_, instruction), members in list(groups.items())[:most]:
        short = instruction if len(instruction) <= 70 else instruction[:67] + "…"
        found.append(Example(f"{len(found) + 1}. {short}", tuple(members)))
    return found


class Page:
    """The page's state and events; `blocks()` makes the Gradio page."""

    def __init__(self, examples: Sequence[Example], rewards: PageRewards) -> None:
        self.examples = {example.name: example for example in examples}
        self.rewards = rewards
        self.pictures = Pictures()

    def fill(self, name: str | None) -> tuple[str, str, str, None, None]:
        """The texts of an example, and emptied uploads."""
        example = self.examples.get(name or "")
        if example is None:
            return "", "", "", None, None
        first = example.edits[0]
        return first.instruction, first.source_caption or "", first.target_caption or "", None, None

    def uploaded(self, *inputs: Any) -> tuple[None, str, str, str, str]:
        """What a new upload makes of the fields: no example and no captions of one, and the pictures without scores."""
        example, instruction, source, edited, *captions = inputs
        if example is not None:
            old = self.fill(example)
            instruction = "" if instruction == old[0] else instruction
            captions = ["" if text == before else text for text, before in zip(captions, old[1:3], strict=True)]
        gathered = self._gather(None, instruction, source, edited, *captions)
        if isinstance(gathered, str):
            return None, instruction, *captions, notice(gathered)
        return None, instruction, *captions, comparison(instruction, *self._look(gathered), {})

    def score(self, *inputs: Any) -> Iterator[str]:
        """The comparison, again after each reward."""
        gathered = self._gather(*inputs)
        if isinstance(gathered, str):
            yield notice(gathered)
            return
        source, shown = self._look(gathered)
        scores: dict[str, Sequence[Score] | None] = dict.fromkeys(self.rewards.specs)
        instruction = gathered[0].instruction
        yield comparison(instruction, source, shown, scores)
        for spec in self.rewards.specs:
            scores[spec] = self.rewards.score(spec, gathered)
            yield comparison(instruction, source, shown, scores)

    def _gather(
        self,
        example: str | None,
        instruction: str,
        source: str | None,
        edited: list[str] | None,
        source_caption: str,
        target_caption: str,
    ) -> list[Edit] | str:
        """The edits that the fields describe, or a sentence that says what is missing."""
        texts = {"source_caption": source_caption.strip() or None, "target_caption": target_caption.strip() or None}
        if source or edited:
            if not source:
                return "Add the source image: the picture before editing."
            if not edited:
                return "Add one or several edited images of the source."
            if large := [Path(path).name for path in (source, *edited) if _pixels(path) > MOST_PIXELS]:
                return (
                    f"Too large for this page (more than {MOST_PIXELS / 1e6:.0f} million pixels): {', '.join(large)}."
                )
            return [
                Edit(instruction, source, path, id=Path(path).name, **texts)  # type: ignore[arg-type]
                for path in edited[:MOST_EDITS]
            ]
        found = self.examples.get(example or "")
        if found is None:
            return "Pick an example, or add a source and edited images of your own."
        return [
            Edit(instruction, e.source, e.edited, mask=e.mask, target=e.target, id=e.id, **texts)  # type: ignore[arg-type]
            for e in found.edits[:MOST_EDITS]
        ]

    def _look(self, edits: Sequence[Edit]) -> tuple[Picture | None, list[Shown]]:
        """The pictures of a group: source, edits, and difference maps made from the original pixels."""
        source: Picture | None = None
        shown = []
        for name, edit in zip(_short_names([edit.id or "" for edit in edits]), edits, strict=True):
            try:
                before, after = edit.image("source"), edit.image("edited")
                source = source or self._picture(before)
                matched, note = match(before, after)
                difference, changed = difference_map(before, matched)
                shown.append(Shown(name, self._picture(matched), self._picture(difference), changed, note))
            except ImageError as error:
                shown.append(Shown(name, error=error.message))
        return source, shown

    def _picture(self, image: Any) -> Picture:
        return Picture(self.pictures.address(image), image.width, image.height)

    def blocks(self) -> Any:
        """The Gradio page; `launch` it with the options of `launch_options`."""
        import gradio as gr

        names = list(self.examples)
        with gr.Blocks(title="mmreward", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
            gr.HTML('<header class="mm-head"><h1>mmreward</h1><p>What do the rewards say about this edit?</p></header>')
            with gr.Row(elem_classes="mm-row"):
                with gr.Column(scale=1, min_width=300):
                    example = gr.Dropdown(names, value=names[0] if names else None, label="Example")
                    instruction = gr.Textbox(label="Instruction", lines=2, max_lines=6, max_length=4000)
                    button = gr.Button("Score", variant="primary")
                    with gr.Accordion("Your own images", open=not names):
                        source = gr.File(label="Source", file_types=["image"], height=110)
                        edited = gr.File(
                            label=f"Edits (up to {MOST_EDITS})", file_count="multiple", file_types=["image"], height=110
                        )
                    with gr.Accordion("Captions (optional)", open=False):
                        source_caption = gr.Textbox(label="Of the source", info="CLIP compares with them", lines=2)
                        target_caption = gr.Textbox(label="Of the wanted result", lines=2)
                    gr.HTML(f'<p class="mm-fine">Rewards: {_listed(self.rewards.specs)}</p>')
                with gr.Column(scale=3, min_width=420):
                    view = gr.HTML(
                        notice("Pick an example, or add your own images."), js_on_load=SCRIPT, apply_default_css=False
                    )
            fields = [example, instruction, source, edited, source_caption, target_caption]
            filled = [instruction, source_caption, target_caption, source, edited]
            hidden: dict[str, Any] = {"api_visibility": "private"}
            button.click(self.score, fields, view, api_name="score", show_progress="hidden")
            instruction.submit(self.score, fields, view, show_progress="hidden", **hidden)
            for event in (example.input, page.load):
                event(self.fill, example, filled, show_progress="hidden", **hidden).then(
                    self.score, fields, view, show_progress="hidden", **hidden
                )
            for upload in (source, edited):
                upload.upload(
                    self.uploaded,
                    fields,
                    [example, instruction, source_caption, target_caption, view],
                    show_progress="hidden",
                    **hidden,
                )
        return page

    def launch_options(self) -> dict[str, Any]:
        """Options of Gradio's `launch`: our look, no link to elsewhere, bounded uploads, one readable folder."""
        import gradio as gr

        fonts = ["system-ui", "sans-serif"]
        return {
            "theme": gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["monospace"]),
            "css": PAGE_CSS,
            "allowed_paths": [str(self.pictures.folder)],
            "max_file_size": MOST_BYTES,
            "footer_links": [],
            "ssr_mode": False,
            "show_error": True,
            "share": False,
        }


def _pixels(path: str) -> int:
    """Width times height by the file's header; 0 where there is none to read (opening it will say why)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MOST_PIXELS + 1
    except OSError:
        return 0


def _short_names(names: Sequence[str]) -> list[str]:
    """Names without what all of them begin with; a name that is empty or not its own becomes a number."""
    from os.path import commonprefix

    start = commonprefix(list(names)) if len(names) > 1 else ""
    start = start[: max((start.rfind(mark) + 1 for mark in "-_/ "), default=0)]
    short = [name[len(start) :] for name in names]
    return [name if name and short.count(name) == 1 else f"edit {i + 1}" for i, name in enumerate(short)]


def _listed(names: Sequence[str]) -> str:
    from html import escape

    return ", ".join(f"<code>{escape(name)}</code>" for name in names)
