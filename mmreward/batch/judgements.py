"""What people and judges said of edits, as tables: one of pairs, one of single edits. `mmreward compare` and votes
write them; training, calibration and benchmarks read them.

Pairs (`PairJudgement`): which of two edits of one source is better.

| column | what it holds |
|---|---|
| id, instruction | texts |
| source, first, second | images: paths relative to the table, or (Parquet) encoded bytes |
| p_first, p_tie | probability that the first edit is better, and that neither is (the rest is the second's); or null |
| both_bad | whether neither edit is acceptable (then each is a 0 label); null: nobody was asked |
| criterion | by what they were compared, by default "overall" |
| rater | who said so: a person, or the spec of a reward |
| weight | how much the row counts, by default 1 |
| status, error | those of a `Score` |

Single edits (`Judgement`): id, instruction, source, edited, either label (1 acceptable, 0 not) or rating (any finite
number, higher is better), and criterion, rater, weight, status, error as above.

Columns beside these are kept in `meta`. Only instruction, the images, and p_first, label or rating must be there.
"""

__all__ = ["Judgement", "PairJudgement", "read_judgements", "read_pair_judgements", "write_judgements"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from mmreward.batch.images import image_cells
from mmreward.batch.inputs import read_table
from mmreward.batch.output import write_records
from mmreward.batch.rows import Row, is_missing
from mmreward.score import Status

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_SHOWN = 3
"""Wrong rows that an error names."""


class _Common(BaseModel, frozen=True, extra="forbid"):
    id: str
    instruction: str
    source: Any
    """An image (`mmreward.edit.ImageLike`); None where status is not ok and there is none."""
    criterion: str = "overall"
    rater: str | None = None
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    status: Status = "ok"
    error: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    def _check_status(self, has_value: bool, names: str) -> None:
        if self.status == "ok" and not has_value:
            raise ValueError(f"status is ok and {names} is empty")
        if self.status != "ok" and (has_value or not self.error):
            raise ValueError(f"status is {self.status}: {names} must be empty and error say why")


class PairJudgement(_Common, frozen=True):
    """Which of two edits is better."""

    first: Any
    second: Any
    p_first: Probability | None = None
    p_tie: Probability | None = None
    both_bad: bool | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "PairJudgement":
        self._check_status(self.p_first is not None, "p_first")
        if (self.p_first or 0) + (self.p_tie or 0) > 1 + 1e-6:
            raise ValueError(f"p_first {self.p_first} and p_tie {self.p_tie} are more than 1 together")
        return self

    @property
    def p_second(self) -> float | None:
        """Probability that the second edit is the better one."""
        return None if self.p_first is None else max(0.0, 1 - self.p_first - (self.p_tie or 0))


class Judgement(_Common, frozen=True):
    """What one edit was found to be."""

    edited: Any
    label: Annotated[int, Field(ge=0, le=1)] | None = None
    rating: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Judgement":
        if self.label is not None and self.rating is not None:
            raise ValueError("there is a label and a rating; a row has one of them")
        self._check_status(self.label is not None or self.rating is not None, "label or rating")
        return self


_Kind = TypeVar("_Kind", PairJudgement, Judgement)
_IMAGES: dict[type[BaseModel], tuple[str, ...]] = {
    PairJudgement: ("source", "first", "second"),
    Judgement: ("source", "edited"),
}
_VALUES: dict[type[BaseModel], tuple[str, ...]] = {
    PairJudgement: ("p_first", "p_tie", "both_bad"),
    Judgement: ("label", "rating"),
}
_SAYS = ("criterion", "rater", "weight", "status", "error")
_KINDS = {
    **dict.fromkeys(("id", "instruction", "criterion", "rater", "status", "error"), "text"),
    **dict.fromkeys(("p_first", "p_tie", "weight", "rating"), "number"),
    "both_bad": "bool",
}


def read_pair_judgements(path: str | Path, mapping: Mapping[str, str] | None = None) -> list[PairJudgement]:
    """The pairs of a file. `mapping` names columns that are called otherwise: text and images -> column. Raises
    ValueError or OSError, which name the first rows that are wrong.
    """
    return _read(path, mapping, PairJudgement, ("p_first",))


def read_judgements(path: str | Path, mapping: Mapping[str, str] | None = None) -> list[Judgement]:
    """The single edits of a file, as `read_pair_judgements` reads pairs."""
    return _read(path, mapping, Judgement, ("label", "rating"))


def write_judgements(
    path: Path,
    judgements: Sequence[PairJudgement] | Sequence[Judgement],
    beside: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write one table, whole or not at all: its columns, those `beside` each row, and what stands in `meta`, under
    `input_<name>` where it is called like one of the others. Paths are written relative to the table.
    """
    columns = beside if beside is not None else [{}] * len(judgements)
    records = [{**_record(judgement, path), **more} for judgement, more in zip(judgements, columns, strict=True)]
    write_records(path, records, [judgement.meta for judgement in judgements], _KINDS)


def _record(judgement: _Common, path: Path) -> dict[str, Any]:
    kind = type(judgement)
    images = {name: image for name in _IMAGES[kind] if (image := getattr(judgement, name)) is not None}
    cells = image_cells(images, path.parent)
    record: dict[str, Any] = {"id": judgement.id, "instruction": judgement.instruction}
    record |= {name: cells.get(name) for name in _IMAGES[kind]}
    return record | {name: getattr(judgement, name) for name in (*_VALUES[kind], *_SAYS)}


def _read(path: str | Path, mapping: Mapping[str, str] | None, kind: type[_Kind], one_of: Sequence[str]) -> list[_Kind]:
    images: tuple[str, ...] = _IMAGES[kind]
    rows = read_table(path, mapping, ("instruction", *images), image_fields=images)
    if not set(one_of) & set(rows.columns):
        raise ValueError(f"{path} has no column {' or '.join(one_of)}; it has: {', '.join(rows.columns)}")
    judgements: list[_Kind] = []
    wrong = []
    for number, row in enumerate(rows, 1):
        try:
            judgements.append(_judgement(row, kind))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            wrong.append(f"row {number} ({row.id}): {where}{first['msg'].removeprefix('Value error, ')}")
        except ValueError as error:
            wrong.append(f"row {number} ({row.id}): {error}")
    if wrong:
        shown = "; ".join(wrong[:_SHOWN])
        raise ValueError(f"{path}: {len(wrong)} of {rows.total} rows are wrong: {shown}{' …' * (len(wrong) > _SHOWN)}")
    return judgements


def _judgement(row: Row, kind: type[_Kind]) -> _Kind:
    columns = (*_VALUES[kind], *_SAYS)
    values = {name: row.meta[name] for name in columns if not is_missing(row.meta.get(name))}
    if row.error and values.get("status", "ok") == "ok":
        raise ValueError(row.error)
    texts = {name: text for name, text in row.texts.items() if name != "instruction"}
    meta = {name: value for name, value in row.meta.items() if name not in columns} | texts
    images = {name: row.images.get(name) for name in _IMAGES[kind]}
    return kind.model_validate({"id": row.id, "instruction": row.instruction, "meta": meta, **images, **values})
