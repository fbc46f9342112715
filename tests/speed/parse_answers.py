"""How a judge's written answers are read: real ones that another parser gave up on, and real scores in usual forms.

    python tests/speed/parse_answers.py vlm_unparseable_outputs.jsonl.gz imagenhub_text_guided_ie.jsonl.gz

The first file has rows {"judge", "text"}, answers without a label: of each is counted whether it was read, how, and
why not, and each number that was read must stand in the text. The second has rows with "judges": {name: {"sc": [2
scores], "pq": [2 scores]}}; the scores that were not guessed are written back as JSON in five forms, and must come out
as they went in.
"""

import argparse
import gzip
import json
import re
import time
from collections import Counter
from pathlib import Path

from mmreward.judge.parse import Reading, read_scores

NAMES = {"sc": ("success", "over_edit"), "pq": ("naturalness", "artifacts")}
REASONING = 'The "red" {or {almost} red} cup [left] isn\'t as in "source"; {"success": "partly"}.'
FORMS = {
    "fenced": lambda s: f"Here it is:\n```json\n{json.dumps({'reasoning': 'fine', 'score': s}, indent=1)}\n```\n",
    "smart quotes": lambda s: f"{{\u201creasoning\u201d: \u201cthe cup\u2019s handle\u201d, \u201cscore\u201d: {s}}}",
    "trailing comma": lambda s: f'{{"reasoning": "fine", "score": {s[:-1] + [s[-1]]},}}'.replace("]", ",]"),
    "quotes and braces": lambda s: f'{REASONING} {{"reasoning": "it says "{REASONING}"", "score": {s}}}',
    "list only": str,
}


def rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def read(text: str) -> Reading:
    """Read with either pair of names: the file does not say which was asked for."""
    readings = [read_scores(text, names, 0, 10) for names in NAMES.values()]
    return next((one for one in readings if one.status == "ok"), readings[0])


def reason(reading: Reading) -> str:
    """The kind of a failure: its message without what is quoted and counted."""
    return f"{reading.status}: " + re.sub(r"'.*|\".*|(?<= )-?\d\S*", "...", reading.error or "", flags=re.DOTALL)


def unparseable(path: Path) -> None:
    answers = rows(path)
    start = time.perf_counter()
    readings = [read(row["text"]) for row in answers]
    seconds = time.perf_counter() - start
    ok = [(row, one) for row, one in zip(answers, readings) if one.status == "ok"]
    invented = [
        row for row, one in ok if not set(one.scores) <= set(map(float, re.findall(r"-?\d+(?:\.\d+)?", row["text"])))
    ]
    print(f"{len(answers)} answers in {seconds:.2f} s: {len(ok)} read, {len(answers) - len(ok)} failed, ", end="")
    print(f"{len(invented)} with a number that is not in the text")
    for form, count in Counter(one.form for _, one in ok).most_common():
        print(f"{count:6} read as {form}")
    for text, count in Counter(reason(one) for one in readings if one.status != "ok").most_common():
        print(f"{count:6} {text}")
    for row, one in ok:
        print(f"       {row['judge']}: {one.scores} from {row['text'][:90]!r}")


def written_back(path: Path) -> None:
    right, total = Counter(), 0
    for row in rows(path):
        for judge in row["judges"].values():
            for kind, names in NAMES.items():
                scores = judge.get(kind)
                if not scores or len(scores) != len(names) or judge.get(f"{kind}_guessed"):
                    continue
                total += 1
                for form, write in FORMS.items():
                    right[form] += read_scores(write(scores), names, 0, 10).scores == tuple(map(float, scores))
    for form in FORMS:
        print(f"{right[form]:6} of {total} pairs of scores read right: {form}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unparseable", type=Path)
    parser.add_argument("ratings", type=Path, nargs="?")
    arguments = parser.parse_args()
    unparseable(arguments.unparseable)
    if arguments.ratings:
        written_back(arguments.ratings)
