"""What must hold for a judge behind a server, asked with flat colours: a red image, a blue one, and yes or no.

The flags in the advice are those of vLLM 0.2x to 0.33 and of SGLang 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from mmreward.bench.check import Check, graded
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import TOP, OpenAIBackend
from mmreward.judge.backends.openai_reply import Reply, answer_of, text_of
from mmreward.judge.labels import Answer
from mmreward.judge.prompt import Fixed, Prompt

__all__ = ["server_checks", "server_line"]

_LABELS = ("yes", "no")
_SIDES = (56, 448, 1344)
_MANY = 2000
"""More tokens than this for an image of 1344 x 1344 make a judge slow without making it better at most edits."""
_FIRST_TOKEN = Sampling(max_new_tokens=1, temperature=1.0)
_GREEDY = Sampling(max_new_tokens=12)


def server_checks(backend: OpenAIBackend) -> Iterator[Check]:
    """The findings about the server of a judge, one by one."""
    found = backend.found
    version = f" {found.version}" if found.version else ""
    yield Check("server", "ok", f"{found.kind}{version} at {backend.server.url}")
    yield _listed(backend)
    (text,) = _ask(backend, [_colours("red", "blue")], _GREEDY)
    wrote = text_of(text)
    if wrote.status != "ok":
        is_limit = "image" in str(wrote.error)
        advice = "start the server with as many images as a judge shows, for example" if is_limit else ""
        command = server_line(backend) if is_limit else ""
        yield Check("question", "failed", f"{wrote.status}: {wrote.error}", advice, command)
        return
    yield Check("question", "ok", f"two images, answered {wrote.text.strip()[:40]!r}")
    limit = _limit(backend)
    yield limit
    if limit.status != "skipped":
        yield _mass(backend)
    yield _order(backend, limit.status != "skipped")
    yield _pixels(backend)
    yield from _sampling(backend, limit.status != "skipped")
    yield _parameters(backend)


def server_line(backend: OpenAIBackend) -> str:
    """A command that starts a server of this kind as a judge needs it."""
    pixels = backend.pictures.pixels or 1003520
    if backend.found.kind == "sglang":
        return (
            f"python -m sglang.launch_server --model-path {backend.model} --sampling-defaults openai "
            f"--limit-mm-data-per-request '{{\"image\": 3}}' "
            f'--mm-process-config \'{{"image": {{"max_pixels": {pixels}}}}}\''
        )
    folder = backend.pictures.folder
    return (
        f"vllm serve {backend.model} --max-logprobs {TOP} --generation-config vllm --enable-prefix-caching "
        f"--limit-mm-per-prompt '{{\"image\": 3}}' --mm-processor-kwargs '{{\"max_pixels\": {pixels}}}'"
        + (f" --allowed-local-media-path {folder}" if folder else "")
    )


def _listed(backend: OpenAIBackend) -> Check:
    models = backend.found.models
    there_is = ", ".join(models[:5]) + (" …" if len(models) > 5 else "") if models else "none"
    advice = "if it answers all the same, nothing is to be done; some servers do not list what they were started with"
    return graded("model", backend.model in models, f"{backend.model}; listed: {there_is}", advice, otherwise="warning")


def _limit(backend: OpenAIBackend) -> Check:
    """How many alternatives of a token the server lists."""
    for top in (backend.top, *(fewer for fewer in (10, 5, 1) if fewer < backend.top)):
        (reply,) = _ask(backend, [_colours("red", "blue")], _FIRST_TOKEN, {"logprobs": True, "top_logprobs": top})
        listed = len(reply.completion.listed) if reply.completion else 0
        if listed:
            found = f"{listed} tokens listed of {top} asked for"
            advice = f"add ?top={top}, or let the server list {TOP} (vLLM: --max-logprobs {TOP})"
            return graded("log-probabilities", top == TOP and listed >= TOP, found, advice, otherwise="warning")
        if reply.completion is not None:
            return Check(
                "log-probabilities",
                "skipped",
                "the server answers without them",
                "judge with ?way=rubric, which reads text; expected scores and yes/no checks need another server",
            )
    return Check("log-probabilities", "skipped", reply.error or "refused", "judge with ?way=rubric, which reads text")


def _mass(backend: OpenAIBackend) -> Check:
    (answer,) = _answers(backend, [_colours("red", "blue")])
    if answer.status != "ok":
        return Check("yes or no", "warning", f"{answer.status}: {answer.error}")
    found = f"yes and no hold {answer.mass:.3f} of the probability"
    advice = "the model begins with another word; thinking models: ?thinking=no"
    return graded("yes or no", answer.mass >= 0.5, found, advice, otherwise="warning")


def _order(backend: OpenAIBackend, by_probability: bool) -> Check:
    """Is the first image red: asked of red and blue, and of blue and red."""
    prompts = [_colours("red", "blue"), _colours("blue", "red")]
    if by_probability:
        shares = [_share(answer) for answer in _answers(backend, prompts)]
    else:
        shares = [_said(reply) for reply in _ask(backend, prompts, _GREEDY)]
    first, second = shares
    found = f"the first image is red: {first:.2f} when it is, {second:.2f} when it is blue"
    advice = (
        "images arrive in another order, not at all, or the model cannot tell them apart; look at the chat template"
    )
    outcome = "warning" if first > second else "failed"
    good = first > 0.5 > second
    return graded("colour order", good, found, advice, otherwise="warning" if outcome == "warning" else "failed")


def _pixels(backend: OpenAIBackend) -> Check:
    prompts = [Prompt((Fixed("Say ok."),))]
    prompts += [Prompt((Image.new("RGB", (side, side), "red"), Fixed("Say ok."))) for side in _SIDES]
    counts = [reply.prompt_tokens for reply in _ask(backend, prompts, _FIRST_TOKEN)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return Check("pixels", "skipped", "the server does not tell how many tokens a prompt has")
    tokens = [count - known[0] for count in known[1:]]
    found = ", ".join(f"{side}x{side}: {count} tokens" for side, count in zip(_SIDES, tokens))
    if min(tokens) < 1:
        return Check("pixels", "failed", found, "images do not reach the model; is it a vision-language model?")
    advice = (
        "images cost much; limit them (?pixels=1000000, or vLLM: --mm-processor-kwargs '{\"max_pixels\": 1003520}')"
    )
    return graded("pixels", tokens[-1] <= _MANY, found, advice, otherwise="warning")


def _sampling(backend: OpenAIBackend, by_probability: bool) -> Iterator[Check]:
    """Greedy answers must not depend on the seed, and log-probabilities not on temperature or penalties."""
    prompt = Prompt((_flat("red"), Fixed("Describe this image in one sentence.")))
    replies = _ask(backend, [prompt], Sampling(max_new_tokens=12, passes=2))
    answers = [text_of(reply) for reply in replies]
    texts = [answer.text for answer in answers]
    if failed := [answer for answer in answers if answer.status != "ok"]:
        yield Check("temperature", "warning", f"{failed[0].status}: {failed[0].error}")
        return
    advice = "temperature 0 is not honoured, or the server's batching moves its answers; average with ?passes"
    found = "two greedy answers " + ("are the same" if texts[0] == texts[1] else f"differ: {texts[0]!r}, {texts[1]!r}")
    yield graded("temperature", texts[0] == texts[1], found, advice, otherwise="warning")
    if by_probability:
        question = [_colours("red", "blue")]
        bent = {"temperature": 0.3, "presence_penalty": 2.0, "frequency_penalty": 2.0}
        plain, same, other = (_answers(backend, question, more)[0] for more in ({}, {}, bent))
        gap, moved = _gap(plain, same), _gap(plain, other)
        advice = "more than 0.02; the server's batching moves them (vLLM: VLLM_BATCH_INVARIANT=1)"
        found = f"identical requests differ by {gap:.2g}"
        yield graded("same again", gap <= 0.02, found, advice, otherwise="warning")
        raw = moved <= max(0.02, 2 * gap)
        found = f"temperature 0.3 and penalties move label probabilities by {moved:.2g}"
        says = "they are the model's own" if raw else "the server bends them; neutral parameters go with each request"
        yield Check("penalties", "ok", f"{found}: {says}")


def _parameters(backend: OpenAIBackend) -> Check:
    """What the server refused of the requests until now."""
    changes = backend.server.describe
    left_out = changes.get("parameters_left_out", [])
    replaced = [f"{other} for {name}" for name, other in changes.get("parameters_replaced", {}).items()]
    if not changes:
        return Check("parameters", "ok", "all are taken")
    found = "; ".join(
        f"{what} {', '.join(names)}" for what, names in (("without", left_out), ("with", replaced)) if names
    )
    advice = "the server refuses them: its own defaults count, such as temperature 1 (average answers with ?passes)"
    good = not {"temperature", "top_p", "top_k"} & set(left_out)
    return graded("parameters", good, found, advice, otherwise="warning")


def _ask(
    backend: OpenAIBackend, prompts: Sequence[Prompt], sampling: Sampling, asked: dict[str, Any] | None = None
) -> list[Reply]:
    return [reply for leaves in backend.replies(prompts, sampling, asked) for reply in leaves]


def _answers(backend: OpenAIBackend, prompts: Sequence[Prompt], more: dict[str, Any] | None = None) -> list[Answer]:
    """Probabilities of yes and no, in whatever case they are written."""
    asked = {"logprobs": True, "top_logprobs": backend.top, **(more or {})}
    written = ("yes", "Yes", "YES", "no", "No", "NO")
    answers = [answer_of(reply, written) for reply in _ask(backend, prompts, _FIRST_TOKEN, asked)]
    folded = []
    for one in answers:
        pair = (sum(one.probabilities[:3]), sum(one.probabilities[3:]))
        folded.append(Answer(pair, one.mass) if one.status == "ok" else one)
    return folded


def _colours(first: str, second: str) -> Prompt:
    question = "Is the first of these two images red? Answer with yes or no and nothing else."
    return Prompt((Fixed("The first image:"), _flat(first), Fixed("The second image:"), _flat(second), Fixed(question)))


def _flat(colour: str) -> Image.Image:
    return Image.new("RGB", (112, 112), colour)


def _share(answer: Answer) -> float:
    """Probability of yes against no, NaN where there is none."""
    return answer.probabilities[0] / answer.mass if answer.status == "ok" and answer.mass > 0 else math.nan


def _said(reply: Reply) -> float:
    text = text_of(reply).text.strip().lower()
    return 1.0 if text.startswith("yes") else 0.0 if text.startswith("no") else math.nan


def _gap(one: Answer, other: Answer) -> float:
    if one.status != "ok" or other.status != "ok":
        return math.nan
    return max(abs(a - b) for a, b in zip(one.probabilities, other.probabilities))
