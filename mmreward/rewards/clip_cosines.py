"""What two images and their texts say about an edit, from their embeddings alone.

With unit embeddings I0, I1 of the source and the edited image and T0, T1 of their captions:

    alignment    cos(I1, T1); T1 is the target caption, else the instruction        (Hessel et al., CLIPScore, 2021)
    direction    cos(I1 - I0, T1 - T0)                        (Gal et al., StyleGAN-NADA, 2021; the filter of Brooks et
                                                              al., InstructPix2Pix, 2023); embeddings are normalised
                                                              before the difference is taken
    progress     (I1 - I0) . (T1 - T0) / |T1 - T0|^2: how far along the asked direction; 1 is all of it, whatever else
                 changed beside it (direction and alignment also fall for what nobody asked for)
    gain         cos(I1, T1) - cos(I0, T1), used in place of direction and progress where T1 is the instruction
    image        cos(I0, I1)
    change       |I1 - I0|^2 / 2 = 1 - cos(I0, I1): how far the image moved at all; exactly 0 for the same embedding
    kept         1 - |r|^2 / 2, r = the part of I1 - I0 at right angles to T1 - T0: the image similarity with the change
                 that was asked for taken out; equal to `image` without captions

**No edit is not 0/0.** Where I1 = I0 the direction is "no edit", and direction and progress are 0: nothing moved. The
direction of a very small move is that of noise, so a reward must let it fade by `change`, not trust it down to the last
bit. Where the captions are the same, T1 = T0, no direction was asked for: it is undefined whatever the image did, and
left out.
"""

from __future__ import annotations

__all__ = ["SAME", "Cosines", "cosines"]

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-5
"""Embeddings of captions (of length 1) closer than this are the same; float32 rounding stays below."""


@dataclass(frozen=True)
class Cosines:
    """What the embeddings say about one edit, by the names of this module; what is undefined is absent.

    `direction_is`: "captions", "no captions", "no edit" or "the captions say the same".
    """

    values: dict[str, float]
    direction_is: str


def cosines(
    source: Tensor, edited: Tensor, source_text: Tensor | None, text: Tensor, *, caption: bool = True
) -> Cosines:
    """The formulas of this module for one edit; all embeddings are float32 [D] of length 1.

    `source_text` is the embedding of the source's caption, where it has one; `text` is the target caption's, or, with
    `caption` false, the instruction's.
    """
    moved = edited - source
    length = float(moved.norm())
    values = {
        "alignment" if caption else "instruction": float(edited @ text),
        "image": float(source @ edited),
        "change": length**2 / 2,
    }
    if not caption:
        return Cosines(values | {"gain": float(moved @ text)}, "no captions" if length else "no edit")
    if source_text is None:
        return Cosines(values, "no captions")
    asked = text - source_text
    asked_length = float(asked.norm())
    if asked_length <= SAME:
        return Cosines(values, "the captions say the same")
    if not length:
        return Cosines(values | {"direction": 0.0, "progress": 0.0, "kept": 1.0}, "no edit")
    along = float(moved @ asked) / asked_length
    values["direction"] = max(-1.0, min(1.0, along / length))
    values["progress"] = along / asked_length
    values["kept"] = 1.0 - max(0.0, length**2 - along**2) / 2
    return Cosines(values, "captions")
