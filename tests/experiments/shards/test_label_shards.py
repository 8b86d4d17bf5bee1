"""Labels of shards: every row once, in order, whatever is killed; never mixed with those of other settings."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import randout
from conftest import Run
from randout.core.console import Show
from randout.core.errors import UserError
from randout.data.soft_label_files import read_soft_labels
from randout.data.tables import read_table
from randout.experiments.run.options import Options
from randout.experiments.run.saved_model import load_classifier
from randout.experiments.shards.label_shards import ShardRequest, label_shards, prepare
from randout.storage.shard_record import Manifest
from support.forked import command as started_command
from support.label_sets import toy_label_sets, write_label_sets
from support.shards import fitted_svm, read_all, write_shards

Label = Callable[..., Manifest]


@pytest.fixture(scope="module")
def svm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted_svm(tmp_path_factory.mktemp("svm") / "svm")


@pytest.fixture
def label(svm: Path, tmp_path: Path) -> Label:
    """Label the shards of tmp_path/texts; more: fields of `ShardRequest`."""

    def call(
        kind: Any = "soft-labels", out: str | Path = tmp_path / "out", processes: Options | None = None, **more: Any
    ) -> Manifest:
        given = {"model": str(svm), "inputs": [str(tmp_path / "texts")]} | more
        return label_shards(ShardRequest(kind=kind, out=str(out), **given), processes or Options(show=Show(quiet=True)))

    return call


def test_each_row_has_the_logits_of_its_text_in_order(label: Label, svm: Path, tmp_path: Path) -> None:
    texts = write_shards(tmp_path / "texts")
    manifest = label()
    rows = read_all(tmp_path / "out")
    model = load_classifier(str(svm))
    assert [row["row_id"] for row in rows[:2]] == ["part-000.parquet#1", "part-000.parquet#2"]
    assert [row["row_id"] for row in rows[25:27]] == ["part-001.parquet#1", "part-001.parquet#2"]
    assert (manifest.rows, manifest.labelled, manifest.empty) == (75, 69, 6)
    for text, row in zip(texts, rows, strict=True):
        found = [row[f"logit_{name}"] for name in model.id2label.values()]
        if not (text or "").strip():
            assert (found, row["skipped"]) == ([None] * 3, "empty")
        else:
            np.testing.assert_array_equal(np.float32(found), model.logits([text], lambda done: None)[0])
            assert row["skipped"] is None


def test_the_labels_can_be_imported_by_id(label: Label, svm: Path, tmp_path: Path) -> None:
    texts = write_shards(tmp_path / "texts", (12,))
    label(id_column="key")
    model = load_classifier(str(svm))
    table = read_table(tmp_path / "out" / "part-000.parquet")
    soft = read_soft_labels(table, list(model.id2label.values()), "key")
    assert soft.keys == [f"0-{row}" for row in range(12)]
    assert np.isnan(soft.logits).any(1).tolist() == [not (text or "").strip() for text in texts]


def test_predictions_have_label_score_and_probabilities(label: Label, svm: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts", (12,))
    label("predictions", probabilities=True)
    names = list(load_classifier(str(svm)).id2label.values())
    for row in read_all(tmp_path / "out"):
        shares = {name: row[f"probability_{name}"] for name in names}
        if row["skipped"]:
            assert {row["label"], row["score"], *shares.values()} == {None}
        else:
            assert row["label"] == max(shares, key=lambda name: shares[name])
            assert row["score"] == shares[row["label"]]
            assert sum(shares.values()) == pytest.approx(1)


def test_label_sets_are_those_of_predict(tmp_path: Path, run: Run) -> None:
    """Of a multi-label model: the same sets, scores and probabilities, bit for bit; a row without a label is another one."""
    table = write_label_sets(tmp_path / "data.csv")
    settings = {"data.label_separator": ";", "classifier.min_df": 1}
    randout.train(table, student="svm", settings=settings, out=tmp_path / "run", runs=tmp_path)
    texts: list[str | None] = [*toy_label_sets(40, seed=6)[0]]
    texts[3], texts[5] = " ", None
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts" / "a.parquet", row_group_size=9)
    code, _, error = run("predict", tmp_path / "run", tmp_path / "texts", "-o", tmp_path / "out", "--probabilities")
    assert code == 0, error
    kept = [text for text in texts if text and text.strip()]
    code, out, error = run("predict", tmp_path / "run", "--json", "--probabilities", *kept)
    assert code == 0, error
    rows = pq.read_table(tmp_path / "out" / "a.parquet")
    assert rows.schema.field("label").type == pa.list_(pa.string())
    expected = [json.loads(line) for line in out.splitlines()]
    found = [row for row in rows.to_pylist() if row["skipped"] is None]
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    assert {len(row["label"]) for row in found} > {0, 1, 2}
    assert [row["score"] for row in found] == [row["score"] for row in expected]
    for name in ("health", "money", "sport"):
        assert [row[f"probability_{name}"] for row in found] == [row["probabilities"][name] for row in expected]
    empty = [row for row in rows.to_pylist() if row["skipped"]]
    assert [(row["row_id"], row["label"], row["score"], row["skipped"]) for row in empty] == [
        ("a.parquet#4", None, None, "empty"),
        ("a.parquet#6", None, None, "empty"),
    ]
    thresholds = json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]["thresholds"]
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert settings["thresholds"] == list(thresholds.values())


def test_a_complete_shard_is_not_labelled_again_and_a_lost_one_is(label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    first = label()
    files = sorted((tmp_path / "out").glob("*.parquet"))
    times = [file.stat().st_mtime_ns for file in files]
    content = files[1].read_bytes()
    files[1].unlink()
    again = label()
    assert again == first
    assert files[1].read_bytes() == content, "the same bytes"
    assert [file.stat().st_mtime_ns for file in (files[0], files[2])] == [times[0], times[2]]


def test_a_changed_shard_is_labelled_again(label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    first = label()
    write_shards(tmp_path / "texts", seed=5)
    second = label()
    assert {one.identity for one in first.shards}.isdisjoint(one.identity for one in second.shards)


def test_finished_parts_are_kept(label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the third of four parts leaves two, which are not computed again."""
    from randout.data import shards
    from randout.experiments.shards import labelling

    monkeypatch.setattr(shards, "BLOCK", 10)
    write_shards(tmp_path / "texts", (40,))
    expected = label(out=tmp_path / "whole")
    real, done = labelling.labelled_table, []

    def failing(settings: Any, shard: Any, block: Any, first: int, *more: Any) -> Any:
        done.append(first)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(settings, shard, block, first, *more)

    monkeypatch.setattr(labelling, "labelled_table", failing)
    with pytest.raises(KeyboardInterrupt):
        label()
    assert not list((tmp_path / "out").glob("*.parquet"))
    assert label().shards == expected.shards
    assert done[:5] == [0, 10, 20, 20, 30]


def test_shards_of_other_settings_are_never_mixed(label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    label()
    other = fitted_svm(tmp_path / "other")
    (other / "classifier.json").write_text(
        (other / "classifier.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match="labelled with other settings: model"):
        label(model=str(other))
    with pytest.raises(UserError, match=r"other settings: kind \(there soft-labels, now predictions\)"):
        label("predictions")
    (tmp_path / "out" / "part-000.parquet").unlink()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out" / "part-000.parquet")
    with pytest.raises(UserError, match="not one of labelled shards and is not overwritten"):
        label()


@pytest.mark.parametrize("out", ["texts", "texts/labels"])
def test_a_folder_is_not_labelled_into_itself(out: str, label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    with pytest.raises(UserError, match="this is in the folder of the texts"):
        label(out=tmp_path / out)
    assert not (tmp_path / "texts" / "labels").exists()


def test_a_shard_without_rows_gives_one_without_rows(label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts", (25,))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "texts" / "part-999.parquet")
    manifest = label(deduplicate=True)
    assert [shard.rows for shard in manifest.shards] == [25, 0]
    there = pq.read_table(tmp_path / "out" / "part-999.parquet")
    assert there.num_rows == 0
    assert there.schema.equals(pq.read_schema(tmp_path / "out" / "part-000.parquet"))


def test_a_url_gives_the_same_files_as_a_folder(label: Label, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / "texts"), "/shards-texts", recursive=True)
    local = label()
    remote = label(inputs=["memory://shards-texts"], out="memory://shards-out", work=tmp_path / "work")
    assert [one.sha256 for one in remote.shards] != [one.sha256 for one in local.shards], "another time of modification"
    for name in ("part-000.parquet", "part-001.parquet", "part-002.parquet"):
        with system.open(f"/shards-out/{name}") as stream:
            assert pq.read_table(stream).equals(pq.read_table(tmp_path / "out" / name))
    assert json.loads(system.cat("/shards-out/manifest.json"))["rows"] == 75
    assert label(inputs=["memory://shards-texts"], out="memory://shards-out", work=tmp_path / "work2") == remote


def test_s3_server(label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine, if the packages for it are installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        write_shards(tmp_path / "texts")
        system = fsspec.filesystem("s3")
        system.mkdir("bucket")
        system.put(str(tmp_path / "texts"), "bucket/texts", recursive=True)
        local = label()
        remote = label(inputs=["s3://bucket/texts/*.parquet"], out="s3://bucket/out", work=tmp_path / "work")
        assert remote.labelled == local.labelled
        with system.open("bucket/out/part-001.parquet") as stream:
            assert pq.read_table(stream).equals(pq.read_table(tmp_path / "out" / "part-001.parquet"))
        assert label(inputs=["s3://bucket/texts"], out="s3://bucket/out", work=tmp_path / "work") == remote
    finally:
        server.stop()


def test_a_copy_gets_no_label_and_neither_does_one_of_a_held_out_row(label: Label, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    pq.write_table(pa.table({"text": ["goal team", "fever cough", "GOAL  team", ""]}), texts / "a.parquet")
    pq.write_table(pa.table({"text": ["fever  Cough", "match goal", "pain doctor", ""]}), texts / "b.parquet")
    (tmp_path / "test.csv").write_text("text,label\nPain doctor,x\n", encoding="utf-8")
    manifest = label(deduplicate=True, held_out=str(tmp_path / "test.csv"))
    assert [row["skipped"] for row in read_all(tmp_path / "out")] == [
        None, None, "copy", "empty", "copy", None, "held-out", "empty",
    ]  # fmt: skip
    assert (manifest.labelled, manifest.copies, manifest.held_out, manifest.empty) == (3, 2, 1, 2)


@pytest.mark.slow
def test_a_killed_command_is_completed_exactly_once(svm: Path, tmp_path: Path, run: Run) -> None:
    write_shards(tmp_path / "texts", (3000,) * 4, 1000)
    words = ["soft-labels", svm, "texts", "--id-column", "key", "-o"]
    assert run(*words, "whole")[0] == 0
    draw = random.Random(0)
    for _ in range(3):
        process = started_command([*words, "out"], tmp_path)
        time.sleep(draw.uniform(0.3, 1.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert run(*words, "out")[0] == 0
    for name in ("manifest.json", *(f"part-{number:03}.parquet" for number in range(4))):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_several_processes_share_the_shards(svm: Path, tmp_path: Path, run: Run) -> None:
    write_shards(tmp_path / "texts", (30,) * 5)
    code, out, errors = run("predict", svm, "texts", "-o", "out", "--jobs", "2", "--json")
    assert code == 0, errors
    assert json.loads(out) == {
        "written": "out", "kind": "predictions", "shards": 5, "rows": 150, "labelled": 140, "empty": 10, "copies": 0,
        "held_out": 0,
    }  # fmt: skip
    assert run("predict", svm, "texts/*.parquet", "-o", "one")[0] == 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "one")


WITHOUT_PYTORCH = """
import sys
from pathlib import Path
from randout.experiments import worker
from randout.experiments.run.options import Options
from randout.experiments.shared_job import join
join(Path(sys.argv[1]), Options(worker=0))
print("torch" in sys.modules)
"""


def test_a_worker_joins_by_the_folder_and_labels_words_without_pytorch(label: Label, svm: Path, tmp_path: Path) -> None:
    """An import of PyTorch would be most of what the start of a worker costs."""
    write_shards(tmp_path / "texts")
    request = ShardRequest("soft-labels", str(svm), [str(tmp_path / "texts")], str(tmp_path / "out"))
    task, model = prepare(request, Options(jobs=2, show=Show(quiet=True)))
    assert model is None
    code = [sys.executable, "-c", WITHOUT_PYTORCH, str(task.path)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
    found = read_all(tmp_path / "out")
    label(out=tmp_path / "alone")
    assert found == read_all(tmp_path / "alone")


def test_the_function_returns_the_manifest(svm: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts")
    found = randout.label_shards(svm, tmp_path / "texts", tmp_path / "out", kind="predictions", id_column="key")
    assert found == json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert read_all(tmp_path / "out")[0]["key"] == "0-0"
    with pytest.raises(UserError, match="expected 'soft-labels' or 'predictions'"):
        randout.label_shards(svm, tmp_path / "texts", tmp_path / "out", kind="labels")  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_interrupted_command_with_jobs_is_resumed(svm: Path, tmp_path: Path, run: Run) -> None:
    write_shards(tmp_path / "texts", (5000,) * 20, 1000)
    words = ["soft-labels", svm, "texts", "--job-threads", "1", "-o"]
    assert run(*words, "whole")[0] == 0
    process = started_command([*words, "out", "--jobs", "2"], tmp_path)
    until = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.parquet")):
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert "Interrupted; finished parts are kept" in (tmp_path / "errors.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out" / ".work").rglob(".lease")), "no shard is held"
    assert run(*words, "out")[0] == 0
    for path in [*(tmp_path / "whole").glob("*.parquet"), tmp_path / "whole" / "manifest.json"]:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_process_that_lost_its_lock_puts_nothing_in_place(
    label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is taken over while the complete shard is written; then nobody holds it, and the shard is labelled again."""
    write_shards(tmp_path / "texts", (12,))
    real, seen = pq.read_schema, []

    def stolen(file: Any) -> Any:
        if not seen:
            (lease,) = (tmp_path / "out" / ".work" / "parts").rglob(".lease")
            lease.unlink()
        seen.append(sorted(path.name for path in (tmp_path / "out").glob("*.parquet")))
        return real(file)

    monkeypatch.setattr(pq, "read_schema", stolen)
    manifest = label()
    assert seen == [[], []], "tried twice, and nothing was put in place before"
    assert (manifest.rows, len(read_all(tmp_path / "out"))) == (12, 12)


def test_an_empty_shard_has_the_types_of_its_ids(label: Label, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    whole = pa.table({"text": ["warm", "cold"], "id": pa.array([7, 8], pa.int32())})
    pq.write_table(whole, folder / "a.parquet")
    pq.write_table(whole.slice(0, 0), folder / "b.parquet")
    label(id_column="id")
    first, second = (pq.read_schema(tmp_path / "out" / name) for name in ("a.parquet", "b.parquet"))
    assert first.remove_metadata() == second.remove_metadata()
    assert first.field("id").type == pa.int32()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shards_on_a_cluster(label: Label, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write_shards(tmp_path / "texts")
    options = Options(cluster="local", threads=1, show=Show(quiet=True))
    assert label(out=tmp_path / "cluster", processes=options, deduplicate=True) == label(deduplicate=True)
    assert read_all(tmp_path / "cluster") == read_all(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["soft-labels", "m", "-o", "out"], "needs their texts"),
        (["soft-labels", "m", "texts"], "name a folder with -o"),
        (["soft-labels", "m"], "needs a teacher (--teacher), or -o"),
        (["predict", "m", "a text", "--deduplicate"], "--deduplicate: only for Parquet shards"),
        (["soft-labels", "svm", "nowhere", "-o", "out"], "nowhere: no Parquet files here"),
        (["soft-labels", "svm", "texts", "-o", "out", "--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["soft-labels", "svm", "texts", "-o", "out", "--text-column", "body"], "no column 'body'"),
        (["soft-labels", "svm", "texts", "-o", "out", "--held-out", "none.csv"], "none.csv"),
    ],
)
def test_mistakes_are_reported(words: list[str], message: str, svm: Path, tmp_path: Path, run: Run) -> None:
    write_shards(tmp_path / "texts", (12,))
    code, _, errors = run(*[str(svm) if word == "svm" else word for word in words])
    assert (code, message in errors) == (2, True), errors
