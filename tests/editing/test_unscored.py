"""Refusals and parse errors by group, and the alarm when they grow."""

from editing.unscored import Unscored
from mmreward.score import Score

OK, REFUSED, BROKEN, LATE = (
    Score(0.5),
    Score.failed("refused", "no"),
    Score.failed("parse_error", "?"),
    Score.failed("timeout", "late"),
)


def test_counts_are_by_group_and_leave_out_what_is_nobodys_wish():
    found = Unscored().add([OK, REFUSED, BROKEN, OK, LATE, OK], ["a", "a", "a", "b", "b", "b"])
    assert found == {"refused": 1, "parse_error": 1, "groups": 1, "largest_share": 2 / 3}


def iteration(hidden: int, groups: int = 8):
    """So many groups of four with one refusal each."""
    scores = [REFUSED if member == 0 and group < hidden else OK for group in range(groups) for member in range(4)]
    return scores, [str(group) for group in range(groups) for _ in range(4)]


def test_alarm_when_the_share_rises_and_not_when_it_stays_or_falls():
    rising, steady, falling = Unscored(), Unscored(), Unscored()
    for step in range(20):
        alarms = [rising.alarm(), steady.alarm(), falling.alarm()]
        assert alarms == [None] * 3
        last = rising.add(*iteration(step // 3))
        steady.add(*iteration(2 + step % 2))
        falling.add(*iteration(7 - step // 3))
    assert "rose from 3.8% to 14.1% of a group" in rising.alarm() == last["alarm"]
    assert steady.alarm() is None and falling.alarm() is None
    again = Unscored([list(shares) for shares in rising.state])
    assert again.alarm() == rising.alarm()
