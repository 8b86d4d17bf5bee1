"""Tiny models of every family and a small separable dataset, built here: no test needs a network.

`tiny_model(family)` is the folder of a bare encoder (2 or 3 blocks, hidden 32, 4 heads) with its tokenizer, made once a
session: treat it as read-only. `toy_csv(n, seed)` is a table `text,label` whose three classes a tiny model can learn.
"""

from __future__ import annotations

import copy
import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's library
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands too: threads of tiny products wait for one another

import numpy as np
import pytest
import torch

Run = Callable[..., tuple[int, str, str]]
HIDDEN, HEADS, LONGEST = 32, 4, 64  # LONGEST: tokens a text may have, special tokens included
WORDPIECE = ("bert", "electra", "distilbert", "albert", "mpnet")
BYTE_BPE = ("roberta", "data2vec-text", "xlm-roberta", "camembert", "deberta-v2", "modernbert")
FAMILIES = WORDPIECE + BYTE_BPE
PACKED = ("bert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "electra", "distilbert", "albert")
PADDED = ("mpnet", "deberta-v2", "modernbert")
LENGTHS = (3, 3, 3, 4, 7, 7, 12, LONGEST - 1, LONGEST, 9)  # one token beyond the special ones, runs, longest allowed
LABELS = {0: "health", 1: "money", 2: "sport"}
FROM_PADDING = ("roberta", "data2vec-text", "xlm-roberta", "camembert", "mpnet")  # positions start at padding_idx + 1


def _split(words: str) -> list[str]:
    return words.split()


CLASSES = {
    "health": _split("fever cough doctor pain nurse clinic tablet vaccine asthma stroke surgery therapy"),
    "sport": _split("goal team coach match player league race trophy stadium tennis runner medal"),
    "money": _split("bank market price stock loan profit tax credit budget invoice wage trade"),
}
COMMON = _split(
    "the a of and to in it was for on with as at by from or an be this that had not but what all were when we there "
    "can out other about many then them these so some would make like him into time has look two more day could go "
    "come did number sound no most people my over know water than call first who may down side been now find any new "
    "work part take get place made live where after back little only round man year came show every good me give our"
)


def toy_texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n texts of 3 to 30 words and their labels: a third to a half of a text's words are its class's own."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    names = rng.permutation(np.resize(sorted(CLASSES), n))
    for name in names:
        length = int(rng.integers(3, 31))
        own = max(1, int(length * rng.uniform(0.33, 0.5)))
        words = [*rng.choice(CLASSES[str(name)], own), *rng.choice(COMMON, length - own)]
        texts.append(" ".join(str(word) for word in rng.permutation(words)))
        labels.append(str(name))
    return texts, labels


def _words() -> list[str]:
    return [*COMMON, *(word for words in CLASSES.values() for word in words)]


def _wordpiece(family: str) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizer, MPNetTokenizer, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-'"
    pieces = list(dict.fromkeys([*_words(), *letters, *("##" + letter for letter in letters)]))
    if family == "mpnet":
        special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
        return MPNetTokenizer(vocab={piece: at for at, piece in enumerate(dict.fromkeys([*special, *pieces]))})
    vocabulary = {piece: at for at, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])}
    if family in ("bert", "electra"):
        return BertTokenizer(vocab=vocabulary)
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", model_input_names=names, **special)


@cache
def _merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE in which the toy words are single tokens."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator([" ".join(_words())], trainer)
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _byte_bpe(family: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaTokenizer

    vocabulary, merges = _merges()
    if family in ("roberta", "data2vec-text"):
        return RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=True)
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    ends = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="<mask>", model_input_names=names, **special)


def _options(family: str, tokenizer: Any) -> dict[str, Any]:
    """The configuration of a family's tiny model, its own names for the same sizes and dropout 0.1 throughout."""
    positions = LONGEST + (2 if family in FROM_PADDING else 0)
    found: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    found |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    found |= {"max_position_embeddings": positions, "initializer_range": 0.15}
    if family == "distilbert":
        return found | {"dim": HIDDEN, "hidden_dim": 48, "n_heads": HEADS, "n_layers": 3}
    found |= {"hidden_size": HIDDEN, "intermediate_size": 48, "num_attention_heads": HEADS, "num_hidden_layers": 3}
    if family == "modernbert":
        extra = {"local_attention": 8, "attention_dropout": 0.1, "mlp_dropout": 0.1, "cls_token_id": 0}
        return found | extra | {"sep_token_id": 2}
    found |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    if family in ("electra", "albert"):
        found["embedding_size"] = 16
    if family == "deberta-v2":
        found |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
        found |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
    return found


def build(family: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny bare encoder and its tokenizer to `folder`; `changes` go into its configuration."""
    from transformers import AutoConfig, AutoModel

    tokenizer = _wordpiece(family) if family in WORDPIECE else _byte_bpe(family)
    tokenizer.model_max_length = LONGEST
    config = AutoConfig.for_model(family, **(_options(family, tokenizer) | changes))
    state = torch.get_rng_state()
    torch.manual_seed(len(family))
    model = AutoModel.from_config(config)
    for parameter in model.parameters():  # biases start at zero: give every parameter something to be wrong about
        if parameter.dim() == 1:
            parameter.data += 0.05 * torch.randn_like(parameter)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LONGEST_FIRST = (
    "contract",
    "comparison",
    "benchmarks",
    "cli",
    "docs",
    "search",
    "shelf",
    "reproduce",
    "extending",
    "kill",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker is left with one of them at the end."""
    rank = {f"test_{name}": at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def quiet_and_small() -> Iterator[None]:
    """One thread (tiny products gain nothing from more, and wait for one another) and no progress bars; the libraries'
    million objects are not gone through for garbage before every training.
    """
    from transformers import logging

    from randout import memory

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    with memory.without_old_objects():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_refit() -> Iterator[None]:
    """Small tables are not trained a second time unless a test asks for it with `train.refit`."""
    from randout import defaults

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "REFIT_BELOW", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_pictures() -> Iterator[Callable[..., Path]]:
    """The confusion matrix of a run is no more than the head of a PNG: drawing two takes longer than a tiny training.

    Gives the function that draws; `test_figures.py` calls it too, and `real_pictures` puts it back for one test.
    """
    from randout import figures

    def instead(matrix: Any, id2label: dict[Any, str], path_png: Path, title: str) -> Path:
        assert np.shape(matrix) == (len(id2label), len(id2label))
        Path(path_png).write_bytes(b"\x89PNG\r\n\x1a\n")
        return Path(path_png)

    real = figures.confusion_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "confusion_picture", instead)
        yield real


@pytest.fixture
def real_pictures(quick_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their confusion matrices."""
    from randout import figures

    monkeypatch.setattr(figures, "confusion_picture", quick_pictures)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family -> folder of its tiny bare encoder, built once; `FAMILIES` lists them."""
    root = tmp_path_factory.mktemp("tiny")
    return cache(lambda family: build(family, root / family))


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(n, seed) -> a csv file of `toy_texts` with the columns text and label, written once."""
    root = tmp_path_factory.mktemp("toy")

    @cache
    def write(n: int = 120, seed: int = 0) -> Path:
        path = root / f"toy-{n}-{seed}.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            writer.writerows(zip(*toy_texts(n, seed), strict=True))
        return path

    return write


_loaded: dict[str, Any] = {}  # encoders by folder and options


def loaded(folder: Path, **options: Any) -> Any:
    """What `models.load` gives, as a copy of one that is loaded once: that takes longer than copying it."""
    from randout import models

    key = repr((folder, sorted(options.items())))
    if key not in _loaded:
        _loaded[key] = models.load(models.Source(folder.name, folder), **options)
    return copy.deepcopy(_loaded[key], {id(_loaded[key].tokenizer): _loaded[key].tokenizer})


@pytest.fixture
def load(tiny_model):
    """(family, double, **options of `models.load`) -> a classifier of three labels, as an `Encoder`."""

    def of(family, double=False, **options):
        found = loaded(tiny_model(family), id2label=LABELS, **options)
        if double:
            found.model.double()
        return found

    return of


@pytest.fixture
def source(tiny_model):
    """family -> its tiny encoder as a `models.Source`."""
    from randout import models

    return lambda family: models.find(str(tiny_model(family)))


@pytest.fixture
def own_copy(tiny_model, tmp_path):
    """A copy of a tiny model that a test may spoil."""
    return lambda family="bert", name="copy": Path(shutil.copytree(tiny_model(family), tmp_path / name))


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """Empty caches, this tool's (tmp_path/cache) and the hub's (tmp_path/hub), and no hub."""
    import huggingface_hub as hub

    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`command("train", ...)` as on the command line, in this process: exit code, standard output, standard error."""
    from randout import cli

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["randout", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return int(code), *capsys.readouterr()

    return call


@pytest.fixture
def run(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`command` in an empty folder, tmp_path, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    return command


def token_ids(made, lengths=LENGTHS, seed=0):
    """Random texts of the given lengths between the tokenizer's own special tokens, (length,) each."""
    draw = torch.Generator().manual_seed(seed)
    first, last = made.tokenizer.cls_token_id, made.tokenizer.sep_token_id
    middle = [torch.randint(10, 150, (n - 2,), generator=draw) for n in lengths]
    return [torch.cat([torch.tensor([first]), m, torch.tensor([last])]) for m in middle]


def plain_call(made, ids, side="right", **keywords):
    """transformers called as its documentation says: padded block, attention mask, nothing else."""
    longest, filler = max(map(len, ids)), made.tokenizer.pad_token_id
    block = torch.full((len(ids), longest), filler)
    mask = torch.zeros_like(block)
    for row, text in enumerate(ids):
        place = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        block[row, place], mask[row, place] = text, 1
    return made.model(input_ids=block, attention_mask=mask, **keywords)


def ids_of(encoder, texts, max_length=LONGEST):
    """Texts as the training loop would give them to `Encoder.forward`, (length,) each."""
    from randout.tokens import encode, truncate

    tokens = truncate(encode(encoder.tokenizer, texts), max_length, "head", encoder.suffix, encoder.prefix)
    return [torch.from_numpy(tokens[i].astype(np.int64)) for i in range(len(texts))]
