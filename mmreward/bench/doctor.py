"""The doctor: asks a reward questions whose answers are known, and says what is wrong and how to mend it.

A judge behind a server is looked at first: is it there, does it see the images, in which order, does it report
log-probabilities, are sampling parameters taken (`doctor_server`). Then every reward scores small edits of the shapes
world whose truth is known (`doctor_reward`). Scores that agree with a known order prove little about a reward; scores
that do not agree prove that something is broken, before a training run learns from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmreward.bench.check import Check
from mmreward.reward import load_reward

__all__ = ["examine"]


def examine(spec: str) -> Iterator[Check]:
    """The findings about the reward that `spec` names, one by one. Raises ValueError for a spec that is wrong."""
    from mmreward.bench.doctor_reward import reward_checks

    if spec.startswith("openai:"):
        from mmreward.bench.doctor_server import server_checks
        from mmreward.judge.backends.openai_server import ServerError

        try:
            reward = load_reward(spec)
        except ServerError as error:
            yield Check("server", "failed", "does not answer", str(error))
            return
        found = []
        for check in server_checks(reward):
            found.append(check)
            yield check
        if any(check.name == "question" and check.status == "failed" for check in found):
            return  # it answers nothing, edits neither
    else:
        reward = load_reward(spec)
    yield from reward_checks(reward)
