"""Models found by folder, run, alias and hub; what is refused, and how it is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from randout.core.errors import UserError
from randout.models import loading, sources

pytestmark = pytest.mark.usefixtures("empty_caches")


def in_hub_cache(folder, tmp_path, repository, commit, main=True):
    """Put a copy of a model where the hub's library keeps what it fetched."""
    home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = shutil.copytree(folder, home / "snapshots" / commit)
    if main:
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)
    return snapshot


class TestFind:
    def test_folder(self, tiny_model, tmp_path, monkeypatch):
        folder = tiny_model("bert")
        found = loading.find(str(folder))
        assert (found.folder, found.revision, found.label) == (folder, "", "bert")
        assert not found.is_classifier
        monkeypatch.chdir(folder.parent)
        assert loading.find("bert").folder == folder
        assert loading.find("./bert/").label == "bert"
        assert found.fingerprint() == loading.find("bert").fingerprint()

    def test_run_folder(self, own_copy, tmp_path):
        run = tmp_path / "my-run"
        run.mkdir()
        (run / "run.toml").write_text("")
        with pytest.raises(UserError, match="not finished"):
            loading.find(str(run))
        own_copy(name="my-run/model")
        found = loading.find(str(run))
        assert (found.folder, found.label) == (run / "model", "my-run")
        assert loading.find(str(run / "model")).label == "my-run"

    @pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
    def test_no_folder(self, name):
        with pytest.raises(UserError, match="no such folder"):
            loading.find(name)

    def test_misspelt_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("first", "second"):
            (tmp_path / "runs" / name).mkdir(parents=True)
            (tmp_path / "runs" / name / "run.json").write_text("{}")
        for find in (loading.find, sources.check_known):
            with pytest.raises(UserError, match=r"runs/other: no such folder\. Runs in this folder: first, second"):
                find("runs/other")
        with pytest.raises(UserError, match="Did you mean 'runs/first'"):
            loading.find("runs/frist")
        with pytest.raises(
            UserError, match=r"runs: this is a folder of runs, not a model\. Name one of them, as runs/NAME"
        ):
            loading.find("runs")

    def test_file(self, tiny_model):
        with pytest.raises(UserError, match="this is a file"):
            loading.find(str(tiny_model("bert") / "model.safetensors"))

    @pytest.mark.parametrize(
        ("removed", "message"),
        [("config.json", "no config"), ("model.safetensors", "no weights at all"), ("tokenizer.json", "no tokenizer")],
    )
    def test_missing_part(self, own_copy, removed, message):
        folder = own_copy()
        (folder / removed).unlink()
        with pytest.raises(UserError, match=message):
            loading.find(str(folder))

    def test_pickled_weights(self, own_copy):
        folder = own_copy()
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"found pytorch_model\.bin.*save_pretrained"):
            loading.find(str(folder))

    @pytest.mark.parametrize("text", ["{", "", "[1]", "\x00\xff"])
    def test_broken_config(self, own_copy, text):
        folder = own_copy()
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"config\.json"):
            loading.find(str(folder))

    @pytest.mark.parametrize("name", ["data2vec", "someone/some-model", "some-model"])
    def test_hub_unreachable(self, name):
        with pytest.raises(UserError, match="HF_HUB_OFFLINE") as found:
            loading.find(name)
        assert str(found.value).startswith(name)
        assert "randout train DATA --student svm" in str(found.value)

    @pytest.mark.parametrize("name", ["no such model", "a--b", "semi;colon"])
    def test_no_name_at_all(self, name):
        with pytest.raises(UserError, match="neither a folder nor a valid model name"):
            loading.find(name)

    def test_hub_cache(self, tiny_model, tmp_path):
        snapshot = in_hub_cache(tiny_model("bert"), tmp_path, "facebook/data2vec-text-base", "c" * 40)
        found = loading.find("data2vec")
        assert (found.folder, found.revision, found.label) == (snapshot, "c" * 40, "data2vec-text-base")
        assert loading.find("data2vec", "c" * 40).folder == snapshot
        assert loading.find(str(snapshot)).label == "data2vec-text-base"
        with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
            loading.find("data2vec", "d" * 40)

    def test_hub_cache_of_a_pull_request(self, tiny_model, tmp_path):
        """Main, as another tool fetched it, has no safetensors; the pinned pull request is there too."""
        bare = in_hub_cache(tiny_model("bert"), tmp_path, "a/b", "1" * 40)
        (bare / "model.safetensors").unlink()
        pinned = shutil.copytree(tiny_model("bert"), bare.parent / ("2" * 40))
        found = loading.find("a/b")
        assert (found.folder, found.revision) == (pinned, "2" * 40)


class TestAtHand:
    def test_smallest_first(self, tiny_model, tmp_path):
        assert loading.local_encoders() == []
        mine = Path(shutil.copytree(tiny_model("roberta"), tmp_path / "cache" / "models" / "mine"))
        theirs = in_hub_cache(tiny_model("albert"), tmp_path, "a/b", "e" * 40)
        for name, spoil in {
            "classifier": lambda c: c.update(architectures=["BertForSequenceClassification"]),
            "decoder": lambda c: c.update(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
            "unknown": lambda c: c.update(model_type="nothing"),
        }.items():
            folder = shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / name)
            config = json.loads((folder / "config.json").read_text())
            spoil(config)
            (folder / "config.json").write_text(json.dumps(config))
        broken = shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / "broken")
        (broken / "config.json").write_text("{")
        half = shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / "half")
        (half / "model.safetensors").unlink()
        assert loading.local_encoders() == [theirs, mine]
        with pytest.raises(UserError, match=r"found locally: .*e{40}.*mine"):
            loading.find("c/d")


class TestFingerprint:
    def test_same_for_a_copy(self, source, own_copy):
        copied = own_copy()
        (copied / "README.md").write_text("words")
        assert loading.find(str(copied)).fingerprint() == source("bert").fingerprint()

    @pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
    def test_changes(self, source, own_copy, part):
        copied = own_copy()
        data = bytearray((copied / part).read_bytes())
        data[-2] ^= 1
        (copied / part).write_bytes(data)
        assert loading.Source("copy", copied).fingerprint() != source("bert").fingerprint()

    def test_added_file(self, source, own_copy):
        copied = own_copy()
        (copied / "added_tokens.json").write_text("{}")
        assert loading.find(str(copied)).fingerprint() != source("bert").fingerprint()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"


class TestFaultyFolders:
    @pytest.mark.parametrize("part", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
    def test_git_lfs_pointer(self, own_copy, part):
        folder = own_copy()
        (folder / part).write_text(LFS)
        with pytest.raises(UserError, match=rf"{part} is a Git LFS pointer.*git lfs pull"):
            loading.find(str(folder))

    @pytest.mark.parametrize("part", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_web_page(self, own_copy, part):
        folder = own_copy()
        (folder / part).write_text("\n<!DOCTYPE html><html>not found</html>")
        with pytest.raises(UserError, match=f"{part} is a web page"):
            loading.find(str(folder))

    @pytest.mark.parametrize(("keep", "message"), [(-10, "it was truncated"), (100, "is damaged"), (0, "is damaged")])
    def test_weights_cut_off(self, own_copy, keep, message):
        weights = own_copy() / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:keep])
        with pytest.raises(UserError, match=rf"model\.safetensors.*{message}.*copy or download it again"):
            loading.find(str(weights.parent))

    def test_shards(self, own_copy):
        from safetensors.torch import load_file, save_file

        folder = own_copy()
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for shard, part in shards.items():
            save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        with pytest.raises(UserError, match=r"no model\.safetensors.*model-1.safetensors.*rename"):
            loading.find(str(folder))
        index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert loading.load(loading.find(str(folder)), id2label={0: "a", 1: "b"}).packed
        (folder / "model-2.safetensors").write_text(LFS)
        with pytest.raises(UserError, match=r"model-2\.safetensors is a Git LFS pointer"):
            loading.find(str(folder))
        (folder / "model-2.safetensors").unlink()
        with pytest.raises(UserError, match=r"1 of 2 weight files.* missing, first model-2\.safetensors"):
            loading.find(str(folder))
        (folder / "model.safetensors.index.json").write_text("{")
        with pytest.raises(UserError, match=r"index\.json cannot be read"):
            loading.find(str(folder))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_type": "gpt2"}, "GPT2 is a decoder; randout takes encoders: BERT, RoBERTa"),
            ({"model_type": "llama"}, "LLAMA is a decoder"),
            ({"model_type": "modernbert-decoder"}, "is a decoder"),
            ({"model_type": "t5"}, "T5 is an encoder-decoder; randout takes encoders"),
            ({"model_type": "bart"}, "BART is an encoder-decoder"),
            ({"is_encoder_decoder": True}, "is an encoder-decoder"),
            ({"is_decoder": True}, "sets is_decoder"),
            ({"model_type": None}, "has no model_type"),
            ({"pad_token_id": 10**6}, "pad_token_id 1000000 but vocab_size"),
        ],
    )
    def test_what_is_no_encoder(self, own_copy, changes, message):
        folder = own_copy()
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            loading.find(str(folder))

    def test_a_family_whose_blocks_are_not_found(self, source, monkeypatch):
        def fail(*_):
            raise TypeError("FunnelModel: no embeddings and list of 2 blocks found in this model")

        monkeypatch.setattr(loading, "prepare", fail)
        with pytest.raises(UserError, match=r"bert: FunnelModel: no embeddings.*randout takes encoders"):
            loading.load(source("bert"), id2label={0: "a", 1: "b"})

    def test_adapters_and_parents_of_models(self, own_copy, tmp_path):
        folder = own_copy(name="parent/0_Transformer")
        with pytest.raises(UserError, match="a model is in 0_Transformer: name that folder"):
            loading.find(str(folder.parent))
        (folder.parent / "modules.json").write_text("[]")
        with pytest.raises(UserError, match="sentence-transformers folder; its encoder is in 0_Transformer"):
            loading.find(str(folder.parent))
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(UserError, match=r"PEFT adapter.*merge_and_unload"):
            loading.find(str(folder))


class TestLabels:
    def test_an_encoder_found_locally_is_found_by_its_label(self, tiny_model, tmp_path):
        mine = shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / "small")
        in_hub_cache(tiny_model("roberta"), tmp_path, "some/larger", "c" * 40)
        assert loading.find("small").folder == mine
        found = loading.find("larger")
        assert (found.name, found.revision, found.label) == ("some/larger", "c" * 40, "larger")
        assert found.folder == loading.find("some/larger").folder

    def test_a_label_of_two_models_is_refused(self, tiny_model, tmp_path):
        shutil.copytree(tiny_model("bert"), tmp_path / "cache" / "models" / "small")
        in_hub_cache(tiny_model("bert"), tmp_path, "some/small", "c" * 40)
        with pytest.raises(UserError, match=r"^small: 2 local models have this name; .*models/small, some/small"):
            loading.find("small")

    def test_a_label_of_several_commits_is_the_one_of_the_main_branch(self, tiny_model, tmp_path):
        in_hub_cache(tiny_model("bert"), tmp_path, "some/small", "c" * 40)
        in_hub_cache(tiny_model("bert"), tmp_path, "some/small", "d" * 40, main=False)
        assert loading.find("small").revision == "c" * 40
