"""The oracle of the shapes world as a reward, for measuring other rewards and as an upper bound.

It reads the scenes of source and edit from their pixels, parses the instruction, and compares. It is exact for edits
without artefacts and with noise, and misreads about one in fifty that are blurred and one in sixteen that are made of
blocks; the definition of the numbers and of that error stands in `mmreward.shapes.oracle`. Outside the shapes world it
is `not_applicable`.
"""

__all__ = ["OracleReward", "load"]

from collections.abc import Sequence
from typing import Any

from PIL import Image

from mmreward.edit import Edit, ImageError, fit
from mmreward.reward import Reward, unknown
from mmreward.score import Score
from mmreward.shapes import READING, WORLD_VERSION, LanguageError, Reading, parse, read, truth


def load(model: str = "", **options: str) -> "OracleReward":
    """`oracle` takes neither a model nor options."""
    if model:
        raise ValueError(f"the reward 'oracle' has no models; write 'oracle', not 'oracle:{model}'")
    for option in options:
        raise unknown("option of 'oracle'", option, [])
    return OracleReward()


class OracleReward(Reward):
    """`overall` = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality); `raw` has success (0 or 1)."""

    name = "oracle"
    dims = ("instruction_following", "preservation", "quality")

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        readable: dict[int, tuple[Image.Image, Image.Image]] = {}
        scores: dict[int, Score] = {}
        for index, edit in enumerate(edits):
            try:
                readable[index] = _images(edit)
            except ImageError as error:
                scores[index] = Score.failed(error.status, error.message, provenance=_provenance())
        sources = dict(zip(readable, _read_each([source for source, _ in readable.values()])))
        results = dict(zip(readable, read([edited for _, edited in readable.values()])))
        for index in readable:
            scores[index] = _compare(edits[index].instruction, sources[index], results[index])
        return [scores[index] for index in range(len(edits))]


def _images(edit: Edit) -> tuple[Image.Image, Image.Image]:
    source, edited = edit.image("source"), edit.image("edited")
    fitted = fit(edited, source.size)
    if fitted is None:
        raise ImageError(
            f"edited image is {edited.width}x{edited.height} and the source {source.width}x{source.height}: their "
            "aspect ratios differ by more than 2 %, so the scenes cannot be compared",
            "not_applicable",
        )
    return source, fitted


def _read_each(images: Sequence[Image.Image]) -> list[Reading]:
    """Candidates share their source: each different image is read once."""
    pixels = [(image.size, image.tobytes()) for image in images]
    unique = dict(zip(pixels, images))
    readings = dict(zip(unique, read(list(unique.values()))))
    return [readings[key] for key in pixels]


def _compare(instruction: str, source: Reading, edited: Reading) -> Score:
    provenance = _provenance()
    if not instruction.strip():
        return Score.failed("not_applicable", "the instruction is empty", provenance=provenance)
    if source.scene is None:
        why = "the source is not an image of the shapes world; the oracle knows nothing else"
        return Score.failed("not_applicable", why, provenance=provenance)
    try:
        changes = parse(instruction, source.scene)
    except LanguageError as error:
        why = f"the instruction is not one of the shapes world: {error}"
        return Score.failed("not_applicable", why, provenance=provenance)
    if edited.scene is None:
        why = "the edited image is unreadable: it matches no scene of the shapes world"
        return Score.failed("parse_error", why, provenance=provenance)
    labels = truth(source.scene, changes, edited)
    dims = {
        "instruction_following": labels.following,
        "preservation": labels.preservation,
        "quality": labels.quality,
    }
    raw = {"success": float(labels.success), "residual": edited.residual}
    return Score(labels.overall, dims, raw=raw, provenance=provenance)


def _provenance() -> dict[str, Any]:
    return {"reward": "oracle", "world_version": WORLD_VERSION, "reading": READING}
