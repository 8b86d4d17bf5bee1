"""Models of a hub on this machine: which commit is chosen, what is downloaded, and what happens where that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub as library
import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from randout.core.errors import Failure, UserError
from randout.models import hub_access, loading, sources
from support.hub_models import ENCODERS, IN_PULL_REQUEST, publish_encoder
from support.hub_server import Fault, HubServer

LABELS = {0: "a", 1: "b"}
LIMITED = {"Retry-After": "7"}
PRIVATE = "no such model on the hub, or it is private"


@pytest.fixture
def model(model_hub: HubServer, tiny_model: Callable[[str], Path]) -> str:
    """The commit of the model ada/tiny, a BERT."""
    return model_hub.commit("ada/tiny", tiny_model("bert"))


class TestPapersEncoders:
    @pytest.mark.parametrize("name", ENCODERS)
    def test_each_is_found_by_its_alias_and_pinned(
        self, name: str, model_hub: HubServer, tiny_model: Callable[[str], Path], tmp_path: Path
    ) -> None:
        commit = publish_encoder(model_hub, name, tmp_path / "made", tiny_model)
        alias = next(alias for alias, full in sources.ALIASES.items() if full == name)
        found = loading.find(alias)
        assert (found.name, found.revision) == (name, commit)
        assert not [path.name for path in found.folder.iterdir() if path.suffix in (".bin", ".msgpack", ".md")]
        assert (name in IN_PULL_REQUEST) == (model_hub.repositories[name].refs["main"] != commit)
        encoder = loading.load(found, id2label=LABELS)
        words = encoder.tokenizer("fever and cough")["input_ids"]
        assert (words[0], words[-1]) == (encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id)
        assert encoder.tokenizer.unk_token_id not in words
        del model_hub.asked[:]
        assert loading.find(alias).folder == loading.find(name, commit).folder == found.folder
        assert not model_hub.asked, "a pinned model needs no request"

    def test_no_safetensors(self, model_hub: HubServer, tiny_model: Callable[[str], Path]) -> None:
        files = {path.name: path.read_bytes() for path in tiny_model("bert").iterdir() if path.suffix == ".json"}
        model_hub.commit("ada/old", {**files, "pytorch_model.bin": b"x"})
        model_hub.commit("ada/old", {"README.md": b"x"}, "refs/pr/1")
        with pytest.raises(UserError, match="no safetensors of this model, neither on its main branch nor in a pull"):
            loading.find("ada/old")


def test_the_hubs_library_shows_no_progress_bars_without_a_terminal() -> None:
    before = are_progress_bars_disabled()
    enable_progress_bars()
    try:
        assert hub_access.patiently(are_progress_bars_disabled)
        assert not are_progress_bars_disabled()
        with hub_access.progress_bars(shown=True):
            assert not are_progress_bars_disabled()
    finally:
        if before:
            disable_progress_bars()


class TestRevisions:
    def test_by_name(self, model: str, model_hub: HubServer, tiny_model: Callable[[str], Path]) -> None:
        proposed = model_hub.commit("ada/tiny", tiny_model("electra"), "refs/pr/1")
        branch = model_hub.commit("ada/tiny", tiny_model("albert"), "small")
        for revision, commit, kind in (
            ("main", model, "bert"),
            ("refs/pr/1", proposed, "electra"),
            ("small", branch, "albert"),
            (proposed, proposed, "electra"),
        ):
            found = loading.find(f"ada/tiny@{revision}")
            assert (found.name, found.revision) == ("ada/tiny", commit)
            assert found.config["model_type"] == kind
            assert loading.find("ada/tiny", revision).folder == found.folder

    def test_a_branch_is_asked_again_and_a_model_without_revision_is_not(
        self, model: str, model_hub: HubServer, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert loading.find("ada/tiny").revision == loading.find("ada/tiny@main").revision == model
        later = model_hub.commit("ada/tiny", {"config.json": (tiny_model("bert") / "config.json").read_bytes() + b"\n"})
        assert loading.find("ada/tiny@main").revision == later
        assert loading.find("ada/tiny", model).revision == model
        model_hub.faults.append(Fault("", times=1000, status=503))
        assert loading.find("ada/tiny@main").revision == later, "from the cache while the hub fails"
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert loading.find("ada/tiny@main").revision == later
        with pytest.raises(UserError, match=r"^ada/tiny@other: .*HF_HUB_OFFLINE is set"):
            loading.find("ada/tiny@other")

    @pytest.mark.parametrize(
        ("name", "revision", "message"),
        [
            ("ada/tiny@nowhere", "", "not its revision 'nowhere'"),
            ("ada/tiny@", "", "expected a branch, commit or pull request after @"),
            ("ada/tiny@main", "other", "the setting revision names another one, 'other'"),
            ("a/b/c@main", "", "no such folder"),
        ],
    )
    def test_refused(self, model: str, name: str, revision: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            loading.find(name, revision)


class TestDownload:
    def test_a_connection_that_breaks_off_is_resumed_within_the_file(
        self, model: str, model_hub: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        weights = model_hub.files("ada/tiny")["model.safetensors"]
        model_hub.faults.append(Fault("GET /storage/", cut=45_000))
        found = loading.find("ada/tiny")
        assert (found.folder / "model.safetensors").read_bytes() == weights
        ranges = [sent["range"] for sent in model_hub.headers if "range" in sent]
        assert ranges == ["bytes=40000-"]

    def test_a_download_that_failed_keeps_the_files_that_were_complete(self, model: str, model_hub: HubServer) -> None:
        model_hub.faults.append(Fault("GET /storage/", times=6, cut=0))
        with pytest.raises(
            Failure, match=r"^ada/tiny: not found locally, and the model hub cannot be reached"
        ) as failed:
            loading.find("ada/tiny")
        assert failed.value.exit_code == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HUB_OFFLINE", "1")
            with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
                loading.find("ada/tiny")  # what is there is not taken for a model
        del model_hub.asked[:]
        assert loading.find("ada/tiny").revision == model
        again = [asked for asked in model_hub.asked if asked.startswith("GET") and "/api/" not in asked]
        assert len(again) == 1
        assert again[0].startswith("GET /storage/")

    def test_a_missing_part_of_weights_in_several_files_is_downloaded(
        self, model_hub: HubServer, tiny_model: Callable[[str], Path]
    ) -> None:
        files = {path.name: path.read_bytes() for path in tiny_model("bert").iterdir()}
        weights = files.pop("model.safetensors")
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        parts = {"model-1.safetensors": weights, "model-2.safetensors": weights}
        model_hub.commit("ada/large", {**files, **parts, "model.safetensors.index.json": json.dumps(index).encode()})
        folder = loading.find("ada/large").folder
        (folder / "model-2.safetensors").unlink()
        assert (loading.find("ada/large").folder / "model-2.safetensors").read_bytes() == weights

    def test_the_token_stays_on_the_hub(self, model: str, model_hub: HubServer) -> None:
        loading.find("ada/tiny")
        sent = {
            one: "authorization" in headers for one, headers in zip(model_hub.asked, model_hub.headers, strict=True)
        }
        assert sent["GET /api/models/ada/tiny"]
        assert not any(with_token for asked, with_token in sent.items() if "/storage/" in asked)

    def test_rate_limits_are_waited_for(
        self, model: str, model_hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr("time.sleep", waits.append)
        window = {"RateLimit": '"api";r=0;t=41'}
        model_hub.faults += [Fault("GET /api/models/ada/tiny$", times=2, status=429, headers=LIMITED)]
        model_hub.faults += [
            Fault("/tree/", status=429, headers=window),
            Fault("/storage/", status=429, headers=LIMITED),
        ]
        assert loading.find("ada/tiny").revision == model
        assert waits[:2] == [7, 7]
        assert any(41 <= wait <= 42 for wait in waits)
        assert not model_hub.faults
        assert "the model hub limits the rate of requests; trying again in 7 s" in caplog.text

    def test_an_endless_rate_limit(self, model: str, model_hub: HubServer) -> None:
        for headers in (LIMITED, {"Retry-After": "86400"}, {}):
            model_hub.faults[:] = [Fault("", times=1000, status=429, headers=headers)]
            with pytest.raises(Failure, match=r"limits the rate of requests\. Run the command again") as found:
                loading.find("ada/tiny")
            assert found.value.exit_code == 1


class TestAccess:
    def test_private(
        self, model_hub: HubServer, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = model_hub.commit("ada/secret", tiny_model("bert"), private=True)
        model_hub.add_user("bob", "hf_bob")
        monkeypatch.setenv("HF_TOKEN", "hf_bob")
        with pytest.raises(UserError, match=f"{PRIVATE}; check that the token from HF_TOKEN may read it"):
            loading.find("ada/secret")
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(
            UserError, match=f"{PRIVATE}; check that there is a token for it: `hf auth login`, HF_TOKEN"
        ):
            loading.find("ada/secret")
        monkeypatch.setenv("HF_TOKEN", "hf_ada")
        assert loading.find("ada/secret").revision == commit

    def test_gated(
        self, model_hub: HubServer, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = model_hub.commit("bob/gated", tiny_model("bert"), gated=True, readers=set())
        with pytest.raises(
            UserError, match="accept its terms on its page on the hub, with the account of the token from"
        ):
            loading.find("bob/gated")
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(UserError, match=r"accept its terms on its page on the hub\. Log in with"):
            loading.find("bob/gated")
        monkeypatch.setenv("HF_TOKEN", "hf_ada")
        model_hub.repositories["bob/gated"].readers.add("ada")
        assert loading.find("bob/gated").revision == commit

    @pytest.mark.parametrize("name", ["ada/absent", "absent"])
    def test_missing(self, name: str, model_hub: HubServer) -> None:
        with pytest.raises(UserError, match=rf"^{name}: no such folder, and {PRIVATE}") as found:
            loading.find(name)
        assert found.value.exit_code == 2
        with pytest.raises(UserError, match=PRIVATE):
            sources.check_known(name)

    def test_wrong_token(self, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_old")
        with pytest.raises(UserError, match=r"refuses the token from HF_TOKEN; it is wrong or expired\. Log in with"):
            loading.find("ada/tiny")

    def test_no_network(self, model: str, model_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = loading.find("ada/tiny@main").folder
        monkeypatch.setattr(library.constants, "ENDPOINT", "http://127.0.0.1:9")
        assert loading.find("ada/tiny").folder == loading.find("ada/tiny@main").folder == folder
        with pytest.raises(
            Failure, match=r"^ada/other: not found locally, and the model hub cannot be reached \(ConnectError\)"
        ) as found:
            loading.find("ada/other")
        assert found.value.exit_code == 1
        assert "cannot be reached" in sources.check_known("ada/other")
        assert sources.check_known("ada/tiny@main") == ""


def test_known_names_are_not_downloaded(model: str, model_hub: HubServer) -> None:
    assert sources.check_known("ada/tiny") == sources.check_known("ada/tiny@main") == ""
    assert not any("/resolve/" in asked for asked in model_hub.asked)
    with pytest.raises(UserError, match="not its revision 'nowhere'"):
        sources.check_known("ada/tiny@nowhere")
