"""The alarm: closed forms, a constructed hacked run, and how often healthy runs set it off."""

import numpy as np
import pytest

from editing import alarm as module
from editing.alarm import alarms, blind, check, verdicts
from editing.journal import Journal
from editing.recipe import Recipe
from mmreward.training import read_log

EVERY = 20


def run(seed, reward, monitor, evaluations=12, tasks=64, keep=0.5, noise=0.04):
    """Log entries of a run: `reward(step)` with noise, and `monitor(step)` on tasks of their own difficulty.

    `keep` is the correlation of a task's deviation from one evaluation to the next; its deviation is 0.2.
    """
    rng = np.random.default_rng(seed)
    level, deviation = rng.normal(0.4, 0.3, tasks), rng.normal(0, 0.2, tasks)
    entries = []
    for look in range(evaluations):
        first = (look - 1) * EVERY + 1
        if look:
            steps = range(first, first + EVERY)
            entries += [{"kind": "train", "step": s, "reward": reward(s) + rng.normal(0, noise)} for s in steps]
        now = look * EVERY
        values = [round(float(value), 3) for value in level + deviation + monitor(now)]
        entries.append({"kind": "monitor", "step": now, "values": values})
        deviation = keep * deviation + np.sqrt(1 - keep**2) * rng.normal(0, 0.2, tasks)
    return entries


def rising(step):
    return 0.5 + 0.002 * step


def flat(step):
    return 0.5


def hacked(step):
    """Up for 60 iterations, then down by 0.05 from one evaluation to the next."""
    return 0.001 * min(step, 60) - 0.0025 * max(step - 60, 0)


def test_a_hacked_run_sets_it_off_soon_after_the_turn():
    for seed in range(10):
        found = alarms(run(seed, rising, hacked))
        # The turn is at 60; 80, 100 and 120 are the first three evaluations below it, and 80 may hide in the noise.
        assert found and 120 <= found[0].step <= 160
        assert found[0].best <= 80 and found[0].change < -2 * found[0].standard_error
        assert found[0].slope > found[0].half_interval


def test_both_conditions_are_needed():
    for seed in range(10):
        falling_reward = run(seed, lambda step: 0.5 - 0.001 * step, hacked)
        rising_monitor = run(seed, rising, lambda step: 0.001 * step)
        assert not alarms(falling_reward) and not alarms(rising_monitor)


def rate(monitor, **settings):
    return np.mean([bool(alarms(run(seed, rising, monitor, **settings))) for seed in range(200)])


def test_how_often_runs_set_it_off():
    """The docstring of the module quotes these. The reward rises throughout."""
    assert rate(lambda step: 0.1 * (1 - np.exp(-step / 60))) == pytest.approx(0.005, abs=0.006)
    assert rate(flat) == pytest.approx(0.02, abs=0.006)
    assert rate(flat, keep=0.9) == pytest.approx(0.025, abs=0.006)
    assert rate(lambda step: hacked(step) / 2) == pytest.approx(0.97)


def test_slope_is_that_of_least_squares_with_students_interval():
    # By hand: slope 3/5, residuals -.2 .2 .2 -.2 (sum of squares .16 with 2 degrees), 4.302653 of Student's t
    slope, half = module._slope(np.arange(4.0), np.array([0.1, 1.1, 1.7, 1.9]))
    assert slope == pytest.approx(0.6)
    assert half == pytest.approx(4.302653 * np.sqrt(0.16 / 2 / 5), rel=1e-6)


def test_the_best_of_one_half_of_the_tasks_is_chosen_by_the_other():
    # By the odd tasks row 1 is best, by the even ones row 0: even tasks are compared with row 1, odd ones with row 0.
    rows = np.array([[0.9, 0.1] * 8, [0.2, 0.8] * 8, [0.5, 0.5] * 8])
    fall = module._fall(rows)
    assert fall.change == pytest.approx((0.5 - 0.2 + 0.5 - 0.1) / 2)
    assert fall.standard_error == pytest.approx(np.std([0.3, 0.4] * 8, ddof=1) / 4)


def test_missing_scores_are_left_out():
    entries = run(0, rising, hacked)
    looks = [entry for entry in entries if entry["kind"] == "monitor"]
    for place, look in enumerate(looks):
        look["values"][place] = None
    next(entry for entry in entries if entry["kind"] == "train")["reward"] = None
    assert check(entries).kind == "alarm"
    looks[-1]["values"] = [None] * 64
    assert check(entries).kind == "unknown"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], "no scores of the monitor's single tasks"),
        ([{**entry, "values": None} for entry in run(0, rising, hacked)], "no scores of the monitor's single tasks"),
        (run(0, rising, hacked, evaluations=3), "there are 3 evaluations, and it needs 4"),
        (run(0, rising, hacked, tasks=6), "fewer than 8 of the monitor's tasks have a score"),
        (
            [e for e in run(0, rising, hacked) if e["kind"] == "monitor" or e["step"] % 10 == 0],
            "the log has 6 iterations with a reward since 160 where a slope needs 8",
        ),
    ],
)
def test_where_nothing_can_be_told_that_is_said(entries, why):
    """The reward rises and the monitor falls in all of them."""
    verdict = check(entries)
    assert (verdict.kind, verdict.alarm) == ("unknown", None) and why in verdict.why
    assert alarms(entries) == []


def test_one_condition_that_does_not_hold_is_enough_to_be_healthy():
    rising_monitor = run(0, rising, lambda step: 0.001 * step)
    assert [verdict.kind for verdict in verdicts(rising_monitor)] == ["unknown"] * 3 + ["healthy"] * 9
    sparse = [entry for entry in rising_monitor if entry["kind"] == "monitor" or entry["step"] % 10 == 0]
    assert check(sparse).kind == "healthy"  # whatever the slope is
    assert check(run(0, lambda step: 0.5 - 0.001 * step, hacked)).kind == "healthy"


def test_win_rates_tell_nothing():
    entries = run(0, rising, hacked)
    assert check(entries).kind == "alarm" and check(entries, win_rates=True).kind == "unknown"
    assert "one half by definition" in check(entries, win_rates=True).why


def settings(every=20, tasks=64, log_every=1, **length):
    return Recipe.model_validate(
        {
            "roles": {"reward": "pixels", "monitor": "target"},
            "loop": {"log_every": log_every, **(length or {"minutes": 15})},
            "evaluation": {"every": every, "monitor_tasks": tasks},
        }
    )


def test_recipes_under_which_it_cannot_ring_are_known_before():
    assert blind(settings()) == [] and blind(settings(steps=60)) == []
    assert ["evaluation.monitor_tasks is 7" in why for why in blind(settings(tasks=7))] == [True]
    assert ["span 6 iterations" in why for why in blind(settings(every=2))] == [True]
    assert ["loop.log_every: 10 logs 6" in why for why in blind(settings(log_every=10))] == [True]
    assert ["40 iterations have 3 evaluations" in why for why in blind(settings(steps=40))] == [True]
    assert len(blind(settings(), win_rates=True)) == 1


def test_the_line_says_both_and_where_to_look():
    text = alarms(run(0, rising, hacked))[0].text
    assert "\n" not in text and "reward rises" in text and "monitor falls" in text and "grids" in text


def test_it_is_printed_while_training(tmp_path, capsys):
    with Journal(tmp_path, [], None, None, speaks=True) as journal:
        for entry in run(0, rising, hacked):
            journal.write(entry)
        journal.conclude()
    said = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line]
    assert said == [found.text for found in alarms(run(0, rising, hacked))]
    looks = [entry for entry in read_log(tmp_path / "log.jsonl") if entry["kind"] == "monitor"]
    expected = verdicts(run(0, rising, hacked))
    assert [look["verdict"] for look in looks] == [{"kind": verdict.kind, "why": verdict.why} for verdict in expected]


def test_a_run_that_cannot_tell_ends_with_saying_so(tmp_path, capsys):
    with Journal(tmp_path, [], None, None, speaks=True) as journal:
        for entry in run(0, rising, hacked, tasks=6):
            journal.write(entry)
        journal.conclude()
    assert "cannot tell whether the reward was gamed: fewer than 8 of the monitor's tasks" in capsys.readouterr().err
