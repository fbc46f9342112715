"""A judge as a reward: a backend, which runs a model, joined with a way of judging, which asks and reads.

It does what every judge needs and neither of the two should know: it refuses rows that cannot be judged, puts the
edits of one source with one instruction (and the same criteria) together, so that what they share is asked once, and
writes into each score what made it. Images go to the model as they are; its own processor resizes them, and provenance
says from which size to which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mmreward.domain import ANY, DOMAINS, check
from mmreward.edit import Edit, ImageError
from mmreward.judge.backends.backend import Backend
from mmreward.judge.way import Group, PairWay, Way
from mmreward.preference import Pair, Preference
from mmreward.reward import Reward, unknown
from mmreward.score import Score

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["JudgeReward"]

Told = TypeVar("Told", Score, Preference)


class JudgeReward(Reward):
    """`overall`, `dims`, `raw`, `spread` and `rationale` are those of its way of judging (`mmreward.judge.ways`).

    `name` is the reward's, `model` the judge's. `known_for` is the domain that the model was made for, `domain` the one
    that the caller insists on. `provenance` adds to what the backend and the way say; `sizes` in a score's provenance
    is what became of each image, by `shown` where the way resizes images itself.
    """

    def __init__(
        self,
        backend: Backend,
        way: Way,
        *,
        name: str,
        model: str,
        known_for: str = ANY,
        domain: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        shown: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        if domain is not None and domain not in DOMAINS:
            raise unknown("domain", domain, DOMAINS)
        way.check(backend)  # labels that cannot be asked for are the caller's mistake, not a row's
        self.backend, self.way, self.name = backend, way, name
        self.dims = way.dims
        self._domain = domain or known_for
        self._shown = shown
        self._provenance: dict[str, Any] = {
            "reward": name,
            "model": model,
            **backend.describe,
            "question": way.version,
            "domain": known_for if self._domain == known_for else "ignored",
            **(provenance or {}),
        }

    @property
    def is_differentiable(self) -> bool:
        """Whether `tensor` works: for expected scores of a Qwen-VL model in this process."""
        from mmreward.judge.differentiable import obstacle

        return obstacle(self.backend, self.way) is None

    def tensor(self, source: Tensor, edited: Tensor, instructions: Sequence[str]) -> Tensor:
        """`overall` of tensors by the contract of `mmreward.reward.Differentiable`; `mmreward.judge.differentiable`
        says how far it is from `score`. Raises ValueError where `is_differentiable` is False.
        """
        from mmreward.judge.differentiable import PixelJudge

        return PixelJudge(self.backend, self.way, self._domain)(source, edited, instructions)

    @property
    def compare(self) -> Callable[[Sequence[Pair]], list[Preference]]:
        """`compare(pairs)` of a judge whose way compares; other judges have no such method (see `comparer`)."""
        if not isinstance(self.way, PairWay):
            raise AttributeError(f"{self.name} scores edits one by one; a judge with way=pairwise compares them")
        return partial(self._compare, self.way)

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        scores: dict[int, Score] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, edit in enumerate(edits):
            failure = self._check(edit)
            if failure:
                scores[index] = failure
            else:
                groups.setdefault((edit.group, edit.criteria or ""), []).append(index)
        asked = [_group([edits[i] for i in members]) for members in groups.values()]
        for members, told in zip(groups.values(), self.way.score(asked, self.backend), strict=True):
            scores |= zip(members, told, strict=True)
        return [self._signed(scores[index], source=edit, edited=edit) for index, edit in enumerate(edits)]

    def _compare(self, way: PairWay, pairs: Sequence[Pair]) -> list[Preference]:
        found: dict[int, Preference] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, pair in enumerate(pairs):
            failure = self._check_pair(*pair)
            if failure:
                found[index] = failure
            else:
                groups.setdefault((pair[0].group, pair[0].criteria or ""), []).append(index)
        asked, places = [], []
        for members in groups.values():
            edits = {edit.key: edit for index in members for edit in pairs[index]}
            place = {key: number for number, key in enumerate(edits)}
            asked.append(_group(list(edits.values())))
            places.append([(place[first.key], place[second.key]) for first, second in (pairs[i] for i in members)])
        for members, told in zip(groups.values(), way.compare(asked, places, self.backend), strict=True):
            found |= zip(members, told, strict=True)
        return [self._signed(found[i], source=pair[0], first=pair[0], second=pair[1]) for i, pair in enumerate(pairs)]

    def _check_pair(self, first: Edit, second: Edit) -> Preference | None:
        for name, edit in (("first", first), ("second", second)):
            if failure := self._check(edit):
                return Preference.failed(failure.status, f"{name}: {failure.error}")
        if (first.group, first.criteria or "") != (second.group, second.criteria or ""):
            error = "the two edits are not of one source by one instruction with the same criteria"
            return Preference.failed("not_applicable", error)
        return None

    def _signed(self, told: Told, **shown: Edit) -> Told:
        """With provenance; `shown` names the images of a row and the edits that hold them."""
        sizes = {}
        for name, edit in shown.items():
            try:
                image = edit.image("source" if name == "source" else "edited")
            except ImageError:
                continue  # the row's status says so
            sizes[name] = {"given": list(image.size), **self._size(*image.size)}
        made_by = {**self._provenance, **self.backend.describe}  # now: a server may have refused parameters meanwhile
        return replace(told, provenance={**made_by, "sizes": sizes, **told.provenance})

    def _size(self, width: int, height: int) -> dict[str, Any]:
        """What becomes of an image of this size, as far as it is known."""
        tell = getattr(self.backend, "shown_size", None)
        if self._shown:
            width, height = self._shown(width, height)
        return tell(width, height) if tell else {}

    def _check(self, edit: Edit) -> Score | None:
        if not edit.instruction.strip():
            return Score.failed("not_applicable", "the instruction is empty")
        try:
            edit.image("source"), edit.image("edited")
            outside = check(self._domain, edit)
        except ImageError as error:
            return Score.failed(error.status, error.message)
        return Score.failed("not_applicable", outside) if outside else None


def _group(edits: Sequence[Edit]) -> Group:
    first = edits[0]
    images = tuple(edit.image("edited") for edit in edits)
    return Group(first.instruction.strip(), first.image("source"), images, first.criteria or "")
