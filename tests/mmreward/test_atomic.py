"""Files that are whole or absent (folders: `training/test_checkpoint.py`)."""

import pytest

from mmreward.atomic import save_file_atomic


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "settings.json"
    save_file_atomic(file, lambda partial: partial.write_text("first"))

    def full(partial):
        partial.write_text("sec")
        assert file.read_text() == "first"
        raise OSError("no space left on the device")

    with pytest.raises(OSError, match="no space"):
        save_file_atomic(file, full)
    assert file.read_text() == "first" and [path.name for path in file.parent.iterdir()] == ["settings.json"]
    (file.parent / ".settings.json.partial").write_text("as a kill leaves it")
    save_file_atomic(file, lambda partial: partial.write_text("second"))
    assert file.read_text() == "second" and [path.name for path in file.parent.iterdir()] == ["settings.json"]
