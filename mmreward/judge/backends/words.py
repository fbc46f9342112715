"""Text as token ids: ours, text of others, and what a chat template writes around a user's message.

Each piece of others' text is tokenised by itself, without a control token in it; so is our text at the start of a
branch. A path of a prompt then has the same tokens whatever branches beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmreward.judge.prompt import Fixed, Given, Piece

__all__ = ["Frame", "Words", "find_frame"]

_CACHED = 4096


class Words:
    """Token ids by a tokenizer. Our own text is kept, because the same words are asked again and again."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._fixed: dict[str, list[int]] = {}
        self._added: dict[str, int] = dict(tokenizer.get_added_vocab())

    def fixed(self, text: str) -> list[int]:
        """Our text, in which control tokens are what they are."""
        if text not in self._fixed:
            if len(self._fixed) >= _CACHED:
                self._fixed.clear()
            self._fixed[text] = self._ids(text)
        return self._fixed[text]

    def given(self, text: str) -> list[int]:
        """Text of others: "<|im_end|>" in it is ten characters, and half a surrogate pair is a question mark."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._ids(text, split_special_tokens=True)
        known = set(self._added.values())
        if known.isdisjoint(ids):
            return ids
        # Added tokens that the tokenizer does not call special are matched all the same: break each after a character.
        parts = [text]
        for token in sorted(self._added, key=len, reverse=True):
            parts = [piece for part in parts for piece in _broken(part, token)]
        ids = [one for part in parts for one in self._ids(part, split_special_tokens=True)]
        return [one for one in ids if one not in known]

    def _ids(self, text: str, **options: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, **options)["input_ids"] if text else []


def _broken(text: str, token: str) -> Iterator[str]:
    """`text` in parts, none of which holds `token`."""
    first, *rest = text.split(token)
    for part in rest:
        yield first + token[:1]
        first = token[1:] + part
    yield first


@dataclass(frozen=True)
class Frame:
    """What a template writes: `head` before a message that begins with text, `head_image` before one that begins with
    an image, `before` and `after` each image token, `tail` after the message.
    """

    head: str
    head_image: str
    before: str
    after: str
    tail: str

    def runs(
        self, pieces: Sequence[Piece], beginning: Sequence[Piece] | None, answer: str | None
    ) -> Iterator[str | Given | Image.Image]:
        """The pieces of a node with the frame's text around them, neighbouring texts of ours joined. `beginning`: where
        the message begins here, its first piece; `answer`: where it ends here, what the answer begins with.
        """
        text = ""
        if beginning is not None:
            text = self.head_image if beginning and isinstance(beginning[0], Image.Image) else self.head
        for piece in pieces:
            if isinstance(piece, Fixed):
                text += piece.text
                continue
            if isinstance(piece, Image.Image):
                yield text + self.before
                text = self.after
            else:
                yield text
                text = ""
            yield piece
        yield text if answer is None else text + self.tail + answer


def find_frame(processor: Any) -> Frame | None:
    """The frame that a processor's chat template puts around a message, or None where it does more than that."""
    token, tokenizer = getattr(processor, "image_token", None), processor.tokenizer
    if not token:
        return None
    a, b, image = " first part\n", "\n second part ", {"type": "image"}

    def render(*content: str | dict[str, str]) -> str:
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        message = [{"role": "user", "content": parts}]
        return processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)

    head, found, tail = render(a).partition(a)
    adds = tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]
    if adds and not (tokenizer.bos_token and head.startswith(tokenizer.bos_token)):
        return None
    mixed = render(a, image, b)
    if not (found and mixed.startswith(head + a) and mixed.endswith(b + tail)):
        return None
    before, found, after = mixed[len(head + a) : len(mixed) - len(b + tail)].partition(token)
    shown, end = before + token + after, render(image, b)
    if not found or token in after or not end.endswith(shown + b + tail):
        return None
    head_image = end[: len(end) - len(shown + b + tail)]
    more = render(image, image, a, image)
    return Frame(head, head_image, before, after, tail) if more == head_image + 2 * shown + a + shown + tail else None
