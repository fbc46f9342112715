"""A judge behind a server as a spec names it: its address, its model and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmreward.judge.backends.openai import TOP, OpenAIBackend
from mmreward.judge.backends.openai_address import split_place
from mmreward.judge.backends.openai_parameters import CHANGES
from mmreward.judge.options import take_choice, take_number, take_whole

__all__ = ["SERVER_OPTIONS", "open_server"]

SERVER_OPTIONS = (
    "concurrency",
    "files",
    "key_env",
    "label_ids",
    "leave_out",
    "pixels",
    "retries",
    "thinking",
    "timeout",
    "top",
    "uuids",
)
_SWITCH = {"yes": True, "no": False}


def open_server(place: str, options: dict[str, str], *, system: str | None = None) -> OpenAIBackend:
    """The backend at `place`, ADDRESS#MODEL (without a model it is the server's only one). Takes `SERVER_OPTIONS` out
    of `options`. `system` is put before each question as the message of the system. Raises ValueError.
    """
    address, model = split_place(place)
    settings: dict[str, Any] = {
        "key_env": options.pop("key_env", None),
        "concurrency": take_whole(options, "concurrency", 32),
        "timeout": take_number(options, "timeout", 120.0, 0.1, 86400.0),
        "retries": take_whole(options, "retries", 3, least=0),
        "pixels": take_whole(options, "pixels", 1) if "pixels" in options else None,
        "files": Path(options.pop("files")) if "files" in options else None,
        "uuids": _switch(options, "uuids", "no"),
        "top": take_whole(options, "top", TOP),
        "thinking": _switch(options, "thinking", "no") if "thinking" in options else None,
        "label_ids": _switch(options, "label_ids", "yes"),
        "leave_out": _parameters(options.pop("leave_out", "")),
    }
    return OpenAIBackend.load(address, model, system=system, **settings)


def _switch(options: dict[str, str], name: str, default: str) -> bool:
    return _SWITCH[take_choice(options, name, default, _SWITCH)]


def _parameters(text: str) -> tuple[str, ...]:
    """Names of parameters, separated by commas."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in CHANGES:
            from mmreward.reward import unknown

            raise unknown("parameter to leave out (option leave_out)", name, CHANGES)
    return names
