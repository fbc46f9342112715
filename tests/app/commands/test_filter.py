"""`mmreward filter` as people call it, and its output as the data of a training recipe."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.cli import main
from editing.data import TaskConfig, load_tasks
from mmreward.batch.filter import best
from mmreward.reward import Reward
from mmreward.score import Score


class Blueness(Reward):
    """The share of blue in the edited image, with feedback; the row `odd` is refused."""

    name, dims = "blueness", ("instruction_following",)

    def score(self, edits):
        return [self.one(edit) for edit in edits]

    def one(self, edit):
        if edit.id == "odd":
            return Score.failed("refused", "the judge declined")
        blue = edit.image("edited").getpixel((0, 0))[2] / 255
        return Score(blue, {"instruction_following": blue}, rationale=f"blue is {blue:.1f}")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("app.commands.filter.load_reward", lambda spec: Blueness())

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main(["filter", *(str(argument) for argument in arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return exit.value.code or 0, said.out + said.err

    return call


@pytest.fixture
def noisy(tmp_path):
    """Five triplets with more and more blue, and one that is refused."""
    (tmp_path / "set").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / "source.png")
    rows = []
    for number in range(5):
        Image.new("RGB", (8, 8), (0, 0, 50 * number)).save(tmp_path / "set" / f"{number}.png")
        rows.append({"id": f"r{number}", "instruction": "make it blue", "source": "source.png"})
        rows[-1] |= {"target": f"{number}.png", "criteria": "all of it", "overall": "mine"}
    rows.append({**rows[0], "id": "odd"})
    (tmp_path / "set" / "noisy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "set" / "noisy.jsonl"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_best_are_kept_with_score_and_feedback_and_failures_never(run, noisy, tmp_path):
    code, said = run(noisy, "--keep", 0.4, "--out", "out/best.jsonl")
    rows = read(tmp_path / "out" / "best.jsonl")
    assert code == 1 and "Kept 2 of 6 rows of noisy.jsonl by blueness" in said
    assert "1 refused, never kept: the judge declined" in said
    assert [row["id"] for row in rows] == ["r3", "r4"] and [row["kept"] for row in rows] == [True, True]
    last = rows[1]
    assert last["overall"] == pytest.approx(200 / 255) and last["rationale"] == "blue is 0.8"
    assert (last["instruction"], last["criteria"], last["input_overall"]) == ("make it blue", "all of it", "mine")
    assert last["target"] == "../set/4.png"


def test_the_output_is_the_data_of_a_recipe(run, noisy, tmp_path):
    run(noisy, "--keep", 0.4, "--out", "best.parquet")
    task = load_tasks(TaskConfig(file=tmp_path / "best.parquet")).task(0)
    assert task.instruction == "make it blue" and task.criteria == "all of it"
    assert task.meta["overall"] > 0.5 and task.meta["rationale"].startswith("blue is")
    assert task.edit(task.source, with_target=True).image("target").getpixel((0, 0))[2] >= 150


def test_all_rows_say_whether_they_are_kept(run, noisy, tmp_path):
    code, _ = run(noisy, "--keep", 0.4, "--all", "--out", "all.parquet")
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert code == 1 and len(rows) == 6
    assert [row["kept"] for row in rows] == [False] * 3 + [True] * 2 + [False]
    assert rows[5]["status"] == "refused" and rows[5]["overall"] is None


def test_images_inside_a_table_stay_inside(run, tmp_path):
    import pyarrow as pa

    Image.new("RGB", (8, 8), (0, 0, 200)).save(tmp_path / "blue.png")
    image = (tmp_path / "blue.png").read_bytes()
    pq.write_table(pa.Table.from_pylist([{"instruction": "x", "source": image, "target": image}]), "in.parquet")
    code, said = run("in.parquet", "--out", "out.jsonl")
    assert code == 2 and "holds its images itself (column of 'source'), which JSONL cannot; write out.parquet" in said
    assert run("in.parquet", "--out", "out.parquet")[0] == 0
    task = load_tasks(TaskConfig(file=tmp_path / "out.parquet")).task(0)
    assert task.source.getpixel((0, 0)) == (0, 0, 200)


def test_nothing_scored_is_nothing_kept(run, noisy, tmp_path):
    noisy.write_text(noisy.read_text().splitlines()[-1] + "\n")
    code, said = run(noisy, "--out", "best.jsonl")
    assert code == 1 and "No row of noisy.jsonl was scored" in said and not (tmp_path / "best.jsonl").exists()


def test_wrong_calls(run, noisy, tmp_path):
    assert run(noisy, "--out", "best.csv")[0] == 2
    code, said = run(noisy, "--keep", 0, "--out", "best.jsonl")
    assert code == 2 and "--keep 0 would keep nothing" in said
    (tmp_path / "no.jsonl").write_text('{"instruction": "x", "source": "a.png"}\n')
    code, said = run("no.jsonl", "--out", "best.jsonl")
    assert code == 2 and "no column 'edited'" in said
    code, said = run("--help")
    assert code == 0 and "mmreward filter triplets.jsonl" in said


def test_best_takes_a_share_of_the_scored_the_earlier_of_equals():
    failed = Score.failed("timeout", "late")
    scores = [Score(0.5), failed, Score(0.9), Score(0.5), Score(0.1)]
    assert best(scores, 0.5) == [True, False, True, False, False]
    assert best(scores, 0.01) == [False, False, True, False, False]
    assert best(scores, 1.0) == [True, False, True, True, True] and best([failed], 0.5) == [False]
