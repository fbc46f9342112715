"""Published judges that are a plain vision-language model with its own prompt and parser.

    published:VisionXLab/FIRM-Edit-8B?judge=firm&prompt=FIRM-Reward/editing/reward_server/prompt_template.py
    published:FOLDER?judge=unified-reward&prompt=UnifiedReward/UnifiedReward-Edit
    published:FOLDER?judge=rational-rewards&prompt=RationalRewards/README.md
    published:VisionXLab/FIRM-Edit-8B?judge=firm&prompt=...&server=http://127.0.0.1:8000/v1

`prompt` is the file or folder in which their authors published the words; it is read and never run, and compared with
a digest. With other words (a YAML file with texts of the same names) the model still runs, and its scores do not carry
the judge's name. Definitions: `mmreward.judge.checkpoints`.
"""

from __future__ import annotations

__all__ = ["JUDGES", "load"]

from typing import Any

from mmreward.judge.checkpoints import firm, rational_rewards, unified_reward
from mmreward.judge.checkpoints.plain import PlainJudge, with_system
from mmreward.judge.checkpoints.texts import read_texts
from mmreward.judge.options import take_choice, take_whole
from mmreward.judge.reward import JudgeReward, judge_reward
from mmreward.judge.ways.sampling import SAMPLING_OPTIONS, take_sampling
from mmreward.reward import unknown

JUDGES: dict[str, PlainJudge] = {
    "firm": firm.FIRM,
    "firm-execution": firm.EXECUTION,
    "firm-consistency": firm.CONSISTENCY,
    "rational-rewards": rational_rewards.JUDGE,
    "unified-reward": unified_reward.JUDGE,
}

_OPTIONS = ("judge", "prompt", "server", *SAMPLING_OPTIONS)
_MODEL_OPTIONS = ("base", "device", "dtype", "pixels", "revision", "tokens")


def load(model: str = "", **options: str) -> JudgeReward:
    """`published:MODEL?judge=NAME&prompt=FILE`: a folder or a hub id.

    Options: `judge` (one of `JUDGES`), `prompt`, the options of sampling (default: as published), `device`, `dtype`,
    `revision` of a hub id, `base` of a LoRA adapter, `pixels` (most pixels of an image), `tokens` (how many go through
    the model at once, default 8192). `server` (ADDRESS#MODEL) asks a server of the OpenAI protocol that runs the model,
    with the options of `openai:` in place of those from `device` on; that it does run it, nobody can see from here.
    """
    if not model:
        raise ValueError("the reward 'published' needs a model, such as 'published:VisionXLab/FIRM-Edit-8B?judge=firm'")
    from mmreward.judge.backends.openai_options import SERVER_OPTIONS, open_server

    server = options.pop("server", "")
    known = (*_OPTIONS, *(SERVER_OPTIONS if server else _MODEL_OPTIONS))
    for option in options:
        if option not in known:
            raise unknown("option of 'published'", option, known)
    if "judge" not in options:
        raise ValueError(f"published:{model} needs ?judge=, one of {', '.join(JUDGES)}")
    name = take_choice(options, "judge", "", JUDGES)
    judge = JUDGES[name]
    prompt = options.pop("prompt", "")
    if not prompt:
        raise ValueError(f"the words of {name} are not in a package: add ?prompt= with the {judge.where}")
    texts = read_texts(prompt, judge.places, judge.digest)
    sampling = take_sampling(
        {**judge.sampling, **{key: options.pop(key) for key in SAMPLING_OPTIONS if key in options}}
    )
    way = judge.make(texts, sampling)
    system = None if judge.system is None else texts.values[judge.system]
    backend = open_server(server, options, system=system) if server else _open(model, options, system)
    own = "" if texts.published else "own prompt in place of "
    return judge_reward(backend, way, name=f"{own}{name}:{model}", model=model)


def _open(model: str, options: dict[str, str], system: str | None) -> Any:
    from mmreward.judge.backends.folder import find_model
    from mmreward.judge.backends.transformers import DTYPES, TransformersBackend

    tokens = take_whole(options, "tokens", 8192)
    backend = TransformersBackend.load(
        find_model(model, options.get("revision"), options.get("base")),
        device=options.get("device"),
        dtype=take_choice(options, "dtype", "", DTYPES) if "dtype" in options else None,
        pixels=take_whole(options, "pixels", 1) if "pixels" in options else None,
        tokens=tokens,
    )
    if system is None:
        return backend
    processor = backend.processor
    processor.chat_template = with_system(processor.chat_template, system)
    asked = TransformersBackend(backend.model, processor, tokens=tokens)
    asked.describe = backend.describe | asked.describe
    return asked
