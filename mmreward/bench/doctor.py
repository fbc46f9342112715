"""The doctor: asks a reward questions whose answers are known, and says what is wrong and how to mend it.

A judge behind a server is looked at first: is it there, does it see the images, in which order, does it report
log-probabilities, are sampling parameters taken (`doctor_server`). Then every reward scores small edits of the shapes
world whose truth is known (`doctor_reward`). Of a combination each member is asked all of this, then the whole. Scores
that agree with a known order prove little about a reward; scores that do not agree prove that something is broken,
before a training run learns from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mmreward.bench.check import Check
from mmreward.bench.parts import Part, parts, served_backend
from mmreward.reward import load_reward

__all__ = ["examine"]


def examine(spec: str) -> Iterator[Check]:
    """The findings about the reward that `spec` names, one by one. Raises ValueError for a spec that is wrong."""
    from mmreward.bench.doctor_reward import reward_checks

    try:
        reward = load_reward(spec)
    except ValueError as error:
        if not _is_unanswered(error):
            raise
        yield Check("server", "failed", "does not answer", str(error))
        return
    is_silent = False
    for part in parts(reward):
        for check in _part_checks(part):
            is_silent |= _answers_nothing(check)
            yield replace(check, part=part.name)
    if part.name and not is_silent:
        yield from reward_checks(reward)


def _part_checks(part: Part) -> Iterator[Check]:
    from mmreward.bench.doctor_reward import reward_checks
    from mmreward.bench.doctor_server import server_checks

    backend = served_backend(part.reward)
    for check in server_checks(backend) if backend else ():
        yield check
        if _answers_nothing(check):
            return  # edits neither
    yield from reward_checks(part.reward, member=bool(part.name), optional=part.optional)


def _answers_nothing(check: Check) -> bool:
    return check.name == "question" and check.status == "failed"


def _is_unanswered(error: ValueError) -> bool:
    """Whether no server answers: said of the reward, or within the words of a combination about its member."""
    from mmreward.judge.backends.openai_server import ServerError

    return isinstance(error, ServerError) or isinstance(error.__context__, ServerError)
