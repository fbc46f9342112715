"""EditScore: a published judge that reasons and then grades following, over-editing and quality.

    editscore:FOLDER?base=FOLDER2&passes=4       a LoRA adapter and the model that it was trained on
    editscore:EditScore/EditScore-7B             from the hub, on Qwen/Qwen2.5-VL-7B-Instruct

Definition, words and template: `mmreward.judge.checkpoints.editscore`. With `way` (and its `question`) the model is
asked in other words; such a score is not EditScore's and does not carry its name.
"""

from __future__ import annotations

__all__ = ["load"]

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmreward.judge.checkpoints.editscore import PLACES, PUBLISHED, SAMPLING, TOP_K, editscore_words
from mmreward.judge.checkpoints.grades import rubric_way
from mmreward.judge.checkpoints.texts import package_folder, read_texts
from mmreward.judge.options import take_choice, take_whole
from mmreward.judge.reward import JudgeReward
from mmreward.judge.ways import load_way, way_options
from mmreward.judge.ways.sampling import SAMPLING_OPTIONS, take_sampling
from mmreward.reward import unknown

BASES = {
    "EditScore/EditScore-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "EditScore/EditScore-72B": "Qwen/Qwen2.5-VL-72B-Instruct",
    "EditScore/EditScore-Qwen3-VL-4B-Instruct": "Qwen/Qwen3-VL-4B-Instruct",
    "EditScore/EditScore-Qwen3-VL-8B-Instruct": "Qwen/Qwen3-VL-8B-Instruct",
    "EditScore/EditScore-Qwen3-VL-32B-Instruct": "Qwen/Qwen3-VL-32B-Instruct",
}
"""Published adapters, and the model that each was trained on."""

_OPTIONS = ("base", "device", "dtype", "pixels", "revision", "tokens", "way")
_PUBLISHED_OPTIONS = ("prompt", "votes", *SAMPLING_OPTIONS)


def load(model: str = "", **options: str) -> JudgeReward:
    """`editscore:ADAPTER`: the folder of a LoRA adapter, or a hub id.

    Options: `base` (folder or hub id of the model it was trained on; known for the published ids), `passes` (default
    1) and the other options of sampling with the published values as defaults, `votes` (mean or median of passes),
    `prompt` (folder with the package's vie_prompts.py, or a YAML file with texts of these names; default: the installed
    package), `pixels` (most pixels of an image; the published code sets no limit of its own), `device`, `dtype`,
    `revision` of a hub id, `tokens` (how many go through the model at once, default 8192); `way` and its options to ask
    in other words.
    """
    if not model:
        raise ValueError("the reward 'editscore' needs an adapter, such as 'editscore:EditScore/EditScore-7B'")
    from mmreward.judge.backends.transformers import DTYPES

    way_name = options.pop("way", None)
    known = (*_OPTIONS, *(way_options(way_name) if way_name else _PUBLISHED_OPTIONS))
    for option in options:
        if option not in known:
            raise unknown("option of 'editscore'", option, known)
    pixels = take_whole(options, "pixels", 1) if "pixels" in options else None
    where = {
        "pixels": pixels,
        "tokens": take_whole(options, "tokens", 8192),
        "dtype": take_choice(options, "dtype", "", DTYPES) if "dtype" in options else None,
        "device": options.pop("device", None),
    }
    base, revision = options.pop("base", BASES.get(model)), options.pop("revision", None)
    if way_name:
        way: Any = load_way(way_name, options)
        backend = _open(model, base, revision, where)
        return JudgeReward(backend, way, name=f"own question on the weights of editscore:{model}", model=model)
    prompt, votes = options.pop("prompt", None), take_choice(options, "votes", "mean", ("mean", "median"))
    sampling = replace(take_sampling(SAMPLING | options), top_k=TOP_K)
    texts = read_texts(prompt or package_folder("editscore", "EditScore"), PLACES, PUBLISHED)
    backend = _open(model, base, revision, where)
    words = editscore_words(texts, backend.model.config.model_type, pixels)
    return JudgeReward(
        backend,
        rubric_way(words, sampling, votes),
        name=f"editscore:{model}" if texts.published else f"own prompt on the weights of editscore:{model}",
        model=model,
        provenance={"top_k": TOP_K},
    )


def _open(model: str, base: str | None, revision: str | None, where: dict[str, Any]) -> Any:
    from mmreward.judge.backends.adapter import find_adapter
    from mmreward.judge.backends.folder import find_model
    from mmreward.judge.backends.transformers import TransformersBackend
    from mmreward.judge.checkpoints.weights import download

    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            raise ValueError(
                f"no folder {model!r}; give the folder of an adapter, or a hub id such as {next(iter(BASES))}"
            )
        folder = download(model, revision)
    elif revision:
        raise ValueError(f"option revision is for hub ids; {model} is a folder")
    find_adapter(folder)  # a whole model has no place here: it is `vlm:`
    return TransformersBackend.load(find_model(str(folder), base=base), **where)
