"""The HTTP client of a server: its limits of time, its key, and the true status of an error that came with a 200."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmreward.judge.backends.openai_address import LOOPBACK
from mmreward.judge.backends.openai_errors import hidden_error

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["ANSWERED", "CONNECT", "make_client"]

CONNECT = 10.0
"""Seconds in which a server takes a connection, or cannot be reached."""

ANSWERED = "mmreward.answered"
"""Key in a response's extensions for the status that came, where it was another than the error's."""

_NO_KEY = "none"
"""Sent where no key is set: servers of one's own ask for none, the client insists on one."""


def make_client(url: str, key: str, timeout: float, retries: int) -> AsyncOpenAI:
    """The client of the `openai` library for the server at `url`, with `timeout` in seconds for one try."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

    http = DefaultAsyncHttpxClient(
        trust_env=urlsplit(url).hostname not in LOOPBACK,  # a proxy cannot reach this machine's own address
        event_hooks={"response": [_give_errors_their_status]},
    )
    limits = Timeout(timeout, connect=min(timeout, CONNECT))
    return AsyncOpenAI(base_url=url, api_key=key or _NO_KEY, timeout=limits, max_retries=retries, http_client=http)


async def _give_errors_their_status(response: Any) -> None:
    """An error that came with status 200 gets the status that it stands for: the client tries again as it would."""
    if response.is_success and response.request.url.path.endswith("/chat/completions"):
        await response.aread()
        code = hidden_error(response.text)
        if code is not None:
            response.extensions[ANSWERED] = response.status_code
            response.status_code = code
