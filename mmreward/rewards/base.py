"""What rewards that look at each edit by itself have in common; a new one is its measurement and nothing else.

    class Sharpness(Pointwise):
        '''`overall` is …'''

        name, dims = "sharpness", ("quality",)

        def measure(self, edits):
            return [Score(value, {"quality": value}) for value in map(sharpness_of, edits)]

`Pointwise.score` opens the images, refuses rows to which the reward does not apply, measures in batches, and puts the
scores back in order with provenance. A row that fails changes nothing for the others: where a batch raises, each of its
rows is measured alone.
"""

__all__ = ["Pointwise", "outside"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mmreward.domain import ANY, check
from mmreward.edit import Edit, ImageName
from mmreward.reward import Reward, failure_of, one_per_edit
from mmreward.score import Failure, Score

_MOST_PIXELS = 2**27
"""A batch is measured early once so many pixels have been opened for it (400 MB as RGB), however few edits that is."""


@dataclass(frozen=True)
class _Row:
    """An edit, and what `prepare` made of it or why there is nothing to measure; `pixels` were opened for it."""

    edit: Edit
    content: Any
    pixels: int = 0


class Pointwise(Reward):
    """A reward of which each score depends on its own edit alone.

    A subclass gives `measure`, and sets what differs from the defaults below. `_provenance` goes into every score,
    failed ones as well.
    """

    needs: ClassVar[tuple[ImageName, ...]] = ("source", "edited")
    """Images without which a row cannot be measured; they are open when `prepare` is called."""
    batch: int = 1
    """Most edits in one call of `measure`. Scores do not depend on it."""
    domain: str = ANY
    """Where the reward is valid (`mmreward.domain`)."""
    _provenance: Mapping[str, Any] = {}

    def measure(self, rows: Sequence[Any]) -> list[Score | Failure]:
        """One result per row, in order; `rows` are what `prepare` gave: by default edits with their images open."""
        raise NotImplementedError

    def prepare(self, edit: Edit) -> Any:
        """What `measure` gets of an edit that applies: the edit, or what is small of it (a resized image). May raise
        ImageError, or return a Failure.
        """
        return edit

    def applies(self, edit: Edit) -> Failure | None:
        """The reward applies where there is an instruction and the source lies in the domain. May raise ImageError."""
        if not edit.instruction.strip():
            return Failure("not_applicable", "the instruction is empty")
        return outside(self.domain, edit)

    def about(self, edit: Edit) -> Mapping[str, Any]:
        """Provenance of this edit's score, failed or not, beside that of the reward."""
        return {}

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        scores: list[Score] = []
        batch: list[_Row] = []
        for edit in edits:
            batch.append(self._open(edit))
            if len(batch) >= self.batch or sum(row.pixels for row in batch) >= _MOST_PIXELS:
                scores += self._scores(batch)
                batch = []
        return scores + self._scores(batch)

    def _open(self, edit: Edit) -> "_Row":
        try:
            if failure := self.applies(edit):
                return _Row(edit, failure)
            sizes = [edit.image(name).size for name in self.needs]
            return _Row(edit, self.prepare(edit), sum(width * height for width, height in sizes))
        except Exception as error:
            return _Row(edit, failure_of(error))

    def _scores(self, batch: Sequence["_Row"]) -> list[Score]:
        measured = iter(self._measured([row.content for row in batch if not isinstance(row.content, Failure)]))
        results = [row.content if isinstance(row.content, Failure) else next(measured) for row in batch]
        return [self._signed(row.edit, result) for row, result in zip(batch, results, strict=True)]

    def _measured(self, rows: Sequence[Any]) -> list[Score | Failure]:
        if not rows:
            return []
        try:
            results = self.measure(rows)
        except Exception as error:  # whatever a library raises for one row must not cost the others
            if len(rows) == 1:
                return [failure_of(error)]
        else:
            return one_per_edit(self, results, len(rows))
        return [result for row in rows for result in self._measured([row])]

    def _signed(self, edit: Edit, result: Score | Failure) -> Score:
        provenance = {**self._provenance, **self.about(edit)}
        if isinstance(result, Failure):
            return Score.failed(result.status, result.error, provenance=provenance)
        return replace(result, provenance={**provenance, **result.provenance})


def outside(domain: str, edit: Edit) -> Failure | None:
    """`not_applicable` for an edit whose source lies outside of the domain. Raises ImageError."""
    reason = check(domain, edit)
    return Failure("not_applicable", reason) if reason else None
