"""A judge as a reward: a backend, which runs a model, joined with a way of judging, which asks and reads.

It does what every judge needs and neither of the two should know: it refuses rows that cannot be judged, puts the
edits of one source with one instruction (and the same criteria) together, so that what they share is asked once, and
writes into each score what made it. Images go to the model as they are; its own processor resizes them, and provenance
says from which size to which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mmreward.domain import ANY, DOMAINS, check
from mmreward.edit import Edit, ImageError
from mmreward.judge.backends.backend import Backend
from mmreward.judge.way import Group, PairWay, Way
from mmreward.judge.ways.schedule import image_digest
from mmreward.preference import Pair, Preference
from mmreward.reward import Reward, failure_of, unknown
from mmreward.score import Failure, Score

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ComparingJudge", "JudgeReward", "judge_reward"]

Result = TypeVar("Result", Score, Preference)


def judge_reward(backend: Backend, way: Way, **options: Any) -> JudgeReward:
    """The judge for this way, with the options of `JudgeReward`: one with `compare` where the way compares."""
    return (ComparingJudge if isinstance(way, PairWay) else JudgeReward)(backend, way, **options)


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
            "domain": "ignored" if self._domain == ANY != known_for else self._domain,
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
    def needs_group(self) -> bool:
        """Whether candidates are compared with the others of their group, so that a group must come whole."""
        return isinstance(self.way, PairWay)

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        scores: dict[int, Score] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, edit in enumerate(edits):
            if failure := self._check(edit):
                scores[index] = Score.failed(failure.status, failure.error)
            else:
                groups.setdefault((edit.group, edit.criteria or ""), []).append(index)
        judged = self._judged([_group([edits[i] for i in members]) for members in groups.values()])
        for members, results in zip(groups.values(), judged, strict=True):
            scores |= zip(members, results, strict=True)
        return [self._with_provenance(scores[i], source=edit, edited=edit) for i, edit in enumerate(edits)]

    def _judged(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One list of scores per group. Where a library raises, each group is judged alone, and then each edit that may
        be: what one row does to it must not cost the others.
        """
        try:
            return self.way.score(groups, self.backend)
        except Exception as error:
            failure = failure_of(error)
        if len(groups) > 1:
            return [self._judged([group])[0] for group in groups]
        (group,) = groups
        if len(group.edited) > 1 and not self.needs_group:
            return [[self._judged([replace(group, edited=(image,))])[0][0] for image in group.edited]]
        return [[Score.failed(failure.status, failure.error)] * len(group.edited)]

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where there is an instruction and the source lies in the judge's domain."""
        if not edit.instruction.strip():
            return Failure("not_applicable", "the instruction is empty")
        outside = check(self._domain, edit)
        return Failure("not_applicable", outside) if outside else None

    def _with_provenance(self, result: Result, **shown: Edit) -> Result:
        """`shown` names the images of a row and the edits that hold them."""
        sizes = {}
        for name, edit in shown.items():
            try:
                image = edit.image("source" if name == "source" else "edited")
            except ImageError:
                continue  # the row's status says so
            sizes[name] = {"given": list(image.size), **self._size(*image.size)}
        made_by = {**self._provenance, **self.backend.describe}  # now: a server may have refused parameters meanwhile
        return replace(result, provenance={**made_by, "sizes": sizes, **result.provenance})

    def _size(self, width: int, height: int) -> dict[str, Any]:
        """What becomes of an image of this size, as far as it is known."""
        tell = getattr(self.backend, "shown_size", None)
        if self._shown:
            width, height = self._shown(width, height)
        return tell(width, height) if tell else {}

    def _check(self, edit: Edit) -> Failure | None:
        """Why this row cannot be judged, whatever is asked."""
        try:
            if failure := self.applies(edit):
                return failure
            images = {"source": edit.image("source"), "edited": edit.image("edited")}
        except ImageError as error:
            return Failure(error.status, error.message)
        if misfit := getattr(self.backend, "misfit", None):
            for name, image in images.items():
                if failure := misfit(*image.size):
                    return Failure(failure.status, f"{name} image: {failure.error}")
        return None


class ComparingJudge(JudgeReward):
    """A judge whose way compares: a `mmreward.preference.Comparer` too."""

    def compare(self, pairs: Sequence[Pair]) -> list[Preference]:
        """One preference for each pair, in order; one that cannot be compared has a status."""
        preferences: dict[int, Preference] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, pair in enumerate(pairs):
            if failure := self._check_pair(*pair):
                preferences[index] = Preference.failed(failure.status, failure.error)
            else:
                groups.setdefault((pair[0].group, pair[0].criteria or ""), []).append(index)
        asked, places = [], []
        for members in groups.values():
            digests = {index: [image_digest(edit.image("edited")) for edit in pairs[index]] for index in members}
            edits = {digest: edit for index in members for digest, edit in zip(digests[index], pairs[index])}
            place = {digest: number for number, digest in enumerate(edits)}
            asked.append(_group(list(edits.values())))
            places.append([(place[first], place[second]) for first, second in digests.values()])
        way = cast(PairWay, self.way)
        for members, results in zip(groups.values(), way.compare(asked, places, self.backend), strict=True):
            preferences |= zip(members, results, strict=True)
        return [
            self._with_provenance(preferences[i], source=first, first=first, second=second)
            for i, (first, second) in enumerate(pairs)
        ]

    def _check_pair(self, first: Edit, second: Edit) -> Failure | None:
        for name, edit in (("first", first), ("second", second)):
            if failure := self._check(edit):
                return Failure(failure.status, f"{name}: {failure.error}")
        if (first.group, first.criteria or "") != (second.group, second.criteria or ""):
            error = "the two edits are not of one source by one instruction with the same criteria"
            return Failure("not_applicable", error)
        return None


def _group(edits: Sequence[Edit]) -> Group:
    first = edits[0]
    images = tuple(edit.image("edited") for edit in edits)
    return Group(first.instruction, first.image("source"), images, first.criteria or "")
