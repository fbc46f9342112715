"""A server that speaks the OpenAI protocol: what it is, and many requests to it at once.

The `openai` client sends, waits, and tries again (dropped connections, time-outs, 408, 409, 429 and 5xx, with back-off,
as `Retry-After` says). The key comes from the environment and goes nowhere but into the request's header.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mmreward.judge.backends.openai_reply import Reply, failure_of, read

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

__all__ = ["KINDS", "Found", "Group", "Kind", "Server", "ServerError"]

KEY_ENV = "OPENAI_API_KEY"

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_KEY = "none"
"""Sent where no key is set: servers of one's own ask for none, the client insists on one."""

T = TypeVar("T")


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
    """`url` as the client needs it (usually ending in /v1), without user name or password."""

    def __init__(
        self, url: str, *, key_env: str | None = None, concurrency: int = 32, timeout: float = 120.0, retries: int = 3
    ) -> None:
        self.url, self.key_env = _checked(url), key_env or KEY_ENV
        self._key = os.environ.get(self.key_env, "")
        if key_env and not self._key:
            raise ValueError(f"the environment variable {key_env}, which ?key_env names, is not set or empty")
        self._concurrency, self._timeout, self._retries = concurrency, timeout, retries
        # Between tries the client may wait for up to two minutes, if the server says so.
        self._patience = (retries + 1) * timeout + retries * 120

    def look(self) -> Found:
        """Ask what the server is. Raises ServerError where none answers or the key is refused."""
        return _run(self._look())

    def send(self, groups: Sequence[Group]) -> list[list[Reply]]:
        """Answers to the requests of each group. No more than `concurrency` requests are under way at once; those of
        one group follow each other, so that a server with a prefix cache computes once what they share.
        """
        return _run(self._send(groups)) if groups else []

    def tokenize(self, model: str, texts: Sequence[str]) -> list[list[int]] | None:
        """Token ids of each text, None where the server does not tell (vLLM does, outside of /v1)."""
        return _run(self._tokenize(model, texts))

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # A proxy of the environment cannot reach this machine's own address.
        http = DefaultAsyncHttpxClient(trust_env=urlsplit(self.url).hostname not in _LOOPBACK)
        return AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or _NO_KEY,
            timeout=self._timeout,
            max_retries=self._retries,
            http_client=http,
        )

    async def _look(self) -> Found:
        from openai import APIConnectionError, APIStatusError

        async with self._client() as client:
            try:
                listed = await client.with_options(timeout=min(self._timeout, 15), max_retries=1).get(
                    "/models", cast_to=dict[str, Any]
                )
            except APIConnectionError as error:
                raise ServerError(
                    f"no server answers at {self.url} ({_cause(error)}); start one, for example "
                    "vllm serve MODEL --max-logprobs 20, or correct the address"
                ) from None
            except APIStatusError as error:
                if error.status_code in (401, 403):
                    raise ServerError(self._failure(error).error) from None
                listed = {}  # some hosts have no list of models
            except ValueError:  # or answer with something that is not JSON
                listed = {}
            rows = [row for row in _rows(listed) if isinstance(row.get("id"), str)]
            kind = _kind(self.url, rows)
            version = await self._version(client) if kind in ("vllm", "sglang") else None
        return Found(kind, version, tuple(str(row["id"]) for row in rows))

    async def _version(self, client: AsyncOpenAI) -> str | None:
        for place in ("/version", "/server_info"):
            said = await _json(client, "get", self._root + place)
            if isinstance(said, dict) and isinstance(said.get("version"), str):
                return str(said["version"])
        return None

    async def _tokenize(self, model: str, texts: Sequence[str]) -> list[list[int]] | None:
        async with self._client() as client:
            found = []
            for text in texts:
                body = {"model": model, "prompt": text, "add_special_tokens": False}
                said = await _json(client, "post", self._root + "/tokenize", body)
                if not isinstance(said, dict) or not isinstance(said.get("tokens"), list):
                    return None
                found.append([int(one) for one in said["tokens"]])
        return found

    async def _send(self, groups: Sequence[Group]) -> list[list[Reply]]:
        gate, slots = asyncio.Semaphore(self._concurrency), asyncio.Semaphore(self._concurrency)
        async with self._client() as client:
            return list(await asyncio.gather(*(self._group(client, one, gate, slots) for one in groups)))

    async def _group(
        self, client: AsyncOpenAI, group: Group, gate: asyncio.Semaphore, slots: asyncio.Semaphore
    ) -> list[Reply]:
        async with gate:  # images of groups whose turn has not come are not encoded yet
            with ExitStack() as stack:
                try:
                    requests = await asyncio.to_thread(group.make, stack)
                except OSError as error:
                    return [
                        Reply(status="io_error", error=f"images cannot be written for the server: {error}")
                    ] * group.size
                return list(await asyncio.gather(*(self._one(client, one, slots) for one in requests)))

    async def _one(self, client: AsyncOpenAI, request: dict[str, Any], slots: asyncio.Semaphore) -> Reply:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        async with slots:
            try:
                async with asyncio.timeout(self._patience):
                    raw = await client.chat.completions.with_raw_response.create(**request)
                return read(raw.text)
            except (APITimeoutError, TimeoutError):
                tries = f"{self._retries + 1} tries of {self._timeout:g} s"
                return Reply(status="timeout", error=f"{self.url} did not answer in {tries}; see ?timeout and ?retries")
            except APIConnectionError as error:
                tries = f"after {self._retries + 1} tries"
                return Reply(status="io_error", error=f"the connection to {self.url} failed {tries} ({_cause(error)})")
            except APIStatusError as error:
                return self._failure(error)

    def _failure(self, error: APIStatusError) -> Reply:
        reply = failure_of(error.status_code, error.body, error.message, self.key_env)
        said = reply.error or ""
        return Reply(status=reply.status, error=said.replace(self._key, "***") if self._key else said)

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, wherever the caller is: inside of a running event loop it gets a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _json(client: AsyncOpenAI, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """An answer of a place outside of the protocol, None where there is none."""
    from openai import OpenAIError

    brief = client.with_options(timeout=15, max_retries=0)
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
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"a server's address is written like http://127.0.0.1:8000/v1, got {url.rpartition('@')[2]!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the address of {parts.hostname} holds a user name or a password, which would end up in outputs; put the "
            f"key into the environment variable {KEY_ENV}, or name another with ?key_env=NAME"
        )
    return url.rstrip("/")


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().split("\n")[0] or type(cause).__name__
