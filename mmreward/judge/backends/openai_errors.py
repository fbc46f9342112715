"""What a server says when it fails: its own words out of a body of any form, which status that is, and how to mend it.

An error may come as {"error": {"message": …}}, {"error": "…"}, {"detail": […]} (FastAPI), {"message": …}, a list of
these (Google), a provider's error inside of a router's, a page of HTML, plain text, or nothing. It may also come with
status 200: such an answer is given the status that it should have had, so that the client tries again as it would.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmreward.judge.backends.openai_reply import Reply, short
from mmreward.score import Status

__all__ = ["ServerFault", "connection_failure", "fault_of", "hidden_error", "reply_of"]

_SAYS = ("error", "errors", "message", "msg", "detail", "error_message", "error_msg", "description", "reason", "title")
"""Keys under which a body says what is wrong."""

_FILTER = re.compile(
    r"content_?filter|content_policy|content management policy|responsible_?ai|data_?inspection_?failed|moderation"
    r"|safety system|\bflagged\b"
)
_TOO_LONG = re.compile(r"context_length|context length|maximum model length|max_model_len|prompt is too long")

_HINTS: tuple[tuple[tuple[int, ...], str, str], ...] = (
    ((401,), "", "is the key in the environment variable {key_env} right?"),
    ((403,), "", "is the key in the environment variable {key_env} right, and may it use this model?"),
    ((402,), "", "the account has no credit left"),
    ((429,), "quota|credit|billing", "the account has no credit left"),
    ((404, 405), "", "are the address (does it end in /v1?) and the model's name right?"),
    ((413,), "", "make images smaller with ?pixels=1000000"),
    ((429,), "", "ask less at once with ?concurrency=4"),
    ((), "logprob_token_ids", "leave them out with ?label_ids=no"),
    (
        (),
        "file://|local media|local file",
        "let the server read the folder (vLLM: --allowed-local-media-path FOLDER), or leave out ?files",
    ),
    ((), "logprob", "ask for fewer with ?top=5, or let the server give more (vLLM: --max-logprobs 20)"),
    ((), "chat_template_kwargs|enable_thinking", "leave out ?thinking"),
    (
        (400, 422),
        r"(at most|up to|limit|too many|multiple|single|only (one|1)).*image|image.*(limit|at most|too many)",
        "does the server take two images a prompt (vLLM: --limit-mm-per-prompt '{{\"image\": 2}}')?",
    ),
    ((400, 413, 422), r"too (large|big)|exceeds|payload", "make images smaller with ?pixels=1000000"),
    ((400, 422), r"image|multimodal|multi-modal|vision", "is it a vision-language model?"),
    ((408, 504, 524), "", "allow more time with ?timeout=300, or ask less at once with ?concurrency=4"),
    (tuple(range(500, 600)), "", "the server's log says why, and ?retries=6 asks more often"),
)
"""Codes (none: any), a pattern in the server's words, and how to mend it; the first that fits is said."""


@dataclass(frozen=True)
class ServerFault:
    """A failure as the server told it. `code` is the HTTP status that it stands for, `answered` the one that came;
    `words` are the server's own, `kind` its codes and types in lower case, `parameter` the one that it names."""

    code: int
    answered: int
    words: str
    kind: str = ""
    parameter: str | None = None


def fault_of(code: int, text: str, answered: int | None = None) -> ServerFault:
    """The fault in the body `text` of a response with status `code`; `answered` where another status came over the
    wire."""
    body = _parsed(text)
    kinds = list(_fields(body, ("code", "type", "status")))
    named = next((value for value in _fields(body, ("param",)) if isinstance(value, str)), None)
    words = _words(body) or (short(text) if text.strip() else "nothing (an empty body)")
    return ServerFault(code, answered or code, short(words), " ".join(map(str, kinds)).lower(), named)


def reply_of(fault: ServerFault, key_env: str) -> Reply:
    """The fault as the reason why there is no completion. `key_env` names the variable with the key."""
    said = f"{fault.kind} {fault.words}".lower()
    if _FILTER.search(said):
        return Reply(status="refused", error=f"the server refuses the request: {fault.words}")
    if _TOO_LONG.search(said):
        error = f"the request is longer than the model takes: {fault.words}; make images smaller with ?pixels=1000000"
        return Reply(status="not_applicable", error=error)
    status: Status = "timeout" if fault.code in (408, 504, 524) else "io_error"
    code = f"{fault.answered}" if fault.answered == fault.code else f"{fault.answered} with an error"
    hint = _hint(fault, said).format(key_env=key_env)
    return Reply(status=status, error=f"the server answered {code}: {fault.words}{hint}")


def hidden_error(text: str) -> int | None:
    """The HTTP status that a chat completion's body with status 200 should have had, None where it is no error."""
    body = _parsed(text)
    if isinstance(body, list):
        body = body[0] if body and isinstance(body[0], dict) else {}
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (first.get("error") if isinstance(first, dict) else None)
    if not error and (first is not None or not any(body.get(key) for key in _SAYS)):
        return None
    return _code_of(body)


def connection_failure(error: BaseException) -> tuple[str, str]:
    """Why no connection came about or held, and what to look at."""
    causes = list(_causes(error))
    said = " ".join(f"{type(one).__name__} {one}" for one in causes).lower()
    if "connecttimeout" in said:
        return "no connection in time", "is the machine reachable from here, and is the port right?"
    cause = next((str(one).strip().split("\n")[0] for one in causes if str(one).strip()), type(causes[0]).__name__)
    if "certificate" in said or "ssl" in said:
        return cause, "is it http:// or https://, and is its certificate trusted here?"
    if "name or service" in said or "getaddrinfo" in said or "resolution" in said or "nodename" in said:
        return cause, "is the name of the host right?"
    if "connecterror" in said or "refused" in said:
        return cause, "is the server running, and is the port right?"
    return cause, "it may have ended or been restarted, its log says why; or ask less at once with ?concurrency=4"


def _hint(fault: ServerFault, said: str) -> str:
    for codes, pattern, hint in _HINTS:
        if (not codes or fault.code in codes) and re.search(pattern, said):
            return f"; {hint}"
    return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(value: Any, depth: int = 0) -> str:
    """What a decoded body says, "" where it says nothing that is known."""
    if depth > 8 or value is None:
        return ""
    if isinstance(value, str):
        inner = _parsed(value) if value.lstrip().startswith(("{", "[")) else value
        return _plain(value) if inner == value else _words(inner, depth + 1) or value
    if isinstance(value, list):
        return "; ".join(dict.fromkeys(filter(None, (_words(one, depth + 1) for one in value))))
    if not isinstance(value, dict):
        return ""
    lower = {str(key).lower(): content for key, content in value.items()}
    said = list(dict.fromkeys(filter(None, (_words(lower.get(key), depth + 1) for key in _SAYS))))
    if isinstance(lower.get("loc"), list):
        said.insert(0, ".".join(map(str, lower["loc"])))
    if isinstance(lower.get("metadata"), dict) and (raw := _words(lower["metadata"].get("raw"), depth + 1)):
        said.append(raw)  # a router's report of what its provider said
    if not said and isinstance(choices := lower.get("choices"), list):
        return _words([choice.get("error") for choice in choices if isinstance(choice, dict)], depth + 1)
    return ": ".join(said)


def _plain(text: str) -> str:
    """Text without the tags of a page."""
    if not re.match(r"\s*<(!doctype|html|head|body|\?xml|h\d|p|center)\b", text, re.IGNORECASE):
        return text.strip()
    text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", " ", text)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def _fields(value: Any, names: tuple[str, ...], depth: int = 0) -> Iterator[Any]:
    """Values of the keys `names`, at the top and in what an error holds."""
    if depth > 8:
        return
    if isinstance(value, list):
        for one in value:
            yield from _fields(one, names, depth + 1)
    elif isinstance(value, dict):
        yield from (value[name] for name in names if isinstance(value.get(name), str | int))
        for name in ("error", "errors", "innererror", "choices"):
            yield from _fields(value.get(name), names, depth + 1)


def _code_of(body: Mapping[str, Any]) -> int:
    """The HTTP status that an error says it is, by number or by name; 502 where it does not say."""
    said = [str(value).lower() for value in _fields(body, ("code", "status", "type", "status_code"))]
    for value in said:
        if value.isdecimal() and 400 <= int(value) <= 599:
            return int(value)
    names = {
        "rate_limit": 429,
        "resource_exhausted": 429,
        "too_many": 429,
        "auth": 401,
        "permission": 403,
        "not_found": 404,
        "invalid": 400,
        "bad_request": 400,
        "badrequest": 400,
        "unsupported": 400,
        "content_filter": 400,
        "timeout": 504,
    }
    return next((code for value in said for name, code in names.items() if name in value), 502)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error's causes, the deepest first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return reversed(chain)
