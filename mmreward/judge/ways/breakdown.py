"""An instruction broken into parts by the judge itself: a list of short texts, written once and kept.

The list is written from the source, the instruction and the criteria alone, before any candidate is seen, greedily, and
serves all candidates: nothing that an editor does decides what it is measured on. Lists that could not be read are not
kept; they are asked for again the next time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from mmreward.judge.backends.backend import Backend, Sampling, Text
from mmreward.judge.parse import Reading, read_list
from mmreward.judge.prompt import Prompt
from mmreward.judge.way import Group

__all__ = ["Breakdown"]

_KEPT = 10_000


class Breakdown:
    """`of(groups, backend)` returns one list per group. `prompt` builds the request; `key` is the JSON key of the list
    in the reply. One instance serves one backend, and keeps the last 10,000 lists. Not thread-safe.
    """

    def __init__(self, prompt: Callable[[Group], Prompt], key: str, most: int, max_new_tokens: int = 512) -> None:
        self.prompt, self.key, self.most = prompt, key, most
        self.sampling = Sampling(max_new_tokens=max_new_tokens, schema=_schema(key, most))
        self._kept: OrderedDict[str, Reading] = OrderedDict()

    def of(self, groups: Sequence[Group], backend: Backend) -> list[Reading]:
        """The `items` of each group's list, or a status other than "ok" with the reason."""
        names = [_name(group) for group in groups]
        missing = {name: group for name, group in zip(names, groups, strict=True) if name not in self._kept}
        found: dict[str, Reading] = {name: self._kept[name] for name in names if name in self._kept}
        if missing:
            written = backend.generate([self.prompt(group) for group in missing.values()], self.sampling)
            found |= {name: self._read(texts[0][0]) for name, texts in zip(missing, written, strict=True)}
        for name in names:
            if found[name].status == "ok":
                self._kept[name] = found[name]
                self._kept.move_to_end(name)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return [found[name] for name in names]

    def _read(self, text: Text) -> Reading:
        if text.status != "ok":
            return Reading(status=text.status, error=text.error)
        return read_list(text.text, self.key, most=self.most, finished=text.finished)


def _name(group: Group) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in (group.instruction, group.criteria):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d;" % len(data) + data)
    digest.update(f"{group.source.width} {group.source.height};".encode() + group.source.tobytes())
    return digest.hexdigest()


def _schema(key: str, most: int) -> dict[str, Any]:
    items = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {key: items}, "required": [key], "additionalProperties": False}
