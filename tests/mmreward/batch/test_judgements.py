"""Tables of judgements: written and read again alike, and wrong rows are refused by name."""

import json
import math

import pytest
from PIL import Image

from mmreward.batch.judgements import (
    Judgement,
    PairJudgement,
    read_judgements,
    read_pair_judgements,
    write_judgements,
)

PAIR = {"id": "a", "instruction": "x", "source": "s.png", "first": "f.png", "second": "g.png", "p_first": 0.5}
SINGLE = {"id": "a", "instruction": "x", "source": "s.png", "edited": "e.png"}


@pytest.fixture
def folder(tmp_path):
    for name in "sfge":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def jsonl(folder, *records):
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "t.jsonl"


def test_a_table_of_pairs_is_read_as_it_was_written(folder):
    image = (folder / "s.png").read_bytes()
    whole = PairJudgement(id="a", instruction="x", source=str(folder / "s.png"), first=str(folder / "f.png"),
                          second=str(folder / "g.png"), p_first=0.25, p_tie=0.5, both_bad=True, criterion="quality",
                          rater="ann", weight=2.0, meta={"criteria": "all of it"})  # fmt: skip
    failed = PairJudgement(
        id="b", instruction="x", source=None, first=None, second=None, status="timeout", error="late"
    )
    assert whole.p_second == 0.25 and failed.p_second is None
    for name in ("new/t.jsonl", "t.parquet"):
        (folder / "new").mkdir(exist_ok=True)
        write_judgements(folder / name, [whole, failed])
        again = read_pair_judgements(folder / name)
        assert [one.model_dump(exclude={"source", "first", "second", "meta"}) for one in again] == [
            one.model_dump(exclude={"source", "first", "second", "meta"}) for one in (whole, failed)
        ]
        assert again[0].meta["criteria"] == "all of it"
        assert Image.open(again[0].first).size == (8, 8) and again[1].first is None
    inside = whole.model_copy(update={"source": image, "first": image, "second": image})
    write_judgements(folder / "t.parquet", [inside])
    assert read_pair_judgements(folder / "t.parquet")[0].second == image


def test_a_table_of_single_edits(folder):
    made = [
        Judgement(id="a", instruction="x", source=str(folder / "s.png"), edited=str(folder / "e.png"), label=1),
        Judgement(id="b", instruction="x", source=str(folder / "s.png"), edited=str(folder / "e.png"), rating=-7.5),
    ]
    write_judgements(folder / "t.parquet", made)
    assert [(one.label, one.rating) for one in read_judgements(folder / "t.parquet")] == [(1, None), (None, -7.5)]


def test_only_what_must_be_there_must_be_there(folder):
    (pair,) = read_pair_judgements(jsonl(folder, {key: PAIR[key] for key in PAIR if key != "id"}))
    assert (pair.id, pair.p_tie, pair.both_bad, pair.criterion, pair.weight) == ("0", None, None, "overall", 1.0)
    assert pair.p_second == 0.5
    (folder / "t.csv").write_text("instruction,source,edited,label,rating,rater\nx,s.png,e.png,0,,nan\n")
    (single,) = read_judgements(folder / "t.csv")
    assert (single.label, single.rating, single.rater) == (0, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_first": 1.5}, "row 2 .* p_first: Input should be less than or equal to 1"),
        ({"p_first": math.nan}, "status is ok and p_first is empty"),
        ({"p_first": "often"}, "p_first: Input should be a valid number"),
        ({"p_first": 0.7, "p_tie": 0.6}, "p_first 0.7 and p_tie 0.6 are more than 1 together"),
        ({"status": "timeout"}, "status is timeout: p_first must be empty and error say why"),
        ({"status": "late", "p_first": None}, "status: Input should be 'ok'"),
        ({"weight": -1}, "weight: Input should be greater"),
        ({"second": None}, "second image missing: the column 'second' is empty"),
    ],
)
def test_wrong_rows_are_named(folder, change, message):
    path = jsonl(folder, PAIR, {**PAIR, **change}, PAIR)
    with pytest.raises(ValueError, match=f"1 of 3 rows are wrong: .*{message}"):
        read_pair_judgements(path)


def test_tables_that_are_none(folder):
    with pytest.raises(ValueError, match="has no column label or rating; it has: id, instruction, source, edited"):
        read_judgements(jsonl(folder, SINGLE))
    with pytest.raises(ValueError, match="label: Input should be less"):
        read_judgements(jsonl(folder, {**SINGLE, "label": 3}))
    with pytest.raises(ValueError, match="a label and a rating"):
        read_judgements(jsonl(folder, {**SINGLE, "label": 1, "rating": 3}))
    with pytest.raises(ValueError, match="no column 'first' and no column 'second'"):
        read_pair_judgements(jsonl(folder, SINGLE))
