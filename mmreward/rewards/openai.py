"""A vision-language model behind a server of the OpenAI protocol as judge: vLLM, SGLang, hosted models.

    openai:http://127.0.0.1:8000/v1                                  the server's only model
    openai:http://127.0.0.1:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct?pixels=1000000
    openai:https://api.openai.com/v1#gpt-4.1?way=rubric&concurrency=8

How it is asked is the option `way` (see `mmreward.judge.ways`), as of `vlm:` models. `expected`, the default, needs a
server that reports log-probabilities. The key is read from the environment variable OPENAI_API_KEY, or from the one
that `key_env` names. `mmreward doctor --reward openai:…` checks a server with questions whose answers are known.
"""

from __future__ import annotations

__all__ = ["load"]

from mmreward.judge.reward import JudgeReward, judge_reward
from mmreward.judge.ways import load_way, way_options
from mmreward.reward import unknown


def load(model: str = "", **options: str) -> JudgeReward:
    """`openai:ADDRESS#MODEL`, the address as the client needs it (usually ending in /v1).

    Options: `way` (default expected) and those of the way; `concurrency` (requests under way at once, default 32),
    `timeout` (seconds for one try, default 120), `retries` (default 3); `key_env` (name of the environment variable
    with the key); `pixels` (larger images are made smaller before they are sent), `files` (a folder that the server
    reads too: images are sent as file:// through it), `uuids` (yes: images are named for vLLM's caches); `top`
    (alternatives of a token that are asked for, default 20), `label_ids` (no: vLLM is not asked for the labels' tokens
    by their ids), `thinking` (yes or no, for chat templates that know enable_thinking); `leave_out` (parameters that
    are not sent, such as temperature,seed: those that the server refuses by name are left out without it too; instead
    of max_tokens max_completion_tokens is sent, instead of json_schema json_object).
    """
    if not model.partition("#")[0]:
        raise ValueError("the reward 'openai' needs a server, such as 'openai:http://127.0.0.1:8000/v1#MODEL'")
    from mmreward.judge.backends.openai_options import SERVER_OPTIONS, open_server

    way_name = options.pop("way", "expected")
    known = ("way", *SERVER_OPTIONS, *way_options(way_name))
    for option in options:
        if option not in known:
            raise unknown("option of 'openai'", option, known)
    way = load_way(way_name, options)
    backend = open_server(model, options)
    return judge_reward(backend, way, name=f"openai:{backend.server.url}#{backend.model}", model=backend.model)
