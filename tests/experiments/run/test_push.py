"""`randout push` to a hub on this machine: what is uploaded, what stays, and that the same comes back."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub as library
import numpy as np
import pytest
from huggingface_hub import ModelCard

import randout
from conftest import Run
from randout.models import sources
from randout.testing.models import toy_texts
from support.hub_models import ENCODERS, publish_encoder
from support.hub_server import Fault, HubServer
from support.label_sets import toy_label_sets, write_label_sets
from support.tables import write_rows

SMALL = ["--set", "epochs=1", "--set", "precision=float32", "--teacher", "none", "--preset", "plain"]
TEXTS = ["fever and cough in the clinic", "the team and its coach", "money " * 80]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_csv: Any, tiny_model: Any) -> Callable[[str], Path]:
    """student -> the folder of runs with a finished run "m" of it; with the table data.csv next to it."""
    folders: dict[str, Path] = {}

    def make(student: str) -> Path:
        if student not in folders:
            folder = tmp_path_factory.mktemp("push")
            shutil.copy(toy_csv(90, 1), folder / "data.csv")
            settings = {"train.epochs": 1, "train.precision": "float32", "student.truncation": "head+tail"}
            name = student if student == "mnb-count" else tiny_model("bert")
            options: dict[str, Any] = {"settings": {**settings, "student.pooling": student}, "preset": "plain"}
            randout.train(
                folder / "data.csv",
                student=name,
                teacher="auto" if student == "mnb-count" else "none",
                out=folder / "runs" / "m",
                runs=folder / "runs",
                **({} if student == "mnb-count" else options),
            )
            folders[student] = folder
        return folders[student]

    return make


@pytest.fixture
def pushed(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """student -> a run of it in tmp_path/own/runs/m, which a test may change."""

    def copy(student: str = "first") -> Path:
        return Path(shutil.copytree(made(student), tmp_path / "own")) / "runs" / "m"

    return copy


def rows_of(run: Path) -> list[str]:
    """The texts of the table that a run of `made` was trained on."""
    with (run.parents[1] / "data.csv").open(newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


class TestEveryKind:
    @pytest.mark.parametrize("student", ["first", "mean", "mnb-count"])
    def test_a_model_comes_back_by_its_name(
        self, student: str, pushed: Any, model_hub: HubServer, command: Run
    ) -> None:
        run = pushed(student)
        code, out, error = command("push", run, "ada/film", "--license", "mit", "--json")
        assert code == 0, error
        done = json.loads(out)
        files = model_hub.files("ada/film")
        assert set(files) == {*done["files"], ".gitattributes"}
        assert done["commit"] == model_hub.repositories["ada/film"].refs["main"]
        assert done["url"] == f"{model_hub.url}/ada/film/tree/main"
        assert not [name for name in files if re.search(r"seen|split|predictions|parquet|csv|run\.", name)]
        card = ModelCard(files["README.md"].decode())
        assert (card.data.license, "randout" in card.data.tags) == ("mit", True)
        assert "| class | train | validation | test |" in card.text
        assert 'load("ada/film")' in card.text or 'pipeline("text-classification", "ada/film"' in card.text
        rows = rows_of(run)
        content = b"\n".join(files.values())
        assert not [text for text in rows if text.encode() in content]
        there, here = randout.load(f"ada/film@{done['commit']}"), randout.load(run)
        assert np.array_equal(there.predict_proba(TEXTS), here.predict_proba(TEXTS))
        code, out, error = command("predict", "ada/film", TEXTS[0])
        assert (code, out.split("\t")[0]) == (0, here.predict(TEXTS[:1])[0]), error

    @pytest.mark.parametrize("student", [pytest.param("mean", marks=pytest.mark.slow), "mnb-count"])
    def test_with_the_forms_of_an_export(self, student: str, pushed: Any, model_hub: HubServer, tmp_path: Path) -> None:
        forms = {"mnb-count": ["arrays"], "mean": ["float32"]}[student]
        if student == "mean":
            pytest.importorskip("onnxscript")
        run = pushed(student)
        done = randout.push(run, "ada/film", export=forms)
        assert {"export.json", "predict.py"} < done.files.keys()
        assert "Forms for deployment" in model_hub.files("ada/film")["README.md"].decode()
        folder = tmp_path / "whole"
        for name, data in model_hub.files("ada/film").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        model, form = randout.load(run).predict_proba(TEXTS), randout.load(folder).predict_proba(TEXTS)
        assert np.array_equal(model, form), "a folder with a model and an export is read as the model"
        script = [sys.executable, str(folder / "predict.py"), "--json", TEXTS[0]]
        printed = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        assert randout.load(run).predict(TEXTS[:1])[0] in json.dumps(printed)
        again = randout.push(run, "ada/film", license="mit")
        assert {"export.json", "predict.py"} < set(again.removed), "no form of an earlier model stays"
        assert set(model_hub.files("ada/film")) == {*again.files, ".gitattributes"}
        assert any("licence" in warning for warning in done.warnings)
        assert not any("licence" in warning for warning in again.warnings)


class TestByNameOnTheHub:
    """What a local folder can do, a name on the hub can."""

    def test_a_form_of_the_export(self, pushed: Any, model_hub: HubServer, command: Run) -> None:
        run = pushed("mnb-count")
        randout.push(run, "ada/plain")
        randout.push(run, "ada/film", export=["arrays"])
        code, out, error = command("predict", "ada/film", "--form", "arrays", "--json", *TEXTS)
        assert code == 0, error
        assert [json.loads(line)["label"] for line in out.splitlines()] == randout.load(run).predict(TEXTS)
        asked = len(model_hub.asked)
        assert command("predict", "ada/film", "--form", "arrays", "--json", *TEXTS)[:2] == (0, out)
        assert len(model_hub.asked) == asked, "all of it is in the cache"
        for name, form, message in (
            ("ada/film", "int8", "--form int8: the export of ada/film has arrays"),
            ("ada/plain", "int8", "no export on the hub. Add one with: randout push RUN ada/plain --export int8"),
        ):
            code, out, error = command("predict", name, "--form", form, *TEXTS)
            assert (code, out, message in error) == (2, "", True), error

    def test_a_form_that_is_not_cached_offline(
        self, pushed: Any, model_hub: HubServer, command: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        randout.push(pushed("mnb-count"), "ada/film", export=["arrays"])
        assert command("predict", "ada/film", *TEXTS)[0] == 0
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
        assert command("predict", "ada/film", *TEXTS)[0] == 0
        code, out, error = command("predict", "ada/film", "--form", "arrays", *TEXTS)
        assert (code, out) == (2, "")
        assert "HF_HUB_OFFLINE is set" in error

    def test_abstention(self, pushed: Any, model_hub: HubServer, command: Run) -> None:
        run = pushed("mnb-count")
        randout.push(run, "ada/film")
        code, out, error = command("predict", "ada/film", "--abstain", "coverage=0.5", "--json", *TEXTS)
        assert code == 0, error
        assert out == command("predict", run, "--abstain", "coverage=0.5", "--json", *TEXTS)[1]

    def test_columns_of_an_input(self, model_hub: HubServer, tmp_path: Path, command: Run) -> None:
        table = tmp_path / "data.csv"
        rows = [f"{'good' if at % 2 else 'bad'} film {at},{'x' if at % 2 else 'y'},{at % 2}" for at in range(80)]
        table.write_text("\n".join(["text,section,label", *rows]) + "\n")
        settings = {"data.prefix_columns": ["section"], "classifier.min_df": 1}
        randout.train(table, student="mnb-count", settings=settings, out=tmp_path / "run", runs=tmp_path)
        randout.push(tmp_path / "run", "ada/film")
        made = []
        for model, out in ((tmp_path / "run", "own.csv"), ("ada/film", "by-name.csv")):
            code, _, error = command("predict", model, "--file", table, "-o", tmp_path / out)
            assert code == 0, error
            made.append((tmp_path / out).read_text())
        assert made[0] == made[1]
        code, _, error = command("predict", "ada/film", "a text")
        assert (code, "this model reads single texts with the field 'section'" in error) == (2, True)

    @pytest.mark.slow
    def test_label_sets_with_an_export(
        self, model_hub: HubServer, tiny_model: Any, tmp_path: Path, command: Run
    ) -> None:
        pytest.importorskip("onnxscript")
        settings = {"epochs": 2, "precision": "float32", "refit": False, "data.label_separator": ";"}
        table, texts = write_label_sets(tmp_path / "data.csv"), toy_label_sets(10, seed=2)[0]
        options: dict[str, Any] = {"teacher": "none", "settings": settings, "out": tmp_path / "run", "runs": tmp_path}
        randout.train(table, student=tiny_model("bert"), **options)
        randout.push(tmp_path / "run", "ada/topics", export=["float32", "int8"])
        card = model_hub.files("ada/topics")["README.md"].decode()
        assert "| form | same label set | same labels |" in card
        randout.export(tmp_path / "run", tmp_path / "export", forms=["float32", "int8"])
        for form in ("float32", "int8"):
            asked = ["--form", form, "--json", "--probabilities", *texts]
            code, out, error = command("predict", "ada/topics", *asked)
            assert code == 0, error
            assert out == command("predict", tmp_path / "export", *asked)[1]
        assert randout.load("ada/topics").predict(texts) == randout.load(tmp_path / "run").predict(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_each_encoder_of_the_paper_there_and_back(
    name: str, model_hub: HubServer, tiny_model: Any, run: Run, toy_csv: Any, tmp_path: Path
) -> None:
    commit = publish_encoder(model_hub, name, tmp_path / "made", tiny_model)
    model_hub.repositories[name].commits[model_hub.repositories[name].refs["main"]]["README.md"] = (
        b"---\nlicense: apache-2.0\n---\n# encoder"
    )
    assert run("train", toy_csv(90, 1), "--student", f"{name}@{commit}", "-o", "runs/m", *SMALL)[0] == 0
    assert f'revision = "{commit}"' in Path("runs/m/run.toml").read_text()
    code, out, error = run("push", "runs/m", "ada/student", "--json")
    assert code == 0, error
    card = ModelCard(model_hub.files("ada/student")["README.md"].decode())
    assert (card.data.base_model, card.data.license) == (name, "apache-2.0")
    at = f"ada/student@{json.loads(out)['commit']}"
    assert np.array_equal(randout.load(at).predict_proba(TEXTS), randout.load("runs/m").predict_proba(TEXTS))
    taught = ["train", toy_csv(90, 2), "--student", tiny_model("bert"), "-o", "runs/t", "--set", "epochs=1"]
    assert run(*taught, "--teacher", at, "--preset", "kd", "--set", "precision=float32")[0] == 0
    pinned = tomllib.loads(Path("runs/t/run.toml").read_text())["teacher"]
    assert f"{pinned['model']}@{pinned['revision']}" == at


class TestWhere:
    def test_private(self, pushed: Any, model_hub: HubServer) -> None:
        run = pushed("mnb-count")
        done = randout.push(run, "ada/secret", private=True)
        assert done.private
        assert model_hub.repositories["ada/secret"].private
        model_hub.commit("ada/open", {"README.md": b"# empty"})
        with pytest.raises(randout.UserError, match="exists and is public, and --private applies to a new repository"):
            randout.push(run, "ada/open", private=True)
        assert set(model_hub.files("ada/open")) == {"README.md"}

    def test_a_branch_and_then_a_pull_request(self, pushed: Any, model_hub: HubServer) -> None:
        run = pushed()
        model_hub.commit("ada/film", {"README.md": b"# text", "notes.md": b"mine"})
        done = randout.push(run, "ada/film", revision="small")
        found = model_hub.repositories["ada/film"]
        assert (found.refs["small"], done.url) == (done.commit, f"{model_hub.url}/ada/film/tree/small")
        assert set(model_hub.files("ada/film")) == {"README.md", "notes.md"}
        assert "notes.md" in model_hub.files("ada/film", "small")
        proposed = randout.push(run, "ada/film", create_pr=True)
        assert (proposed.pull_request, proposed.url) == ("refs/pr/1", f"{model_hub.url}/ada/film/discussions/1")
        assert randout.load("ada/film@refs/pr/1").predict(TEXTS) == randout.load(run).predict(TEXTS)
        assert sources.find("ada/film").revision == proposed.commit, "main has no safetensors, the pull request has"

    def test_the_same_again_changes_nothing(self, pushed: Any, model_hub: HubServer) -> None:
        run = pushed("mnb-count")
        first = randout.push(run, "ada/film")
        assert randout.push(run, "ada/film").commit == first.commit
        model_hub.repositories["ada/film"].refs["main"] = first.commit

    def test_a_model_of_someone_else_is_proposed_to_and_not_overwritten(
        self, pushed: Any, model_hub: HubServer
    ) -> None:
        run = pushed("mnb-count")
        model_hub.commit("ada/mine", {"pytorch_model.bin": b"weights"})
        with pytest.raises(randout.UserError, match=r"a model that randout did not upload \(pytorch_model.bin\)"):
            randout.push(run, "ada/mine")
        assert set(model_hub.files("ada/mine")) == {"pytorch_model.bin"}
        model_hub.commit("bob/other", {"pytorch_model.bin": b"weights"})
        assert randout.push(run, "bob/other", create_pr=True).pull_request == "refs/pr/1"


class TestRefused:
    """Nothing is uploaded, and the exit code says whose fault it is."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["film"], "expected USER/NAME"),
            (["ada/film", "--revision", "c" * 40], "found a commit; expected a branch"),
            (["ada/film", "--create-pr"], "no such model on the hub, so there is nothing to propose a change to"),
            (["ada/film", "--export", "float16"], "--form float16: expected"),
            (["ada/film", "--license", "my own"], 'the hub refuses the head of the model card: .*"license" must be'),
            (["bob/film"], "the hub refuses this .*rights to create a model under 'bob'"),
            (["bob/there"], "the hub refuses this .*write access"),
            (["bob/secret"], "this model exists on the hub, and the token from HF_TOKEN may not read it|refuses this"),
            (["ada/film", "--revision", "refs/pr/7"], "not its revision|no such model"),
        ],
    )
    def test_a_mistake(
        self, words: list[str], message: str, made: Callable[[str], Path], model_hub: HubServer, command: Run
    ) -> None:
        model_hub.commit("bob/there", {"README.md": b""})
        model_hub.commit("bob/secret", {"README.md": b""}, private=True)
        code, _, error = command("push", made("mnb-count") / "runs" / "m", *words)
        assert code == 2, error
        assert re.search(message, error), error
        assert "Traceback" not in error
        assert not [asked for asked in model_hub.asked if "/commit/" in asked and "ada" in asked]

    @pytest.mark.parametrize(
        ("token", "message"),
        [("hf_old", "refuses the token from HF_TOKEN; it is wrong or expired"), ("", "no token for")],
    )
    def test_a_wrong_token(
        self,
        token: str,
        message: str,
        made: Callable[[str], Path],
        model_hub: HubServer,
        command: Run,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        code, _, error = command("push", made("mnb-count") / "runs" / "m", "ada/film")
        assert (code, message in error) == (2, True), error

    def test_a_token_that_may_only_read(
        self, made: Callable[[str], Path], model_hub: HubServer, command: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model_hub.add_user("ada", "hf_reads", writes=False)
        monkeypatch.setenv("HF_TOKEN", "hf_reads")
        code, _, error = command("push", made("mnb-count") / "runs" / "m", "ada/film")
        assert (code, "may lack the right" in error) == (2, True), error

    def test_no_network(
        self, made: Callable[[str], Path], model_hub: HubServer, command: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = made("mnb-count") / "runs" / "m"
        monkeypatch.setattr(library.constants, "ENDPOINT", "http://127.0.0.1:9")
        code, _, error = command("push", run, "ada/film")
        assert (code, "cannot be reached (ConnectError)" in error) == (1, True), error
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        code, _, error = command("push", run, "ada/film")
        assert (code, "HF_HUB_OFFLINE is set" in error) == (2, True), error

    def test_rows_in_the_card(self, pushed: Any, model_hub: HubServer, command: Run) -> None:
        run = pushed("mnb-count")
        rows = rows_of(run)
        card = run / "model" / "README.md"
        card.write_text(card.read_text() + f"\nMost wrong: {max(rows, key=len)}\n")
        (run / "model" / "rows.csv").write_text("\n".join(rows))
        code, _, error = command("push", run, "ada/film")
        assert (code, "README.md contains the text of a row of the data" in error) == (2, True), error
        assert "ada/film" not in model_hub.repositories
        card.write_text(card.read_text().split("\nMost wrong")[0])
        code, out, _ = command("push", run, "ada/film", "--quiet")
        assert code == 0
        assert "kept     rows.csv: in the model folder, not uploaded" in out
        uploaded = {"README.md", "abstention.json", "classifier.json", "weights.safetensors"}
        assert set(model_hub.files("ada/film")) == {".gitattributes", *uploaded}

    def test_one_text_of_a_pair_in_the_card(self, model_hub: HubServer, command: Run, tmp_path: Path) -> None:
        texts, labels = toy_texts(90, 1)
        pairs = [
            {"text": text, "before": before, "label": label}
            for text, before, label in zip(texts, toy_texts(90, 2)[0], labels, strict=True)
        ]
        data = write_rows(tmp_path / "pairs.csv", pairs)
        run = randout.train(
            data, student="mnb-count", settings={"data.text_pair_column": "before"}, runs=tmp_path / "runs"
        ).folder
        card = run / "model" / "README.md"
        card.write_text(f"{card.read_text()}\nMost wrong: {max((row['before'] for row in pairs), key=len)}\n")
        code, _, error = command("push", run, "ada/film")
        assert (code, "README.md contains the text of a row of the data" in error) == (2, True), error

    def test_an_unfinished_run_and_a_card_with_a_broken_head(self, pushed: Any, model_hub: HubServer) -> None:
        run = pushed("mnb-count")
        (run / "model" / "README.md").write_text("---\n: [\n---\n")
        with pytest.raises(randout.UserError, match=r"README\.md: its head is not valid"):
            randout.push(run, "ada/film")
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | {"finished": None}))
        with pytest.raises(randout.UserError, match="this run is not finished"):
            randout.push(run, "ada/film")
        assert not model_hub.asked


class TestTrouble:
    def test_rate_limits_and_broken_connections_are_overcome(self, pushed: Any, model_hub: HubServer) -> None:
        run = pushed("mnb-count")
        limit = {"Retry-After": "1"}
        for pattern in ("GET /api/models", "/repos/create", "/preupload/", "/objects/batch", "/commit/", "/tree/"):
            model_hub.faults.append(Fault(pattern, status=429, headers=limit))
        model_hub.faults += [Fault("PUT /storage", status=500), Fault("GET /storage", cut=100)]
        done = randout.push(run, "ada/film")
        assert not model_hub.faults
        assert model_hub.repositories["ada/film"].refs["main"] == done.commit

    def test_a_hub_that_fails_leaves_no_half_model(self, pushed: Any, model_hub: HubServer, command: Run) -> None:
        run = pushed("mnb-count")
        model_hub.faults.append(Fault("/commit/", status=503))
        code, _, error = command("push", run, "ada/film")
        assert (code, "cannot be reached (HfHubHTTPError 503)" in error) == (1, True), error
        assert set(model_hub.files("ada/film")) == {".gitattributes"}
        del model_hub.asked[:]
        assert command("push", run, "ada/film")[0] == 0
        assert not [asked for asked in model_hub.asked if asked.startswith("PUT")], "the large file was there"

    @pytest.mark.parametrize("name", ["weights.safetensors", "classifier.json"])
    def test_other_files_than_were_uploaded(
        self, name: str, pushed: Any, model_hub: HubServer, command: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = pushed("mnb-count")
        send = library.HfApi.create_commit

        def damaged(self: Any, *arguments: Any, **options: Any) -> Any:
            done = send(self, *arguments, **options)
            files = model_hub.files("ada/film")
            files[name] = files[name][:-1] + b" "
            return done

        monkeypatch.setattr(library.HfApi, "create_commit", damaged)
        code, _, error = command("push", run, "ada/film")
        assert (code, "1 file on the hub differs from what was uploaded (commit " in error) == (1, True), error
        assert f"first {name}" in error

    def test_two_pushes_at_once(self, pushed: Any, model_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        run = pushed("mnb-count")
        model_hub.commit("ada/film", {"README.md": b"# text"})
        send = library.HfApi.create_commit

        def later(self: Any, *arguments: Any, **options: Any) -> Any:
            model_hub.commit("ada/film", {"README.md": b"# another text"})
            return send(self, *arguments, **options)

        monkeypatch.setattr(library.HfApi, "create_commit", later)
        with pytest.raises(randout.Failure, match="someone else changed this repository at the same time"):
            randout.push(run, "ada/film")


@pytest.mark.slow
def test_settings_of_the_environment(made: Callable[[str], Path], tmp_path: Path) -> None:
    """In a process of its own: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, and xet storage, which this hub has not."""
    import os

    run = made("mnb-count") / "runs" / "m"
    with HubServer() as hub:
        hub.add_user("ada", "hf_ada")
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_ada",
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        base = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own

        def call(*words: Any, **more: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "randout", *map(str, words)]
            return subprocess.run(line, env=base | more, capture_output=True, text=True)

        done = call("push", run, "ada/film")
        assert done.returncode == 0, done.stderr
        assert hub.repositories["ada/film"].refs["main"] in done.stdout
        assert call("predict", "ada/film", TEXTS[0]).returncode == 0
    offline = call("predict", "ada/film", TEXTS[0], HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    missing = call("predict", "ada/other", TEXTS[0], HF_HUB_OFFLINE="1")
    assert (missing.returncode, "HF_HUB_OFFLINE is set" in missing.stderr) == (2, True), missing.stderr
