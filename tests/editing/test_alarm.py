"""The alarm: closed forms, a constructed hacked run, and how often healthy runs set it off."""

import numpy as np
import pytest
from scipy.stats import linregress, t

from editing import alarm as module
from editing.alarm import alarms, check
from editing.journal import Journal

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
    entries = run(0, rising, flat)
    points = [(e["step"], e["reward"]) for e in entries if e["kind"] == "train" and e["step"] <= 60]
    expected = linregress(*zip(*points, strict=True))
    slope, half = module._slope(*np.array(points, np.float64).T)
    assert slope == pytest.approx(expected.slope)
    assert half == pytest.approx(t.ppf(0.975, 58) * expected.stderr)


def test_the_best_of_one_half_of_the_tasks_is_chosen_by_the_other():
    # By the odd tasks row 1 is best, by the even ones row 0: even tasks are compared with row 1, odd ones with row 0.
    rows = np.array([[0.9, 0.1] * 8, [0.2, 0.8] * 8, [0.5, 0.5] * 8])
    change, error = module._fall(rows)
    assert change == pytest.approx((0.5 - 0.2 + 0.5 - 0.1) / 2)
    assert error == pytest.approx(np.std([0.3, 0.4] * 8, ddof=1) / 4)


def test_missing_scores_are_left_out():
    entries = run(0, rising, hacked)
    looks = [entry for entry in entries if entry["kind"] == "monitor"]
    for place, look in enumerate(looks):
        look["values"][place] = None
    next(entry for entry in entries if entry["kind"] == "train")["reward"] = None
    assert check(entries)
    looks[-1]["values"] = [None] * 64
    assert check(entries) is None


def test_too_little_is_no_alarm():
    entries = run(0, rising, hacked, evaluations=3)
    assert check(entries) is None and check([]) is None
    old = [{**entry, "values": None} for entry in run(0, rising, hacked)]  # a log without the scores of the tasks
    assert alarms(old) == []
    assert alarms(run(0, rising, hacked, tasks=4)) == []


def test_the_line_says_both_and_where_to_look():
    text = alarms(run(0, rising, hacked))[0].text
    assert "\n" not in text and "reward rises" in text and "monitor falls" in text and "grids" in text


def test_it_is_printed_while_training(tmp_path, capsys):
    with Journal(tmp_path, [], None, None, speaks=True) as journal:
        for entry in run(0, rising, hacked):
            journal.write(entry)
    said = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line]
    assert said == [found.text for found in alarms(run(0, rising, hacked))]
