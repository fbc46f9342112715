"""Dataset folders of Hugging Face: shards on the Hub and on disk, one split at a time."""

import json

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow.parquet import write_table

from mmreward.batch import read_rows

NEEDS = ("instruction", "source")


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return {"bytes": (tmp_path / "red.png").read_bytes(), "path": "red.png"}


@pytest.fixture
def tables(image):
    """Two shards of two rows."""
    rows = [{"id": str(number), "instruction": f"do {number}", "source": image} for number in range(4)]
    return [pa.Table.from_pylist(rows[:2]), pa.Table.from_pylist(rows[2:])]


def parquet(folder, tables, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        write_table(table, folder / f"{split}-{number:05d}-of-{len(tables):05d}.parquet")


def saved(folder, tables):
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        with pa.ipc.new_stream(folder / f"data-{number:05d}-of-{len(tables):05d}.arrow", table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": []}))


def check(path):
    rows = read_rows(path, needs=NEEDS)
    assert len(rows) == 4 and [row.id for row in rows] == list("0123")
    assert [row.instruction for row in rows] == [f"do {number}" for number in range(4)]
    assert next(iter(rows)).edit().image("source").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("place", ["", "data"])
def test_parquet_shards_as_on_the_hub(tmp_path, tables, place):
    parquet(tmp_path / "set" / place, tables)
    check(tmp_path / "set")
    check(tmp_path / "set" / place / "train-*.parquet")


def test_what_save_to_disk_writes(tmp_path, tables):
    saved(tmp_path / "set", tables)
    check(tmp_path / "set")
    saved(tmp_path / "dict" / "train", tables)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    check(tmp_path / "dict")


def test_one_split_at_a_time(tmp_path, tables):
    parquet(tmp_path / "set" / "data", tables)
    parquet(tmp_path / "set" / "data", tables[:1], "test")
    with pytest.raises(ValueError, match="holds the splits test, train; name one: a pattern, .*data/test-.*parquet"):
        read_rows(tmp_path / "set", needs=NEEDS)
    check(tmp_path / "set" / "data" / "train-*.parquet")
    for split in ("train", "test"):
        saved(tmp_path / "dict" / split, tables)
    (tmp_path / "dict" / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the splits test, train; name one: the folder of one, .*dict/test"):
        read_rows(tmp_path / "dict", needs=NEEDS)
    check(tmp_path / "dict" / "train")


def test_what_cannot_be_read_is_said(tmp_path, tables):
    with pytest.raises(FileNotFoundError, match=r"no file '.*none-\*.parquet'"):
        read_rows(tmp_path / "none-*.parquet")
    saved(tmp_path / "set", tables)
    broken = tmp_path / "set" / "data-00001-of-00002.arrow"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match="00001-of-00002.arrow cannot be read as an Arrow stream"):
        read_rows(tmp_path / "set", needs=NEEDS)
    for file in (tmp_path / "set").glob("*.arrow"):
        file.unlink()
    with pytest.raises(ValueError, match="no .arrow file; was it copied whole"):
        read_rows(tmp_path / "set", needs=NEEDS)


def test_companion_files_are_no_shards(tmp_path, tables):
    parquet(tmp_path / "set", tables)
    (tmp_path / "set" / "._train-00000-of-00002.parquet").write_bytes(b"\0\5\x16\7")
    check(tmp_path / "set")
    check(tmp_path / "set" / "*.parquet")
    saved(tmp_path / "disk", tables)
    (tmp_path / "disk" / "._data-00000-of-00002.arrow").write_bytes(b"\0\5\x16\7")
    check(tmp_path / "disk")
