"""`mmreward filter` as people call it, and its output as the data of a training recipe."""

import io
import json
import math
import sys

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


def test_of_two_results_the_caller_says_which(run, tmp_path):
    for name, blue in {"a": 0, "b": 100, "c": 200}.items():
        Image.new("RGB", (8, 8), (0, 0, blue)).save(tmp_path / f"{name}.png")
    row = {"id": "r", "instruction": "x", "source": "a.png", "edited": "b.png", "target": "c.png"}
    (tmp_path / "both.jsonl").write_text(json.dumps(row))
    code, said = run("both.jsonl", "--out", "out.jsonl")
    assert code == 2 and "has the columns edited and target; say which" in said and "--map edited=target" in said
    assert run("both.jsonl", "--map", "edited=target", "--out", "target.jsonl")[0] == 0
    (kept,) = read(tmp_path / "target.jsonl")
    assert kept["overall"] == pytest.approx(200 / 255) and (kept["target"], kept["edited"]) == ("c.png", "b.png")
    assert run("both.jsonl", "--map", "edited=edited", "--out", "edited.jsonl")[0] == 0
    (kept,) = read(tmp_path / "edited.jsonl")
    assert kept["overall"] == pytest.approx(100 / 255) and (kept["target"], kept["edited"]) == ("c.png", "b.png")


def test_a_reward_that_cannot_see_the_instruction_is_warned_of(run, noisy, monkeypatch):
    from mmreward import load_reward

    monkeypatch.setattr("app.commands.filter.load_reward", lambda spec: load_reward("pixels"))
    code, said = run(noisy, "--reward", "pixels", "--out", "best.jsonl")
    assert "pixels measures preservation and quality and not whether the instruction was followed" in said


class Parts(Blueness):
    """Dimensions and no one number."""

    name, dims, has_overall = "parts", ("instruction_following", "quality"), False

    def one(self, edit):
        score = super().one(edit)
        dims = {"instruction_following": score.overall, "quality": 1 - score.overall}
        return Score(math.nan, dims, has_overall=False) if score.ok else score


def test_a_reward_without_an_overall_needs_a_dimension(run, noisy, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.filter.load_reward", lambda spec: Parts())
    code, said = run(noisy, "--out", "best.jsonl")
    assert code == 2 and "--by DIMENSION" in said and not (tmp_path / "best.jsonl").exists()
    assert "cannot see" not in said and "instruction was followed" not in said
    code, said = run(noisy, "--by", "quality", "--keep", "0.4", "--out", "best.jsonl")
    assert [row["id"] for row in read(tmp_path / "best.jsonl")] == ["r0", "r1"]
    assert read(tmp_path / "best.jsonl")[0]["overall"] == 1
    assert "measures quality and not whether the instruction was followed" in said


def test_columns_of_the_input_are_kept_beside_ours(run, noisy, tmp_path):
    rows = [{**row, "kept": "mine", "input_overall": "older"} for row in read(noisy)[:2]]
    noisy.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(noisy, "--keep", 1, "--out", "best.jsonl")[0] == 0
    first = read(tmp_path / "best.jsonl")[0]
    assert (first["kept"], first["input_kept"]) == (True, "mine")
    assert (first["input_overall"], first["input_input_overall"]) == ("older", "mine")


def test_from_a_pipe_to_a_pipe(noisy, monkeypatch, capfdbinary):
    class Input:
        buffer = io.BytesIO(noisy.read_bytes())

    monkeypatch.setattr("app.commands.filter.load_reward", lambda spec: Blueness())
    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.chdir(noisy.parent)
    with pytest.raises(SystemExit):
        main(["filter", "-", "--keep", "0.4", "--out", "-"])
    out, err = capfdbinary.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == ["r3", "r4"] and rows[0]["target"] == "3.png" and b"Kept 2 of 6" in err


def test_wrong_calls(run, noisy, tmp_path):
    assert run(noisy, "--out", "best.csv")[0] == 2
    code, said = run(noisy, "--keep", 0, "--out", "best.jsonl")
    assert code == 2 and "--keep 0 would keep nothing" in said
    (tmp_path / "no.jsonl").write_text('{"instruction": "x", "source": "a.png"}\n')
    code, said = run("no.jsonl", "--out", "best.jsonl")
    assert code == 2 and "no column 'edited'" in said
    code, said = run("--help")
    assert code == 0 and "mmreward filter triplets.jsonl" in said


@pytest.mark.parametrize(("share", "of", "kept"), [(0.29, 100, 29), (0.57, 100, 57), (0.3, 10, 3), (0.001, 100, 1)])
def test_a_share_is_as_many_rows_as_it_says(share, of, kept):
    assert sum(best([Score(0.5)] * of, share)) == kept


def test_best_takes_a_share_of_the_scored_the_earlier_of_equals():
    failed = Score.failed("timeout", "late")
    scores = [Score(0.5), failed, Score(0.9), Score(0.5), Score(0.1)]
    assert best(scores, 0.5) == [True, False, True, False, False]
    assert best(scores, 0.01) == [False, False, True, False, False]
    assert best(scores, 1.0) == [True, False, True, True, True] and best([failed], 0.5) == [False]
