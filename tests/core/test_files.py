"""Paths in settings, and files that are written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from randout.core import files
from randout.core.errors import UserError


def test_words_that_settings_may_have_are_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that happens to be called `none` is not the teacher of `--teacher none`."""
    monkeypatch.chdir(tmp_path)
    for name in ("none", "auto", "encoder"):
        (tmp_path / name).mkdir()
    assert [files.portable(name, tmp_path / "run") for name in ("none", "auto", "encoder", "./none")] == [
        "none",
        "auto",
        "../encoder",
        "../none",
    ]
    tables = {"teacher": {"model": "none"}, "student": {"model": "encoder"}}
    files.resolve_places(tables, tmp_path)
    assert tables == {"teacher": {"model": "none"}, "student": {"model": str(tmp_path / "encoder")}}


def test_a_new_folder_has_no_name_of_a_file(tmp_path: Path) -> None:
    for name in ("x.csv", "report.HTML", "shards.parquet"):
        with pytest.raises(UserError, match=r"a folder is written here\. Name a folder, such as .*(x|report|shards)$"):
            files.check_folder_name(tmp_path / name)
    files.check_folder_name(tmp_path / "minilm-0.5")
    (tmp_path / "old.csv").mkdir()  # by an earlier version, and may have to be resumed
    files.check_folder_name(tmp_path / "old.csv")
