"""The text and the label column of a table whose columns have no usual names."""

from __future__ import annotations

from pathlib import Path

import pytest

from randout.core.errors import UserError
from support.tables import load


def _file(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_columns_without_usual_names_are_chosen_by_their_content(tmp_path: Path) -> None:
    rows = [f"a summary of the package {at},{'net' if at % 3 else 'games'},{at * 7}" for at in range(60)]
    found = load(_file(tmp_path, "summary,section,size", rows))
    assert (found.columns["text"], found.columns["label"]) == ("summary", "section")
    assert any("chosen by their content: text 'summary', label 'section'" in note for note in found.report.notes)


def test_a_named_column_or_a_usual_name_goes_before_content(tmp_path: Path) -> None:
    rows = [f"a summary of package {at},another text about {at},{'net' if at % 3 else 'games'}" for at in range(60)]
    path = _file(tmp_path, "summary,sentence,section", rows)
    assert load(path).columns["text"] == "sentence"
    assert load(path, text_column="summary", label_column="section").columns["text"] == "summary"


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("one,two,kind", "a long text number {at},another text about {at},{few}"),  # two columns of texts
        ("words,kind,type", "a long text number {at},{few},{few}"),  # two columns of labels
        ("words,kind", "a long text number {at},label {at}"),  # labels that never repeat
        ("words,kind", "{at},{few}"),  # numbers in place of texts
        ("words,kind", "few words {few},{few}"),  # the same texts again and again
    ],
)
def test_unclear_content_is_asked_about(tmp_path: Path, header: str, row: str) -> None:
    rows = [row.format(at=at, few="net" if at % 3 else "games") for at in range(60)]
    with pytest.raises(UserError, match="not clear"):
        load(_file(tmp_path, header, rows))


def test_a_rating_goes_before_other_columns_of_few_values(tmp_path: Path) -> None:
    rows = [f"a review of app number {at},{1 + at % 5},2.{at % 3}" for at in range(60)]
    found = load(_file(tmp_path, "review,stars,version", rows))
    assert (found.columns["text"], found.columns["label"]) == ("review", "stars")
    assert any("chosen by their content" in note for note in found.report.notes)
    with pytest.raises(UserError, match="not clear"):
        load(_file(tmp_path, "review,grade,version", rows))
