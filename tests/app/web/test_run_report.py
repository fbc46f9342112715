"""The report of a training run, from its files alone."""

import json
import re

import pytest
import yaml
from PIL import Image

from app.cli import main
from app.commands import train
from app.web.run_report import write_run_report

EVIL = "<script>alert('x')</script>"


def iteration(step, **more):
    statuses = {"ok": 6, "refused": 1, "timeout": 1}
    return {"kind": "train", "step": step, "reward": 0.5 + step / 100, "statuses": statuses, **more}


def look(step, change, **more):
    values = [round(0.2 + task / 100 + change + 0.001 * (task % 3), 3) for task in range(40)]
    return {"kind": "monitor", "step": step, "seconds": 6.0 * step, "overall": 0.4 + change, "values": values, **more}


def entries(change):
    """40 iterations, the reward rising, and the monitor at `change` times the number of its evaluation."""
    signs = {"diversity": 0.1, "changed_area": 0.3, "untouched": 0.2, "disagreement": 0.9, "clip_fraction": 0.02}
    lines = [look(0, 0.0, kl_nats=0.0)]
    for step in range(1, 41):
        lines.append(iteration(step, timing={"sample": 2.0, "update": 6.0}, **signs))
        if step % 10 == 0:
            lines.append(look(step, change * step / 10, kl_nats=float(step)))
    return lines


@pytest.fixture
def folder(tmp_path):
    def make(lines):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path

    return make


def test_all_is_drawn_and_the_page_is_whole_in_itself(folder):
    path = folder(entries(-0.05))
    recipe = {"editor": EVIL, "algorithm": {"name": "grpo"}, "rollout": {"groups": 4, "members": 2}}
    recipe["roles"] = {"reward": {"name": EVIL, "members": {"a": "pixels"}}, "monitor": "target", "final": "oracle"}
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before, after = {"overall": 0.4, "tasks": 64, "success": 0.25}, {"overall": 0.3, "tasks": 64, "success": 0.125}
    final = {"before": before, "after": after, "change": -0.1, "standard_error": 0.01, "pairs": 64}
    (path / "result.json").write_text(json.dumps({"iterations": 40, "seconds": 1.0, "final": final}))
    (path / "grids").mkdir()
    for step in (10, 20, 30, 40):
        Image.new("RGB", (90, 60), (200, 30, 30)).save(path / "grids" / f"iteration-{step:06d}.png")
    text = write_run_report(path).read_text()
    assert EVIL not in text and "&lt;script&gt;" in text
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "probably gamed" in text and "Alarm at iteration 30" in text and "was on at the end" in text
    assert "25.0 %" in text and "12.5 %" in text and "−0.100 ± 0.010" in text
    titles = re.findall(r'<div class="figure"><h3>([^<]*)', text)
    for word in ("Reward", "Monitor", "start", "Clipped", "Diversity", "changes", "Disagreement", "without a score"):
        assert any(word in title for title in titles), word
    assert "<polygon" in text  # the monitor's interval
    assert [f"iteration {n}<" in text for n in (10, 20, 30, 40)] == [True, False, True, True]  # three grids


def test_a_healthy_run_says_so_and_one_without_enough_says_why(folder):
    assert "No sign of a gamed reward" in write_run_report(folder(entries(0.05))).read_text()
    few = write_run_report(folder(entries(-0.05)[:12])).read_text()
    assert "Cannot tell whether the reward was gamed" in few and "it needs 4" in few and "No sign" not in few
    old = [{key: value for key, value in line.items() if key != "values"} for line in entries(-0.05)]
    text = write_run_report(folder(old)).read_text()
    assert "no scores of the monitor" in text and "<polygon" not in text


@pytest.mark.parametrize("blind", ["sparse log", "few tasks"])
def test_no_all_clear_where_the_alarm_cannot_tell(folder, blind):
    """The monitor falls and the reward rises, as in the gamed run above."""
    lines = entries(-0.05)
    if blind == "sparse log":
        lines = [line for line in lines if line["kind"] != "train" or line["step"] % 5 == 0]
    else:
        lines = [{**line, "values": line["values"][:6]} if "values" in line else line for line in lines]
    text = write_run_report(folder(lines)).read_text()
    assert "Cannot tell whether the reward was gamed" in text and "No sign" not in text and "probably" not in text


def test_rows_that_were_left_out_are_named(folder):
    lines = entries(0.05)
    lines[1]["unreadable"] = {"r17": "source image cut off"}
    text = write_run_report(folder(lines)).read_text()
    assert "rows left out" in text and "1: r17: source image cut off" in text


def test_hiding_is_told(folder):
    lines = entries(0.05)
    lines[-2]["unscored"] = {"alarm": "refusals and parse errors rose"}
    assert "hiding" in write_run_report(folder(lines)).read_text()


def test_win_rates_cannot_be_checked(folder):
    path = folder(entries(0.05))
    (path / "recipe.yaml").write_text("algorithm: {name: pref_grpo}\n")
    assert "one half" in write_run_report(path).read_text()


def test_a_log_with_one_evaluation_alone_makes_a_page(folder):
    text = write_run_report(folder(entries(0.05)[:1])).read_text()
    assert "Monitor" in text and "Diversity" not in text


def test_the_command_names_the_page_or_what_is_missing(folder, capsys):
    path = folder(entries(0.05))
    with pytest.raises(SystemExit) as done:
        main(["report", str(path)])
    assert not done.value.code and str(path / "report.html") in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SystemExit) as refused:
        main(["report", str(path / "nothing")])
    assert refused.value.code == 2 and "no log.jsonl here" in capsys.readouterr().err.replace("\n", " ")


def test_training_ends_with_the_page(tmp_path, monkeypatch, capsys):
    def run(recipe, folder, resume):
        folder.mkdir()
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries(-0.05)))

    monkeypatch.setattr(train, "run_recipe", run)
    with pytest.raises(SystemExit) as done:
        main(["train", "hacked-tiny", "--out", str(tmp_path / "run")])
    assert not done.value.code and "probably gamed" in (tmp_path / "run" / "report.html").read_text()
    assert "report.html" in capsys.readouterr().err
