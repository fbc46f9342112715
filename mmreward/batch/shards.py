"""Dataset folders of Hugging Face: one table in several files.

- as on the Hub: Parquet files in the folder or in its `data` folder, named by their split,
  `train-00000-of-00002.parquet` (https://huggingface.co/docs/hub/datasets-file-names-and-splits);
- as `Dataset.save_to_disk` writes them: `data-00000-of-00001.arrow` beside `state.json`; a folder of such folders, one
  a split, has a `dataset_dict.json`.

One split is read at a time. Where a folder has several, the caller names one: the split's own folder, or a pattern such
as `FOLDER/data/train-*.parquet`.
"""

__all__ = ["find_shards", "matching"]

from pathlib import Path

_PLACES = ("", "data")


def find_shards(folder: Path) -> list[Path] | None:
    """The files of the table in `folder`, in order; None where it is no dataset folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(place.name for place in folder.iterdir() if (place / "state.json").is_file())
        if len(splits) != 1:
            raise ValueError(_several(folder, splits, f"the folder of one, {folder / (splits or ['train'])[0]}"))
        folder = folder / splits[0]
    if (folder / "state.json").is_file():
        files = _visible(folder, "*.arrow")
        if not files:
            raise ValueError(f"{folder} has a state.json but no .arrow file; was it copied whole?")
        return files
    for place in _PLACES:
        if files := _visible(folder / place, "*.parquet"):
            splits = sorted({file.stem.split("-")[0] for file in files})
            if len(splits) > 1:
                raise ValueError(_several(folder, splits, f"a pattern, {folder / place / splits[0]}-*.parquet"))
            return files
    return None


def matching(pattern: Path) -> list[Path] | None:
    """The files that a pattern names (`*` in the last part of a path), or None where it is none."""
    if "*" not in pattern.name or pattern.exists():
        return None
    files = _visible(pattern.parent, pattern.name)
    if not files:
        raise FileNotFoundError(f"there is no file {str(pattern)!r}")
    if len({file.suffix for file in files}) > 1:
        raise ValueError(f"{str(pattern)!r} names files of several kinds: {', '.join(file.name for file in files[:5])}")
    return files


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Without the companions `._a.parquet` that macOS leaves beside files."""
    return sorted(file for file in folder.glob(pattern) if pattern.startswith(".") or not file.name.startswith("."))


def _several(folder: Path, splits: list[str], example: str) -> str:
    return f"{folder} holds the splits {', '.join(splits) or '(none)'}; name one: {example}"
