"""Backend "openai": a judge behind a server of the OpenAI protocol (vLLM, SGLang, hosted models).

Each path of a prompt is one request; the requests of one prompt are sent together, with the shared part first, so that
a server with a prefix cache computes it once. All sampling parameters are sent, because servers fall back to the
model's own generation_config.json. Label probabilities are read at temperature 1, where they are the model's own
whether or not a server applies the temperature to what it reports. The token that is drawn does not matter.

A server batches as it likes, so the same request need not get the same last digits; provenance says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.backends.openai_pictures import GIVEN_TEXT, Pictures, messages
from mmreward.judge.backends.openai_reply import Reply, answer_of, text_of
from mmreward.judge.backends.openai_server import KINDS, Found, Group, Server, ServerError
from mmreward.judge.labels import Answer
from mmreward.judge.prompt import Prompt

__all__ = ["TOP", "OpenAIBackend"]

TOP = 20
"""Alternatives of a token that are asked for: the most that OpenAI gives, and vLLM by default."""

_CANNOT_GO_ON = Reply(
    status="error",
    error="the question gives the answer's beginning, which this server cannot go on from (vLLM and SGLang can); use a "
    "question set without a prefix",
)


class OpenAIBackend:
    """`model` on `server`, which `found` describes. `thinking` False asks the chat template not to let the model think
    first; None leaves it to the template. `label_ids` True asks for the labels' tokens by their ids, which the server
    must take and tell; False reads labels from the most likely tokens alone. `system` is the message of the system, put
    before each question.
    """

    def __init__(
        self,
        server: Server,
        found: Found,
        model: str,
        pictures: Pictures | None = None,
        *,
        top: int = TOP,
        thinking: bool | None = None,
        label_ids: bool = False,
        system: str | None = None,
    ) -> None:
        self.server, self.found, self.model = server, found, model
        self.pictures = pictures or Pictures()
        self.top, self.system, self._kind = top, system, KINDS[found.kind]
        self._asks_ids = label_ids
        self._ids: dict[tuple[str, ...], list[int]] = {}
        self._template = {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}
        self._describe: dict[str, Any] = {
            "backend": "openai",
            "server": f"{found.kind} {found.version}" if found.version else found.kind,
            "address": server.url,
            **self.pictures.describe,
            "given_text": GIVEN_TEXT,
            "thinking": {None: "as the template does", True: "on", False: "off"}[thinking],
            "repeatable": "up to the server's batching",
            **({} if self.takes_top_k else {"top_k_sent": False}),
        }

    @classmethod
    def load(
        cls,
        url: str,
        model: str,
        *,
        key_env: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 3,
        pixels: int | None = None,
        files: Path | None = None,
        uuids: bool = False,
        top: int = TOP,
        thinking: bool | None = None,
        label_ids: bool = True,
        system: str | None = None,
        leave_out: Collection[str] = (),
    ) -> OpenAIBackend:
        """Ask the server what it is. Without `model` it must have exactly one. Raises ValueError."""
        if files is not None and not files.is_dir():
            raise ValueError(
                f"option files: there is no folder {str(files)!r}; it must be one that the server reads too"
            )
        server = Server(
            url, key_env=key_env, concurrency=concurrency, timeout=timeout, retries=retries, leave_out=leave_out
        )
        found = server.look()
        if not model:
            if len(found.models) != 1:
                there_is = f"it has: {', '.join(found.models)}" if found.models else "it lists none"
                raise ValueError(f"which model of {url}? Write openai:{url}#MODEL; {there_is}")
            model = found.models[0]
        pictures = Pictures(pixels=pixels, folder=files.resolve() if files else None, uuids=uuids)
        by_ids = label_ids and KINDS[found.kind].label_ids and server.tokenize(model, ["0"]) is not None
        return cls(server, found, model, pictures, top=top, thinking=thinking, label_ids=by_ids, system=system)

    @property
    def describe(self) -> dict[str, Any]:
        """What made the answers, with the parameters that turned out to be refused."""
        refused = self.server.describe
        by_ids = self._asks_ids and "logprob_token_ids" not in refused.get("parameters_left_out", ())
        labels = "logprob_token_ids" if by_ids else f"top_logprobs {self.top}"
        return {**self._describe, "label_probabilities": labels, **refused}

    @property
    def takes_top_k(self) -> bool:
        """Whether the server can draw from the most probable tokens alone."""
        return "top_k" in self._kind.extra

    @property
    def takes_prefix(self) -> bool:
        """Whether the server can go on from the beginning of an answer."""
        return self._kind.going_on is not None

    def shown_size(self, width: int, height: int) -> dict[str, Any]:
        """The size at which an image is sent, for provenance; what the server makes of it, it does not say."""
        return {"sent": list(self.pictures.size(width, height))}

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises ValueError for labels that could not be told apart, or that the server says are no single tokens."""
        names = [label.strip() for label in labels]
        for name in names:
            # The server reports the first token alone: of "1" and "10" it may be the same.
            if longer := [other for other in names if other != name and other.startswith(name)]:
                raise ValueError(f"labels {name!r} and {longer[0]!r} may begin with the same token; use labels 0 to 9")
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"labels must be different words or signs, got {list(labels)}")
        self._label_ids(labels)

    def probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[Answer]]:
        """For each prompt the answers of its leaves, in order."""
        asked: dict[str, Any] = {"logprobs": True, "top_logprobs": self.top}
        ids = self._label_ids(labels)
        replies = self.replies(prompts, Sampling(max_new_tokens=1, temperature=1.0), asked, {"logprob_token_ids": ids})
        return [[answer_of(reply, labels) for reply in leaves] for leaves in replies]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]:
        """For each prompt, for each of its leaves, what the model writes in each pass."""
        asked: dict[str, Any] = {}
        if sampling.schema:
            schema = {"name": "answer", "strict": True, "schema": sampling.schema}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        replies = self.replies(prompts, sampling, asked)
        each = sampling.passes
        return [
            [[text_of(one) for one in leaves[start : start + each]] for start in range(0, len(leaves), each)]
            for leaves in replies
        ]

    def replies(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        asked: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> list[list[Reply]]:
        """What the server answers at each prompt's leaves, the passes of one leaf next to each other. `asked` adds to
        the request, or replaces what would be sent; `extra` holds parameters outside of the protocol, None is left out.
        """
        more = {name: value for name, value in (extra or {}).items() if value is not None}
        if sampling.top_k is not None and self.takes_top_k:
            more["top_k"] = sampling.top_k
        fixed: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            self._kind.length: sampling.max_new_tokens,
            "extra_body": {**self._kind.extra, **self._template, **more},
            **(asked or {}),
        }

        def group(prompt: Prompt, stack: ExitStack) -> list[dict[str, Any]]:
            part = self.pictures.parts(stack)
            seeds = range(sampling.seed, sampling.seed + sampling.passes)
            made = []
            for path, beginning in zip(prompt.paths(), prompt.beginnings(), strict=True):
                body = fixed["extra_body"] | (self._kind.going_on or {} if beginning else {})
                one = {**fixed, "extra_body": body, "messages": messages(path, part, beginning, self.system)}
                made += [{**one, "seed": seed} for seed in seeds]
            return made

        if not self._kind.going_on and any(text for prompt in prompts for text in prompt.beginnings()):
            return [[_CANNOT_GO_ON] * (prompt.leaves * sampling.passes) for prompt in prompts]
        return self.server.send([Group(one.leaves * sampling.passes, partial(group, one)) for one in prompts])

    def _label_ids(self, labels: Sequence[str]) -> list[int] | None:
        """Ids of the tokens that read like a label, None where labels are not read by ids."""
        key = tuple(label.strip() for label in labels)
        if self._asks_ids and key not in self._ids:
            self._ids[key] = self._find_ids(key)
        return self._ids.get(key)

    def _find_ids(self, names: Sequence[str]) -> list[int]:
        forms = [(name, blank + name) for name in names for blank in ("", " ", "\n")]
        tokens = self.server.tokenize(self.model, [text for _, text in forms])
        if tokens is None:
            raise ServerError(
                f"{self.server.url} does not tell the tokens of the labels any more; try again, or add ?label_ids=no"
            )
        single = [(name, ids[0]) for (name, _), ids in zip(forms, tokens, strict=True) if len(ids) == 1]
        for name in names:
            if name not in [found for found, _ in single]:
                raise ValueError(f"label {name!r} is not a single token of {self.model}; use labels such as 0 to 5")
        return sorted({one for _, one in single})
