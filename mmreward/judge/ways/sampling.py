"""Options of ways that let the judge write text."""

from __future__ import annotations

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.options import take_number, take_whole

__all__ = ["SAMPLING_OPTIONS", "described", "take_sampling"]

SAMPLING_OPTIONS = ("passes", "temperature", "top_p", "top_k", "seed", "max_new_tokens")


def take_sampling(options: dict[str, str]) -> Sampling:
    """`passes` (default 1), `temperature` (default 0, greedy, for one pass and 0.7 for several), `top_p` (default
    0.9), `top_k` (default all tokens), `seed` (of the first pass, default 0), `max_new_tokens` (default 512).
    """
    passes = take_whole(options, "passes", 1)
    temperature = take_number(options, "temperature", 0.7 if passes > 1 else 0.0, 0, 2)
    if passes > 1 and temperature == 0:
        raise ValueError(f"option temperature is 0, which makes all {passes} passes the same; leave out one of the two")
    return Sampling(
        max_new_tokens=take_whole(options, "max_new_tokens", 512),
        temperature=temperature,
        top_p=take_number(options, "top_p", 0.9, 0.01, 1),
        seed=take_whole(options, "seed", 0, least=0),
        passes=passes,
        top_k=take_whole(options, "top_k", 1) if "top_k" in options else None,
    )


def described(sampling: Sampling) -> dict[str, float | None]:
    """What provenance says of it."""
    return {name: getattr(sampling, name) for name in SAMPLING_OPTIONS}
