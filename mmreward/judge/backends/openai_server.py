"""A server that speaks the OpenAI protocol: what it is, and many requests to it at once.

The `openai` client sends, waits, and tries again (dropped connections, time-outs, 408, 409, 429 and 5xx, with back-off,
as `Retry-After` says); an error that comes with status 200 is tried again like it. Parameters that the server refuses
are left out (`openai_parameters`). The key comes from the environment and goes nowhere but into the request's header.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmreward.judge.backends.openai_address import canonical_address
from mmreward.judge.backends.openai_client import ANSWERED, CONNECT, make_client
from mmreward.judge.backends.openai_errors import (
    ServerFault,
    connection_failure,
    fault_of,
    reply_of,
)
from mmreward.judge.backends.openai_loop import ClientLoop, Session
from mmreward.judge.backends.openai_parameters import adjusted, described, refused_parameter
from mmreward.judge.backends.openai_reply import Reply, read

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

__all__ = ["KINDS", "Found", "Group", "Kind", "Server", "ServerError"]

KEY_ENV = "OPENAI_API_KEY"

_LOOK = 15.0
"""Seconds for one question about the server itself."""

_MOST_CHANGES = 12
"""So often one request is changed because of what the server refuses."""


@dataclass(frozen=True)
class Group:
    """`size` requests that belong together. `make` writes them; what it opens is closed once they are answered."""

    size: int
    make: Callable[[ExitStack], list[dict[str, Any]]]


class ServerError(ValueError):
    """No server answers at the address, or it refuses the key."""


@dataclass(frozen=True)
class Kind:
    """How a kind of server differs from the plain protocol: the name of the length limit, parameters that it has
    besides (sent neutral, because its default may be the model's generation_config.json), whether it takes the ids of
    the tokens whose log-probabilities are wanted, and what makes it go on with an answer that has begun (None: it ends
    the turn instead).
    """

    length: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)
    label_ids: bool = False
    going_on: Mapping[str, Any] | None = None


_NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
_GOING_ON = {"continue_final_message": True, "add_generation_prompt": False}

KINDS: dict[str, Kind] = {
    "vllm": Kind(extra=_NEUTRAL, label_ids=True, going_on=_GOING_ON),
    "sglang": Kind(extra=_NEUTRAL, going_on=_GOING_ON),
    "openai": Kind(length="max_completion_tokens"),
    "other": Kind(),
}
"""vLLM and SGLang name themselves in the list of models; "other" gets nothing that the protocol does not have."""


@dataclass(frozen=True)
class Found:
    """What a server says about itself: a name of `KINDS`, its version where it tells, the models that it lists."""

    kind: str
    version: str | None
    models: tuple[str, ...]


class Server:
    """`url` as the client needs it (usually ending in /v1), without user name or password. `concurrency` requests are
    under way at once, whoever sends them. `leave_out` names parameters that are not sent (`openai_parameters.CHANGES`).
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 3,
        leave_out: Collection[str] = (),
    ) -> None:
        self.url, self.key_env = _checked(url), key_env or KEY_ENV
        self._key = os.environ.get(self.key_env, "")
        if key_env and not self._key:
            raise ValueError(f"the environment variable {key_env}, which ?key_env names, is not set or empty")
        self._concurrency, self._timeout, self._retries = concurrency, timeout, retries
        # Between tries the client may wait for up to two minutes, if the server says so. Its own limits come first.
        self._patience = (retries + 1) * timeout + retries * 120 + 5
        self._changes = frozenset(leave_out)
        self._unreachable = False
        self._loop = ClientLoop(partial(make_client, self.url, self._key, timeout, retries), concurrency)

    @property
    def describe(self) -> dict[str, Any]:
        """What is not sent as it was meant, as far as it is known by now."""
        return described(self._changes)

    def look(self) -> Found:
        """Ask what the server is. Raises ServerError where none answers or the key is refused."""
        return self._loop.run(self._look)

    def send(self, groups: Sequence[Group]) -> list[list[Reply]]:
        """Answers to the requests of each group, in order; whatever goes wrong with a request is its answer's status.
        Requests of one group follow each other, so that a server with a prefix cache computes once what they share.
        """
        return self._loop.run(partial(self._send, groups)) if groups else []

    def tokenize(self, model: str, texts: Sequence[str]) -> list[list[int]] | None:
        """Token ids of each text, None where the server does not tell (vLLM does, outside of /v1)."""
        return self._loop.run(partial(self._tokenize, model, texts))

    async def _look(self, session: Session) -> Found:
        from openai import APIConnectionError, APIStatusError, OpenAIError, Timeout

        brief = Timeout(min(self._timeout, _LOOK), connect=min(self._timeout, CONNECT / 2))
        client = session.client.with_options(timeout=brief, max_retries=1)
        try:
            listed = await client.get("/models", cast_to=dict[str, Any])
        except APIConnectionError as error:
            cause, look_at = connection_failure(error)
            raise ServerError(
                f"no server answers at {self.url} ({cause}); {look_at} One is started by, for example: "
                "vllm serve MODEL --max-logprobs 20"
            ) from None
        except APIStatusError as error:
            if error.status_code in (401, 403):
                raise ServerError(str(reply_of(self._fault(error), self.key_env).error)) from None
            listed = {}  # some hosts have no list of models
        except (OpenAIError, ValueError):  # or answer with something that is not JSON
            listed = {}
        rows = [row for row in _rows(listed) if isinstance(row.get("id"), str)]
        kind = _kind(self.url, rows)
        version = await self._version(session.client) if kind in ("vllm", "sglang") else None
        return Found(kind, version, tuple(str(row["id"]) for row in rows))

    async def _version(self, client: AsyncOpenAI) -> str | None:
        for place in ("/version", "/server_info"):
            said = await _json(client, "get", self._root + place)
            if isinstance(said, dict) and isinstance(said.get("version"), str):
                return str(said["version"])
        return None

    async def _tokenize(self, model: str, texts: Sequence[str], session: Session) -> list[list[int]] | None:
        tokens = []
        for text in texts:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
            answer = await _json(session.client, "post", self._root + "/tokenize", body)
            if not isinstance(answer, dict) or not isinstance(answer.get("tokens"), list):
                return None
            tokens.append([int(token) for token in answer["tokens"]])
        return tokens

    async def _send(self, groups: Sequence[Group], session: Session) -> list[list[Reply]]:
        # Images of groups whose turn has not come are not encoded yet; another caller's groups are not waited for.
        gate = asyncio.Semaphore(self._concurrency)
        return await asyncio.gather(*(self._send_group(group, session, gate) for group in groups))

    async def _send_group(self, group: Group, session: Session, gate: asyncio.Semaphore) -> list[Reply]:
        async with gate:
            with ExitStack() as stack:
                try:
                    requests = await asyncio.to_thread(group.make, stack)
                except OSError as error:
                    failed = Reply(status="io_error", error=f"images cannot be written for the server: {error}")
                    return [failed] * group.size
                except Exception as error:
                    return [_unforeseen("the request cannot be written", error)] * group.size
                return await asyncio.gather(*(self._send_request(request, session) for request in requests))

    async def _send_request(self, request: dict[str, Any], session: Session) -> Reply:
        """The answer to one request, without the parameters that the server refuses on the way."""
        changes = self._changes
        async with session.slots:
            try:
                for _ in range(_MOST_CHANGES):
                    sent = adjusted(request, changes)
                    answer = await self._ask(session.client, sent)
                    if isinstance(answer, Reply):
                        if answer.completion:
                            self._changes |= changes  # they helped
                        return answer
                    reply = reply_of(answer, self.key_env)
                    change = refused_parameter(answer, sent, changes) if reply.status == "io_error" else None
                    if change is None:
                        break
                    changes |= {change}
                return reply
            except Exception as error:
                return _unforeseen("a request failed", error)

    async def _ask(self, client: AsyncOpenAI, request: dict[str, Any]) -> Reply | ServerFault:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        # Where nothing took the connection a moment ago, the next request asks once: ten thousand rows do not each wait
        # for a server that is gone.
        tries = 1 if self._unreachable else self._retries + 1
        if self._unreachable:
            client = client.with_options(max_retries=0)
        try:
            async with asyncio.timeout(self._patience):
                raw = await client.chat.completions.with_raw_response.create(**request)
            self._unreachable = False
            return read(raw.text)
        except APIStatusError as error:
            self._unreachable = False
            return self._fault(error)
        except (APITimeoutError, TimeoutError) as error:
            if _is_unconnected(error):
                self._unreachable = True
                why = f"did not take a connection in {_tries(tries)} of {min(self._timeout, CONNECT):g} s"
                look_at = "is the machine reachable from here, and is the port right?"
            else:
                why = f"did not answer in {_tries(tries)} of {self._timeout:g} s"
                look_at = "allow more with ?timeout, or ask less at once with ?concurrency"
            return Reply(status="timeout", error=f"{self.url} {why}; {look_at}")
        except APIConnectionError as error:
            self._unreachable = _is_unconnected(error)
            cause, look_at = connection_failure(error)
            error_text = f"the connection to {self.url} failed after {_tries(tries)} ({cause}); {look_at}"
            return Reply(status="io_error", error=error_text)

    def _fault(self, error: APIStatusError) -> ServerFault:
        fault = fault_of(error.status_code, error.response.text, error.response.extensions.get(ANSWERED))
        return replace(fault, words=fault.words.replace(self._key, "***")) if self._key else fault

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")


async def _json(client: AsyncOpenAI, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """An answer of a place outside of the protocol, None where there is none."""
    from openai import OpenAIError

    brief = client.with_options(timeout=_LOOK, max_retries=0)
    try:
        if method == "get":
            return await brief.get(url, cast_to=dict[str, Any])
        return await brief.post(url, body=body, cast_to=dict[str, Any])
    except (OpenAIError, ValueError):  # ValueError: not JSON
        return None


def _kind(url: str, rows: Sequence[Mapping[str, Any]]) -> str:
    host = urlsplit(url).hostname or ""
    if host == "api.openai.com":
        return "openai"
    owners = {row.get("owned_by") for row in rows}
    return next((kind for kind in ("vllm", "sglang") if kind in owners), "other")


def _rows(listed: Any) -> list[dict[str, Any]]:
    rows = listed.get("data") if isinstance(listed, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _checked(url: str) -> str:
    canonical_address(url)  # raises for what is none
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the address of {parts.hostname} holds a user name or a password, which would end up in outputs; put the "
            f"key into the environment variable {KEY_ENV}, or name another with ?key_env=NAME"
        )
    return url.rstrip("/")


def _is_unconnected(error: BaseException) -> bool:
    """Whether no connection came about, so that the request never reached a server."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def _unforeseen(what: str, error: Exception) -> Reply:
    return Reply(status="error", error=f"{what}: {type(error).__name__}: {error}")
