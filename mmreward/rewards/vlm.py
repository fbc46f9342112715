"""A vision-language model in this process as judge.

    vlm:tiny                                             the bundled judge of the shapes world; it was taught the ways
                                                         expected, checklist and pairwise, and writes no text
    vlm:Qwen/Qwen2.5-VL-7B-Instruct                      any image-text-to-text model of the hub, or its folder
    vlm:FOLDER?question=my-questions.yaml&dtype=bfloat16

How it is asked is the option `way` (see `mmreward.judge.ways`): by default each dimension is a question whose answer
is a digit, its score is the expectation over the digits, and

    overall = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality)

Edits of one source with one instruction are judged together: what they share goes through the model once. That changes
no score beyond rounding. Expected scores of Qwen-VL models are differentiable too: `tensor` takes images as tensors
(see `mmreward.judge.differentiable`).
"""

from __future__ import annotations

__all__ = ["load"]

from mmreward.domain import DOMAINS
from mmreward.judge.options import DTYPE_NAMES, take_choice, take_whole
from mmreward.judge.reward import JudgeReward, judge_reward
from mmreward.judge.ways import load_way, way_options
from mmreward.reward import unknown

OPTIONS = ("adapter", "device", "domain", "dtype", "layout", "min_pixels", "pixels", "revision", "tokens", "way")
LAYOUTS = ("packed", "cached", "plain")


def load(model: str = "", **options: str) -> JudgeReward:
    """`vlm:MODEL`: "tiny", a folder or a hub id.

    Options: `way` (default expected; a model made for one domain, as "tiny" is, takes the ways that its card lists) and
    those of the way, `adapter` (folder of a LoRA adapter, merged into the model), `device`, `dtype` (float32, bfloat16,
    float16; default float32 on a CPU), `revision` of a hub id, `pixels` and `min_pixels` (most and least pixels of an
    image), `tokens` (how many go through the model at once, default 8192), `layout` (packed, cached or plain; default
    the first that the model takes), `domain` ("any" insists on edits outside of what the model knows).
    """
    if not model:
        raise ValueError("the reward 'vlm' needs a model, such as 'vlm:tiny' or 'vlm:Qwen/Qwen2.5-VL-7B-Instruct'")
    way_name = options.pop("way", "expected")
    known = (*OPTIONS, *way_options(way_name))
    for option in options:
        if option not in known:
            raise unknown("option of 'vlm'", option, known)
    dtype = take_choice(options, "dtype", "", DTYPE_NAMES) if "dtype" in options else None
    layout = take_choice(options, "layout", "", LAYOUTS) if "layout" in options else None
    pixels = take_whole(options, "pixels", 1) if "pixels" in options else None
    min_pixels = take_whole(options, "min_pixels", 1) if "min_pixels" in options else None
    tokens = take_whole(options, "tokens", 8192)
    domain = take_choice(options, "domain", "", DOMAINS) if "domain" in options else None
    from mmreward.judge.backends.folder import find_model

    source = find_model(model, options.pop("revision", None))
    way = load_way(way_name, options, source.card)
    from mmreward.judge.backends.transformers import (
        TransformersBackend,
    )  # torch: what can be said at once is said before

    backend = TransformersBackend.load(
        source,
        adapter=options.get("adapter"),
        device=options.get("device"),
        dtype=dtype,
        pixels=pixels,
        min_pixels=min_pixels,
        tokens=tokens,
        layout=layout,
    )
    return judge_reward(
        backend,
        way,
        name=f"vlm:{model}",
        model=source.card.get("name", model),
        known_for=str(source.card.get("domain", "any")),
        domain=domain,
    )
