"""`mmreward score` as people call it: exit codes, messages, outputs; and never a traceback."""

import io
import json
import math
import sys

import pytest
from PIL import Image

from app.cli import main
from mmreward import Reward, Score


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `mmreward …` in an empty folder; returns exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return exit.value.code or 0, said.out + said.err

    return call


@pytest.fixture
def triplets(tmp_path):
    """Three edits, the last without a target."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    rows = [
        {"id": f"r{i}", "task": "t", "instruction": "make it blue", "source": "a.png", "target": "b.png"}
        for i in (0, 1)
    ]
    rows.append({"id": "r2", "task": "u", "instruction": "make it blue", "source": "a.png"})
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "triplets.jsonl"


def test_the_bundled_examples_need_no_argument(run):
    code, said = run("score", "--reward", "pixels")
    assert code == 0 and "24 rows of edits.jsonl, scored with pixels: 24 ok" in said
    assert "recolour-right" in said and "preservation" in said


def test_the_bundled_examples_have_the_labels_that_the_oracle_reads(run, tmp_path):
    code, _ = run("score", "--reward", "oracle", "--out", "s.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert code == 0 and len(rows) == 24
    for row in rows:
        # the flaw "blur" can make the oracle misread a shape; it then scores the edit lower, never higher
        assert row["overall"] == pytest.approx(row["oracle_label"], abs=0.02) or row["overall"] < row["oracle_label"]


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.parquet", "new/folder/scores.jsonl"])
def test_failed_rows_are_in_the_output_and_in_the_exit_code(run, triplets, tmp_path, name):
    code, said = run("score", triplets, "--map", "edited=target", "--reward", "pixels", "--out", name)
    assert code == 1 and "2 ok · 1 io_error" in said and f"Written to {name}" in said
    assert "io_error: edited image missing: the column 'target' is empty (row r2)" in said
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [row["id"] for row in rows] == ["r0", "r1", "r2"] and rows[2]["overall"] is None
        assert [row["task"] for row in rows] == ["t", "t", "u"]


def test_not_applicable_rows_are_no_failure_beside_others(run, tmp_path, triplets):
    row = {**json.loads(triplets.read_text().splitlines()[0]), "edited": "b.png"}
    empty = {**row, "instruction": ""}
    (tmp_path / "e.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(empty))
    code, said = run("score", "e.jsonl", "--reward", "pixels")
    assert code == 0 and "1 not_applicable" in said and "the instruction is empty" in said
    (tmp_path / "e.jsonl").write_text(json.dumps(empty))
    code, said = run("score", "e.jsonl", "--reward", "pixels")
    assert code == 1 and "No row has a score: none has an instruction" in said


def test_photos_with_a_reward_that_knows_none_are_no_success(run, tmp_path):
    """Not photos, but as far from the shapes world."""
    for name in "ab":
        Image.effect_noise((96, 64), 60).save(tmp_path / f"{name}.png")
    rows = [{"instruction": "make it warmer", "source": "a.png", "edited": "b.png"}] * 3
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = run("score", "e.jsonl", "--reward", "clip:tiny", "--out", "s.jsonl")
    assert code == 1 and "3 not_applicable" in said
    assert "No row has a score: clip:tiny applies to none of these edits. Photos are judged by" in said
    assert "--reward vlm:Qwen/Qwen2.5-VL-7B-Instruct" in said and "--reward pixels" in said
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 3
    code, said = run("filter", "e.jsonl", "--reward", "clip:tiny", "--out", "f.jsonl")
    assert code == 1 and "clip:tiny applies to none of these edits" in said


def test_a_path_that_is_wanted_is_whole_in_a_narrow_terminal(run, triplets, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [json.loads(line) for line in triplets.read_text().splitlines()]
    rows[0]["id"], rows[1]["id"] = "a-rather-long-id-of-a-row/edit-1", "a-rather-long-id-of-a-row/edit-2"
    rows[2]["target"] = "a/folder/whose/name/is/long/enough/for/a/line/" + "x" * 60 + ".png"
    triplets.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = "a/rather/deep/folder/of/results/that/takes/more/than/eighty/columns/of/a/terminal/scores.jsonl"
    code, said = run("score", triplets, "--map", "edited=target", "--reward", "pixels", "--out", name)
    assert f"Written to {name}" in said.splitlines()
    assert any(str(tmp_path / rows[2]["target"]) in line for line in said.splitlines())
    assert "a-rather-long…a-row/edit-1 " in said and "a-rather-long…a-row/edit-2 " in said


def test_from_a_pipe_to_a_pipe(triplets, tmp_path, monkeypatch, capfdbinary):
    class Input:
        buffer = io.BytesIO(triplets.read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["score", "-", "--map", "edited=target", "--reward", "pixels", "--out", "-"])
    out, err = capfdbinary.readouterr()
    assert exit.value.code == 1
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["r0", "r1", "r2"]
    assert b"3 rows of standard input, scored with pixels: 2 ok" in err and b"Written" not in err


def test_dimensions_without_an_overall_are_a_success(run, triplets, tmp_path, monkeypatch):
    class Parts(Reward):
        name, dims, has_overall = "parts", ("quality",), False

        def score(self, edits):
            return [Score(math.nan, {"quality": 0.25}, has_overall=False) for _ in edits]

    monkeypatch.setattr("app.commands.score.load_reward", lambda spec: Parts())
    triplets.write_text("".join(triplets.read_text().splitlines(keepends=True)[:2]))
    code, said = run("score", triplets, "--map", "edited=target", "--out", "s.jsonl")
    assert code == 0 and "2 ok" in said and "0.250" in said and "nan" not in said and "overall" not in said
    assert [json.loads(line)["overall"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "there is no file or folder 'nowhere.jsonl'"),
        (["triplets.jsonl"], "no column 'edited'; it has: id, task, instruction, source, target"),
        (["triplets.jsonl", "--map", "edited"], "--map is written FIELD=COLUMN"),
        (["triplets.jsonl", "--map", "edited=tarket"], "Did you mean 'target'?"),
        (["triplets.jsonl", "--map", "edited=target", "--map", "edited=task"], "names the field 'edited' twice"),
        (["triplets.jsonl", "--map", "edited=target", "--reward", "pixls"], "Did you mean 'pixels'?"),
        (["triplets.jsonl", "--map", "edited=target", "--reward", "mine.yaml"], "there is no file 'mine.yaml'"),
        (["triplets.jsonl", "--map", "edited=target", "--out", "scores.csv"], "written as .parquet or .jsonl"),
        (["triplets.jsonl", "--map", "edited=target", "--out", "triplets.jsonl"], "exists; add --overwrite"),
        (["triplets.jsonl", "--out", "triplets.jsonl/scores.jsonl"], "cannot write to the folder"),
        (["--batch-size", "0"], "batch-size"),
        (["--rewart", "pixels"], "No such option"),
        (["a", "b"], "unexpected extra argument"),
    ],
)
def test_a_wrong_call_is_exit_code_2_and_a_sentence(run, triplets, arguments, message):
    code, said = run("score", *arguments)
    assert code == 2 and message in said
    assert len(said.splitlines()) < 12


def test_nothing_is_replaced_unasked(run, triplets, tmp_path):
    call = ("score", triplets, "--map", "edited=target", "--reward", "pixels", "--out", "s.jsonl")
    assert [run(*call)[0], run(*call)[0], run(*call, "--overwrite")[0]] == [1, 2, 1]


def test_help_and_unknown_commands(run):
    assert run("--help")[0] == 0 and run()[0] == 2 and run("--version")[0] == 0
    code, said = run("scroe")
    assert code == 2 and "unknown command 'scroe'. Did you mean 'score'?" in said
    code, said = run("score", "--help")
    assert code == 0 and "mmreward score edits.jsonl --reward pixels --out scores.parquet" in said


def test_a_stop_and_a_bug_are_said_in_a_sentence(run, triplets, monkeypatch, tmp_path):
    import app.commands.score as command

    for error, expected, sentence in [
        (KeyboardInterrupt(), 130, "stopped after 0 of 3 rows; nothing was written"),
        (RuntimeError("out of memory"), 3, "RuntimeError: out of memory"),
    ]:

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(command, "score_rows", fail)
        code, said = run("score", triplets, "--map", "edited=target", "--reward", "pixels", "--out", "s.jsonl")
        assert code == expected and sentence in said and not (tmp_path / "s.jsonl").exists()
