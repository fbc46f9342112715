"""EditScore: a published judge that reasons and then grades following, over-editing and quality.

    editscore:FOLDER?base=FOLDER2&passes=4       a LoRA adapter and the model that it was trained on
    editscore:EditScore/EditScore-7B             from the hub, on Qwen/Qwen2.5-VL-7B-Instruct

    editscore:EditScore/EditScore-7B?server=http://127.0.0.1:8000/v1      the same model, merged, behind a server

Definition, words and template: `mmreward.judge.checkpoints.editscore`. With `way` (and its `question`) the model is
asked in other words; such a score is not EditScore's and does not carry its name. Behind a server (OpenAI protocol) the
name before the question mark is what the caller says that the server runs: nobody can see its weights from here.
"""

from __future__ import annotations

__all__ = ["load"]

from pathlib import Path
from typing import Any

from mmreward.judge.checkpoints.editscore import PLACES, PUBLISHED, SAMPLING, editscore_words, family_of
from mmreward.judge.checkpoints.grades import rubric_way
from mmreward.judge.checkpoints.texts import package_folder, read_texts
from mmreward.judge.options import take_choice, take_whole
from mmreward.judge.reward import JudgeReward, judge_reward
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

_MODEL_OPTIONS = ("device", "dtype", "pixels", "revision", "tokens")
_PUBLISHED_OPTIONS = ("prompt", "votes", *SAMPLING_OPTIONS)


def load(model: str = "", **options: str) -> JudgeReward:
    """`editscore:ADAPTER`: the folder of a LoRA adapter, or a hub id.

    Options: `base` (folder or hub id of the model it was trained on; known for the published ids), `passes` (default
    1) and the other options of sampling with the published values as defaults, `votes` (mean or median of passes),
    `prompt` (folder with the package's vie_prompts.py, or a YAML file with texts of these names; default: the installed
    package), `pixels` (most pixels of an image; the published code sets no limit of its own), `device`, `dtype`,
    `revision` of a hub id, `tokens` (how many go through the model at once, default 8192); `way` and its options to ask
    in other words. `server` (ADDRESS#MODEL) asks a server that runs the model, with the options of `openai:` in place
    of those from `device` on.
    """
    if not model:
        raise ValueError("the reward 'editscore' needs an adapter, such as 'editscore:EditScore/EditScore-7B'")
    from mmreward.judge.backends.openai_options import SERVER_OPTIONS, open_server

    server, way_name = options.pop("server", ""), options.pop("way", None)
    known = ("base", "server", "way", *(SERVER_OPTIONS if server else _MODEL_OPTIONS))
    known += way_options(way_name) if way_name else _PUBLISHED_OPTIONS
    for option in options:
        if option not in known:
            raise unknown("option of 'editscore'", option, known)
    pixels = take_whole(dict(options), "pixels", 1) if "pixels" in options else None  # the backend takes it too
    base = options.pop("base", BASES.get(model))
    if way_name:
        way: Any = load_way(way_name, options)
        backend = open_server(server, options) if server else _open(model, base, options)
        return judge_reward(backend, way, name=f"own question on the weights of editscore:{model}", model=model)
    prompt, votes = options.pop("prompt", None), take_choice(options, "votes", "mean", ("mean", "median"))
    asked = {name: options.pop(name) for name in SAMPLING_OPTIONS if name in options}
    sampling = take_sampling(SAMPLING | asked)
    texts = read_texts(prompt or package_folder("editscore", "EditScore"), PLACES, PUBLISHED)
    if server:
        family = family_of(base or model)
        backend = open_server(server, options)
    else:
        backend = _open(model, base, options)
        family = backend.model.config.model_type
    words = editscore_words(texts, family, pixels)
    return judge_reward(
        backend,
        rubric_way(words, sampling, votes),
        name=f"editscore:{model}" if texts.published else f"own prompt on the weights of editscore:{model}",
        model=model,
        shown=words.size,
    )


def _open(model: str, base: str | None, options: dict[str, str]) -> Any:
    """The model in this process; takes its options out of `options`."""
    from mmreward.judge.backends.adapter import find_adapter
    from mmreward.judge.backends.folder import find_model
    from mmreward.judge.backends.transformers import DTYPES, TransformersBackend
    from mmreward.judge.checkpoints.weights import download

    folder, revision = Path(model).expanduser(), options.pop("revision", None)
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            raise ValueError(
                f"no folder {model!r}; give the folder of an adapter, or a hub id such as {next(iter(BASES))}"
            )
        folder = download(model, revision)
    elif revision:
        raise ValueError(f"option revision is for hub ids; {model} is a folder")
    find_adapter(folder)  # a whole model has no place here: it is `vlm:`
    return TransformersBackend.load(
        find_model(str(folder), base=base),
        device=options.pop("device", None),
        dtype=take_choice(options, "dtype", "", DTYPES) if "dtype" in options else None,
        pixels=take_whole(options, "pixels", 1) if "pixels" in options else None,
        tokens=take_whole(options, "tokens", 8192),
    )
