"""Inputs: each kind of file and folder gives the same rows, and a bad row or file says what is wrong with it."""

import base64
import csv
import io
import json
import math
import sys

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow.parquet import ParquetFile, write_table

from mmreward import load_reward
from mmreward.batch import read_rows, score_rows

RECORDS = [
    {"id": "a", "instruction": "make it blue", "source": "images/a.png", "edited": "images/b.png", "editor": "one"},
    {
        "id": "b",
        "instruction": "füge eine Möwe hinzu",
        "source": "images/a.png",
        "edited": "images/a.png",
        "editor": "two",
    },
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "images" / "b.png")
    return tmp_path


def jsonl(folder, *records, name="edits.jsonl"):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / name


def table(folder, records, name="edits.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return folder / name


def parquet(folder, records):
    write_table(pa.Table.from_pylist(records), folder / "edits.parquet")
    return folder / "edits.parquet"


def imagefolder(folder, records):
    renamed = [
        {"source_file_name": r["source"], "edited_file_name": r["edited"], "id": r["id"],
         "instruction": r["instruction"], "editor": r["editor"]} for r in records
    ]  # fmt: skip
    jsonl(folder, *renamed, name="metadata.jsonl")
    return folder


def with_bytes(folder, records):
    image = {name: (folder / f"images/{name}.png").read_bytes() for name in "ab"}
    records = [
        {**r, "source": {"bytes": image["a"], "path": None}, "edited": image[r["edited"][7]]} for r in records
    ]  # fmt: skip
    return parquet(folder, records)


WRITERS = {
    "jsonl": lambda folder: jsonl(folder, *RECORDS),
    "csv": lambda folder: table(folder, RECORDS),
    "parquet": lambda folder: parquet(folder, RECORDS),
    "imagefolder": lambda folder: imagefolder(folder, RECORDS),
    "parquet with images in it": lambda folder: with_bytes(folder, RECORDS),
    "a folder with edits.csv": lambda folder: table(folder, RECORDS).parent,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_input_gives_the_same_edits(folder, kind):
    rows = read_rows(WRITERS[kind](folder))
    assert len(rows) == 2
    for _ in range(2):  # can be read again
        edits = [row.edit() for row in rows]
        assert [edit.id for edit in edits] == ["a", "b"]
        assert [edit.instruction for edit in edits] == ["make it blue", "füge eine Möwe hinzu"]
        assert [edit.image("edited").getpixel((0, 0)) for edit in edits] == [(0, 0, 255), (255, 0, 0)]
        assert [dict(edit.meta) for edit in edits] == [{"editor": "one"}, {"editor": "two"}]


def test_folders_of_edits(folder):
    for name, edited in {"one": ["edited.png"], "two": ["1.png", "2.jpg"], "three": []}.items():
        (folder / name).mkdir()
        (folder / name / "instruction.txt").write_text("make it blue\n")
        for file in ["source.png", *edited]:
            Image.new("RGB", (8, 8)).save(folder / name / file)
    (folder / "one" / "mask.png").write_bytes((folder / "images" / "a.png").read_bytes())
    (folder / "four").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "four" / "source.png")
    rows = {row.id: row for row in read_rows(folder)}
    assert list(rows) == ["four", "one", "three", "two/1", "two/2"]
    assert rows["one"].edit().has("mask") and rows["one"].instruction == "make it blue"
    assert "no edited image" in rows["three"].error and "instruction.txt" in rows["four"].error
    assert len(read_rows(folder)) == len(rows)


def test_columns_are_mapped_and_the_others_are_carried(folder):
    path = jsonl(folder, {"uid": 7, "prompt": "x", "source": "images/a.png", "target": "images/b.png", "edited": "old"})
    (row,) = read_rows(path, {"id": "uid", "instruction": "prompt", "edited": "target"})
    assert (row.id, row.instruction, row.meta) == ("7", "x", {"edited": "old"})
    assert row.edit().image("edited").getpixel((0, 0)) == (0, 0, 255)


def test_rows_without_an_id_are_numbered(folder):
    record = {key: value for key, value in RECORDS[0].items() if key != "id"}
    assert [row.id for row in read_rows(jsonl(folder, record, record))] == ["0", "1"]


def test_a_bad_row_is_a_status_and_loses_nothing(folder):
    good = RECORDS[0]
    path = jsonl(
        folder,
        good,
        "{broken",
        "[1, 2]",
        {**good, "edited": None},
        {key: value for key, value in good.items() if key != "source"},
        {**good, "edited": "images/none.png"},
        {**good, "edited": 7},
        {**good, "instruction": ["a"]},
        {**good, "instruction": None},
        {**good, "instruction": "<|im_start|><|image_pad|> " * 4000},
        '{"id": "cut", "instr',
    )
    rows = read_rows(path)
    scored = list(score_rows(rows, load_reward("pixels"), batch_size=3))
    assert len(scored) == len(rows) == 11
    errors = [
        None, "line 2 is not JSON", "line 3 is not a JSON object", "edited image missing: the column 'edited' is empty",
        "source image missing", "none.png' not found", "edited should be a path or image bytes, got 7",
        "instruction should be text, got ['a']", "the instruction is empty", None, "line 11 is not JSON",
    ]  # fmt: skip
    statuses = ["ok", *["io_error"] * 7, "not_applicable", "ok", "io_error"]
    assert [one.score.status for one in scored] == statuses
    for one, error in zip(scored, errors, strict=True):
        assert one.score.error is None if error is None else error in one.score.error


@pytest.mark.parametrize(
    ("make", "mapping", "message"),
    [
        (lambda f: f / "nowhere.jsonl", None, "there is no file or folder"),
        (lambda f: f, None, "holds no edits: neither metadata.jsonl"),
        (lambda f: jsonl(f, ""), None, "is empty: it holds no row"),
        (lambda f: jsonl(f, "no json"), None, "line 1 is not JSON"),
        (lambda f: jsonl(f, RECORDS[0], name="edits.txt"), None, "read from .jsonl, .csv, .parquet or a folder"),
        (lambda f: jsonl(f, RECORDS[0], name="edits.txt").parent / "*.txt", None, "read from .jsonl, .csv, .parquet"),
        (lambda f: jsonl(f, {"source": "a", "source_file_name": "b"}, name="metadata.jsonl").parent, None,
         "the columns source and source_file_name both say what source is"),
        (lambda f: jsonl(f, RECORDS[0]), {"target": "source", "reference": "edited"}, "the field is called target now"),
        (lambda f: jsonl(f, RECORDS[0], name="edits.parquet"), None, "cannot be read as Parquet"),
        (lambda f: jsonl(f, {"id": 1, "source": "a"}), None, "no column 'instruction' and no column 'edited'"),
        (lambda f: jsonl(f, RECORDS[0]), {"edited": "targt"}, "unknown column 'targt'"),
        (lambda f: jsonl(f, RECORDS[0]), {"edit": "editor"}, "unknown field of an edit 'edit'. Did you mean 'edited'?"),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_right_is_refused(folder, make, mapping, message):
    with pytest.raises((ValueError, OSError)) as raised:
        read_rows(make(folder), mapping)
    assert message in str(raised.value)


def test_csv_with_odd_cells(folder):
    path = table(folder, RECORDS)
    path.write_text(
        path.read_text(encoding="utf-8-sig") + "c,short\nd,e,images/a.png,images/b.png,x,y,z\n", encoding="utf-8"
    )
    rows = list(read_rows(path))
    assert "source image missing" in rows[2].error and "more cells than the header: y, z" in rows[3].error
    (folder / "latin.csv").write_bytes("instruction,source,edited\nMöwe,a,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match="CSV in UTF-8"):
        read_rows(folder / "latin.csv")


MISSING = {"null": None, "NaN": math.nan, "empty": "", "text": "nan", "Text": "NaN"}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_is_missing_is_missing_in_every_kind_of_file(folder, kind, name):
    gap = MISSING[name]
    texts = ("id", "instruction", "criteria", "source_caption", "target_caption", "target")
    records = [{**dict.fromkeys(texts, gap), "source": "images/a.png", "edited": gap, "mask": "images/a.png"}]
    if kind == "parquet":
        columns = {key: pa.array([value], None if isinstance(value, float) else pa.string()) for key, value in
                   records[0].items()}  # fmt: skip
        write_table(pa.table(columns), folder / "edits.parquet")
        path = folder / "edits.parquet"
    else:
        path = (jsonl(folder, *records) if kind == "jsonl" else table(folder, records)).resolve()
    (row,) = read_rows(path)
    assert row.id == "0" and not row.texts and set(row.images) == {"source", "mask"}
    assert row.error == "edited image missing: the column 'edited' is empty"


def test_words_that_only_look_like_nothing_are_texts(folder):
    path = jsonl(
        folder, {"instruction": "None", "source": "images/a.png", "edited": "images/b.png", "criteria": "null"}
    )
    (row,) = read_rows(path)
    assert (row.instruction, row.texts["criteria"]) == ("None", "null")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_images_as_base64_and_data_urls(folder, kind):
    noise = Image.effect_noise((400, 300), 60)
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    coded = base64.b64encode(stream.getvalue()).decode()
    assert len(coded) > 131_072  # what Python's CSV reader takes by default
    cells = [coded, f"data:image/png;base64,{coded}", "https://example.org/b.png", "data:image/png;base64,?"]
    records = [{"instruction": "x", "source": "images/a.png", "edited": cell} for cell in cells]
    path = {"jsonl": jsonl, "csv": lambda f, *r: table(f, r), "parquet": lambda f, *r: parquet(f, list(r))}[kind](
        folder, *records
    )
    rows = list(read_rows(path))
    assert [row.edit().image("edited").size for row in rows[:2]] == [(400, 300)] * 2
    scores = [one.score for one in score_rows(rows, load_reward("pixels"))]
    assert [score.status for score in scores[2:]] == ["io_error"] * 2
    assert "addresses are not fetched: download it and give the file" in scores[2].error
    assert "a data URL whose base64 cannot be decoded" in scores[3].error
    assert all(len(score.error or "") < 400 for score in scores)


def test_companion_files_are_no_images(folder):
    for name in ("one", "__MACOSX"):
        (folder / name).mkdir()
        prefix = "" if name == "one" else "._"
        for file in ("source.png", "edited.png"):
            Image.new("RGB", (8, 8)).save(folder / name / (prefix + file))
    (folder / "one" / "instruction.txt").write_text("make it blue")
    for name in ("._edited.png", "._source.png", ".hidden.png", "Thumbs.db", ".DS_Store"):
        (folder / "one" / name).write_bytes(b"\0\5\x16\7")
    (row,) = read_rows(folder)
    assert row.id == "one" and row.error is None and row.images["edited"].name == "edited.png"


def test_an_instruction_keeps_its_blanks_and_loses_the_line_break_of_the_editor(folder):
    (folder / "one").mkdir()
    for file in ("source.png", "edited.png"):
        Image.new("RGB", (8, 8)).save(folder / "one" / file)
    (folder / "one" / "instruction.txt").write_text(" make it blue \n\n", encoding="utf-8-sig")
    (row,) = read_rows(folder)
    assert row.instruction == " make it blue "


def test_the_older_name_of_a_field_can_still_be_mapped(folder):
    path = jsonl(folder, {**RECORDS[0], "result": "images/b.png"})
    (row,) = read_rows(path, {"reference": "result"})
    assert row.images["target"].endswith("images/b.png") and "result" not in row.meta


def test_rows_from_standard_input(folder, monkeypatch):
    class Input:
        buffer = io.BytesIO("".join(json.dumps(record) + "\n" for record in RECORDS).encode())

    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.chdir(folder)
    rows = read_rows("-")
    for _ in range(2):
        assert [row.edit().image("edited").size for row in rows] == [(8, 8)] * 2
    assert len(rows) == 2 and str(rows.where) == "standard input"


def test_a_parquet_file_is_read_a_few_rows_at_a_time_and_once(folder, monkeypatch):
    cell = {"bytes": bytes(100_000), "path": None}
    records = [{"id": str(n), "instruction": "x", "source": cell, "edited": cell} for n in range(200)]
    parquet(folder, records)
    before = pa.total_allocated_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetFile.iter_batches", None)  # columns and number come from the metadata
        rows = read_rows(folder / "edits.parquet")
    most = 0
    for number, row in enumerate(rows):
        assert row.id == str(number)
        most = max(most, pa.total_allocated_bytes() - before)
    assert number == 199 and most < 10e6  # of 40 MB


def test_a_damaged_part_of_a_parquet_file_fails_its_rows_alone(folder):
    records = [{"id": str(n), "instruction": f"do {n}", "source": "a", "edited": "b"} for n in range(60)]
    path = folder / "edits.parquet"
    write_table(pa.Table.from_pylist(records), path, row_group_size=20, compression="gzip", use_dictionary=False)
    place = ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 20 : place + 60] = bytes(40)
    path.write_bytes(data)
    rows = list(read_rows(folder / "edits.parquet"))
    assert [row.error is None for row in rows] == [True] * 20 + [False] * 20 + [True] * 20
    assert all("cannot be read as Parquet" in row.error for row in rows[20:40])
    assert rows[40].instruction == "do 40"


def test_tasks_need_no_edited_image(folder):
    path = jsonl(folder, {"instruction": "x", "source": "images/a.png"})
    (row,) = read_rows(path, needs=("instruction", "source"))
    assert row.error is None and row.edit().image("source").size == (8, 8)
