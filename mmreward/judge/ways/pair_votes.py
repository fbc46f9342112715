"""From the answers about a pair in both orders to a preference.

Answers come by criterion: what was said with the first edit shown first, and with the second one shown first. An answer
that cannot be read makes the comparison a failure; of several written passes those that can be read in both orders
count, and the others are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from mmreward.judge.backends.backend import Text
from mmreward.judge.labels import Answer
from mmreward.judge.parse import Reading, read_choice
from mmreward.judge.ways.answered import share, unread
from mmreward.preference import Preference

__all__ = ["both_orders_likely", "both_orders_written"]

_ORDERS = ("first shown first", "first shown second")


def both_orders_likely(answers: Mapping[str, tuple[Answer, Answer]], floor: float) -> Preference:
    """p = (p_AB + 1 - p_BA) / 2, averaged over the criteria."""
    raw: dict[str, float] = {}
    shares, consistent = [], True
    for name, (one, other) in answers.items():
        for order, answer in zip(_ORDERS, (one, other), strict=True):
            if failure := unread(answer, floor):
                return Preference.failed(failure[0], f"{name}, {order}: {failure[1]}", raw=raw)
        before, after = share(one, 0), share(other, 1)
        shares.append((before + after) / 2)
        consistent &= (before - 0.5) * (after - 0.5) >= 0
        raw |= {f"{name}_share": shares[-1], f"{name}_shown_first": before, f"{name}_shown_second": after}
        raw |= {f"{name}_mass": min(one.mass, other.mass)}
    return Preference(fmean(shares), consistent=consistent, raw=raw)


def both_orders_written(
    answers: Mapping[str, tuple[Sequence[Text], Sequence[Text]]], labels: Sequence[str]
) -> Preference:
    """The winner that both orders name, else a tie; averaged over passes, then over the criteria."""
    raw: dict[str, float] = {}
    first, tie, consistent, told = [], [], True, []
    for name, texts in answers.items():
        passes = [tuple(_read(text, labels) for text in pair) for pair in zip(*texts, strict=True)]
        good = [pair for pair in passes if all(one.status == "ok" for one in pair)]
        raw |= {f"{name}_passes": float(len(passes)), f"{name}_passes_failed": float(len(passes) - len(good))}
        told += [f"{name}, {order}: {one.rationale}" for pair in passes for order, one in zip(_ORDERS, pair)]
        if not good:
            order, bad = next((o, one) for o, one in zip(_ORDERS, passes[0]) if one.status != "ok")
            error = f"{name}, {order}: {bad.error}"
            return Preference.failed(bad.status, error, rationale="\n".join(told), raw=raw)
        # Shown first, the first edit has the first label; shown second, the second.
        wins = [pair[0].choice == labels[0] and pair[1].choice == labels[1] for pair in good]
        losses = [pair[0].choice == labels[1] and pair[1].choice == labels[0] for pair in good]
        ties = [pair[0].choice == "tie" == pair[1].choice for pair in good]
        consistent &= all(map(any, zip(wins, losses, ties, strict=True)))
        first.append(fmean(wins))
        tie.append(1 - fmean(wins) - fmean(losses))
        raw |= {f"{name}_share": first[-1] + tie[-1] / 2, f"{name}_first": first[-1], f"{name}_tie": tie[-1]}
    return Preference(fmean(first), max(fmean(tie), 0.0), rationale="\n".join(told), consistent=consistent, raw=raw)


def _read(text: Text, labels: Sequence[str]) -> Reading:
    if text.status != "ok":
        return Reading(status=text.status, error=text.error)
    return read_choice(text.text, (*labels, "tie"), "winner", finished=text.finished)
