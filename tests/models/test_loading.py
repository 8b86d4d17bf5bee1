"""Models loaded whole or refused, and saved so that stock transformers agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from randout.core.errors import Failure, UserError
from randout.methods.base import Context
from randout.methods.cross_entropy import CrossEntropy
from randout.methods.mixout import Mixout
from randout.methods.noisytune import NoisyTune
from randout.models import loading
from randout.models.tokenization import tokenizer_and_limit
from randout.testing.models import LABELS, LONGEST, build, toy_texts
from support.forward import ids_of
from support.training import new_training, tiny_encoder, toy_training_data, trained, weights_of


class TestLoad:
    def test_labels(self, source):
        config = loading.load(source("bert"), id2label=LABELS).model.config
        assert config.id2label == LABELS
        assert config.label2id == {"health": 0, "money": 1, "sport": 2}
        assert config.num_labels == 3

    @pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
    def test_head_is_a_function_of_the_seed(self, source, family):
        first, again, other = (
            loading.load(source(family), id2label=LABELS, seed=seed).model.state_dict() for seed in (1, 1, 2)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        changed = {name for name in first if not torch.equal(first[name], other[name])}
        assert changed
        prefix = {"bert": "bert.", "roberta": "roberta.", "deberta-v2": "deberta."}[family]
        assert not any(name.startswith(prefix) and "pooler" not in name for name in changed)

    @pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json"])
    def test_corrupt(self, own_copy, part):
        folder = own_copy()
        (folder / part).write_bytes(b"\x08\x00\x00nothing of the kind")
        with pytest.raises(UserError, match=r"cannot load its tokenizer|model.safetensors \(22 bytes\) is damaged"):
            loading.load(loading.find(str(folder)), id2label=LABELS)

    @pytest.mark.parametrize("change", [{"hidden_size": 36}, {"model_type": "nothing"}, {"num_hidden_layers": "x"}])
    def test_wrong_config(self, own_copy, change):
        folder = own_copy()
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"cannot load|do not have the shapes that its config\.json describes"):
            loading.load(loading.find(str(folder)), id2label=LABELS)

    def test_missing_tensors(self, own_copy):
        from safetensors.torch import load_file, save_file

        folder = own_copy()
        state = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in state.items() if "layer.1" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"lack 16 tensors of the encoder, first bert\.encoder\.layer\.1"):
            loading.load(loading.find(str(folder)), id2label=LABELS)

    def test_encoder_is_no_teacher(self, source):
        with pytest.raises(UserError, match="without a classification head"):
            loading.load(source("bert"))

    def test_classifier_keeps_or_loses_its_head(self, source, tmp_path):
        made = loading.load(source("roberta"), id2label=LABELS, seed=3)
        loading.save(made, tmp_path / "saved", LONGEST, "")
        saved = loading.find(str(tmp_path / "saved"))
        assert saved.is_classifier
        kept = loading.load(saved)
        assert kept.model.config.id2label == LABELS
        ids = ids_of(made, toy_texts(5, 0)[0])
        assert torch.equal(kept.forward(ids).logits, made.forward(ids).logits)
        for labels in (LABELS, {0: "x", 1: "y"}):
            first, again, other = (loading.load(saved, id2label=labels, seed=seed) for seed in (1, 1, 2))
            weight, before = first.model.classifier.out_proj.weight, made.model.classifier.out_proj.weight
            assert first.model.config.id2label == labels
            assert first.model.config.num_labels == len(weight) == len(labels)
            assert torch.equal(weight, again.model.classifier.out_proj.weight)
            assert not torch.equal(weight, other.model.classifier.out_proj.weight)
            assert weight.shape != before.shape or not torch.equal(weight, before)
            assert torch.equal(first.model.roberta.encoder.layer[1].output.dense.weight,
                               made.model.roberta.encoder.layer[1].output.dense.weight)  # fmt: skip
            assert first.forward(ids).logits.shape == (5, len(labels))

    def test_is_no_code_of_the_model(self, own_copy, tmp_path):
        """A configuration that points to code is not followed."""
        folder = own_copy()
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModelForSequenceClassification": "code.Model", "AutoConfig": "code.Config"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        loading.load(loading.find(str(folder)), id2label=LABELS)
        assert not (tmp_path / "ran").exists()


class TestSave:
    @pytest.mark.parametrize("family", ["bert", "roberta", "albert", "distilbert", "mpnet", "deberta-v2", "modernbert"])
    def test_pipeline_agrees(self, source, family, tmp_path):
        from transformers import pipeline

        made = loading.load(source(family), id2label=LABELS, seed=1)
        max_length = 20
        loading.save(made, tmp_path / "saved", max_length, "# card")
        texts = [*toy_texts(10, 3)[0], "fever " * 300, "goal, bank. a", "Fever É unknown-zzz"]
        probabilities = torch.softmax(made.forward(ids_of(made, texts, max_length)).logits, -1)
        theirs = pipeline("text-classification", str(tmp_path / "saved"), truncation=True, device="cpu")
        for batch in (1, 4):
            for text, row in zip(theirs(texts, top_k=None, batch_size=batch), probabilities, strict=True):
                found = {entry["label"]: entry["score"] for entry in text}
                assert [found[LABELS[i]] for i in range(3)] == pytest.approx(row.tolist(), abs=1e-5)

    def test_folder(self, source, tmp_path):
        made = loading.load(source("bert"), id2label=LABELS)
        folder = tmp_path / "deep" / "model"
        loading.save(made, folder, 33, "# card")
        config = json.loads((folder / "config.json").read_text())
        assert config["id2label"] == {"0": "health", "1": "money", "2": "sport"}
        assert config["architectures"] == ["BertForSequenceClassification"]
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 33
        assert made.tokenizer.model_max_length == LONGEST
        assert (folder / "README.md").read_text() == "# card"
        text = "".join(path.read_text() for path in folder.glob("*.json"))
        assert "randout" not in text
        assert str(tmp_path) not in text

    def test_replaces_whole(self, source, tmp_path):
        folder = tmp_path / "model"
        for leftover in (folder, tmp_path / "model.partial", tmp_path / "model.old"):
            leftover.mkdir()
            (leftover / "stale.bin").write_text("")
        first, second = (loading.load(source("bert"), id2label=LABELS, seed=seed) for seed in (1, 2))
        loading.save(first, folder, LONGEST, "first")
        before = loading.Source("saved", folder).fingerprint()
        loading.save(second, folder, LONGEST, "second")
        assert [path.name for path in tmp_path.glob("model*")] == ["model"]
        assert not (folder / "stale.bin").exists()
        assert (folder / "README.md").read_text() == "second"
        assert loading.Source("saved", folder).fingerprint() != before

    def test_failure_leaves_the_old_one(self, source, tmp_path, monkeypatch):
        made = loading.load(source("bert"), id2label=LABELS)
        loading.save(made, tmp_path / "model", LONGEST, "first")

        def full(_folder):
            raise OSError("no space left on device")

        monkeypatch.setattr(made.tokenizer, "save_pretrained", full)
        with pytest.raises(Failure, match="no space left on device"):
            loading.save(made, tmp_path / "model", 12, "second")
        assert (tmp_path / "model" / "README.md").read_text() == "first"
        assert made.tokenizer.model_max_length == LONGEST
        assert loading.load(loading.find(str(tmp_path / "model"))).packed

    def test_same_bytes(self, source, tmp_path):
        """Saved twice, the same model has the same fingerprint."""
        made = loading.load(source("camembert"), id2label=LABELS, head="linear")
        prints = set()
        for name in ("one", "two"):
            loading.save(made, tmp_path / name, LONGEST, "")
            prints.add(loading.find(str(tmp_path / name)).fingerprint())
        assert len(prints) == 1


def test_build_is_a_function_of_the_family(tmp_path, tiny_model):
    again = build("electra", tmp_path / "electra")
    assert loading.find(str(again)).fingerprint() == loading.find(str(tiny_model("electra"))).fingerprint()


def changed(folder: Path, **changes: Any) -> loading.Source:
    """The model in `folder` with these settings in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return loading.find(str(folder))


def classifier(folder: Path, **changes: Any) -> loading.Source:
    """A classifier of three classes saved over the encoder in `folder`, with these settings in its config.json."""
    loading.save(loading.load(loading.find(str(folder)), id2label=LABELS), folder, LONGEST, "")
    return changed(folder, **changes)


class TestFaultyModels:
    def test_tokenizer_larger_than_the_embeddings(self, own_copy):
        from transformers import AutoTokenizer

        folder = own_copy()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        size = len(tokenizer)
        tokenizer.add_tokens(["newtoken"])
        tokenizer.save_pretrained(folder)
        message = rf"{size + 1} tokens but the model only {size} embeddings.*resize_token_embeddings\({size + 1}\)"
        source = loading.find(str(folder))
        for load in (lambda: loading.load(source, id2label=LABELS), lambda: tokenizer_and_limit(source)):
            with pytest.raises(UserError, match=message):
                load()

    def test_problem_type_of_an_earlier_task_is_not_kept(self, own_copy, tmp_path):
        source = classifier(own_copy(), problem_type="multi_label_classification")
        for head in (LABELS, {0: "a", 1: "b"}):
            loading.save(loading.load(source, id2label=head), tmp_path / "new", LONGEST, "")
            assert json.loads((tmp_path / "new" / "config.json").read_text()).get("problem_type") is None
        bare = changed(own_copy(name="bare"), problem_type="regression")
        assert loading.load(bare, id2label=LABELS).model.config.problem_type is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"problem_type": "regression"}, "problem_type regression.*not a class"),
            ({"id2label": {"0": "only"}, "label2id": {"only": 0}}, "one output.*at least two classes"),
            ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "two of its outputs are named 'a'"),
            ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "keys of id2label.* not 0 to 2"),
            (
                {"label2id": {"money": 0, "health": 1, "sport": 2}},
                "disagree: 'health' is output 0 in id2label and output 1",
            ),
        ],
    )
    def test_outputs_that_are_no_classes_are_refused(self, own_copy, changes, message):
        source = classifier(own_copy(), **changes)
        with pytest.raises(UserError, match=message):
            loading.load(source)
        if len(changes.get("id2label", LABELS)) == len(LABELS):  # a new head has names and kind of its own
            assert loading.load(source, id2label=LABELS).model.config.id2label == LABELS

    @pytest.mark.parametrize("label2id", [{"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, {"Health": 2, "Money": 1}, {}])
    def test_other_names_in_label2id_do_no_harm(self, own_copy, label2id):
        assert loading.load(classifier(own_copy(), label2id=label2id)).model.config.id2label == LABELS

    def test_weights_that_are_not_finite(self, own_copy):
        folder = own_copy()
        tensors = load_file(folder / "model.safetensors")
        name = "encoder.layer.1.output.dense.weight"
        tensors[name][0, 0] = float("nan")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=f"1 of its weight tensors hold NaN or infinite.*{name}"):
            loading.load(loading.find(str(folder)), id2label=LABELS)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_weights_are_trained_in_float32(self, own_copy, dtype):
        folder = own_copy()
        tensors = {name: x.to(dtype) for name, x in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        made = loading.load(changed(folder, dtype=str(dtype)[6:], torch_dtype=str(dtype)[6:]), id2label=LABELS)
        assert {p.dtype for p in made.model.parameters()} == {torch.float32}
        assert made.packed

    def test_vocabulary_of_another_model(self, own_copy):
        with pytest.raises(UserError, match=r"do not have the shapes that its config\.json describes"):
            loading.load(changed(own_copy(), vocab_size=500), id2label=LABELS)

    @pytest.mark.parametrize("stated", [0, -1, 10**30])
    def test_a_tokenizer_that_states_no_length(self, own_copy, stated):
        folder = own_copy()
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": stated}))
        source = loading.find(str(folder))
        assert loading.load(source, id2label=LABELS).longest == tokenizer_and_limit(source)[1] == LONGEST

    def test_filler_outside_the_vocabulary(self, load):
        made = load("bert", True, pack=False)
        texts = [torch.tensor([2, 20, 3]), torch.tensor([2, 20, 21, 22, 3])]
        before = made.forward(texts).logits
        for filler in (10**6, -1):
            made.model.config.pad_token_id = filler
            torch.testing.assert_close(made.forward(texts).logits, before)

    def test_a_checkpointed_model_learns(self, own_copy):
        """As `gradient_checkpointing` in config.json has it: every tensor of every block moves."""
        training = new_training(tiny_encoder(changed(own_copy(), gradient_checkpointing=True).folder), [CrossEntropy()])
        before = weights_of(training)
        trained(training, toy_training_data(training.encoder), events=1)
        moved = [name for name, x in weights_of(training).items() if not torch.equal(x, before[name])]
        assert sum(".layer." in name for name in moved) == 16 * len(training.encoder.hook_points.blocks)

    def test_newly_initialised_parameters_are_known(self, own_copy):
        folder = own_copy()
        weights = load_file(folder / "model.safetensors")
        save_file(
            {n: x for n, x in weights.items() if "pooler" not in n}, folder / "model.safetensors", {"format": "pt"}
        )
        head = {"classifier.weight", "classifier.bias"}
        pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        made = loading.load(loading.find(str(folder)), id2label=LABELS)
        assert made.fresh == head | pooler
        assert loading.load(loading.find(str(own_copy(name="whole"))), id2label=LABELS).fresh == head
        context = Context.of(made, seed=1)
        before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
        NoisyTune().start(context)
        noised = {name for name, tensor in made.model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert not noised & made.fresh
        assert any(".layer." in name for name in noised)
        assert not any("pooler" in name for name in Mixout().start(context).tensors)
