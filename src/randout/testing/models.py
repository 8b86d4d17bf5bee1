"""Tiny encoders, decoders and toy texts for tests, built locally: nothing is downloaded.

`build` writes a bare encoder (2 or 3 blocks, 32 hidden units, 4 heads) with its tokenizer; `build_decoder` a causal
language model or a decoder classifier; `toy_texts` makes texts of three classes that such an encoder can learn.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from randout.models.encoder import Encoder

__all__ = ["DECODERS", "FAMILIES", "LABELS", "LONGEST", "build", "build_decoder", "loaded", "toy_texts"]

HIDDEN, HEADS, LONGEST = 32, 4, 64  # LONGEST: maximum tokens of a text, special tokens included
WORDPIECE = ("bert", "electra", "distilbert", "albert", "mpnet")
BYTE_BPE = ("roberta", "data2vec-text", "xlm-roberta", "camembert", "deberta-v2", "modernbert")
FAMILIES = WORDPIECE + BYTE_BPE
DECODERS = ("qwen3", "qwen2", "llama", "mistral", "gemma")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PACKED = ("bert", "roberta", "data2vec-text", "xlm-roberta", "camembert", "electra", "distilbert", "albert")
PADDED = ("mpnet", "deberta-v2", "modernbert")
LENGTHS = (3, 3, 3, 4, 7, 7, 12, LONGEST - 1, LONGEST, 9)  # one token, repeated lengths, maximum length
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
    """Make n texts of 3 to 30 words and their labels; a third to a half of a text's words are specific to its class."""
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
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", model_input_names=names, **named)


@cache
def _merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE tokenizer in which the toy words are single tokens."""
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
        return RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=True)  # type: ignore[arg-type]
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
    """Configuration of a family's tiny model: the same sizes under the family's names, and dropout 0.1 throughout."""
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
    for parameter in model.parameters():  # biases start at zero, which would hide errors in their use
        if parameter.dim() == 1:
            parameter.data += 0.05 * torch.randn_like(parameter)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_decoder(
    family: str,
    folder: Path,
    labels: dict[int, str] | None = None,
    *,
    chat: bool = True,
    pad: str | None = "<pad>",
    side: str = "right",
    **changes: Any,
) -> Path:
    """Write a tiny decoder of random weights and its tokenizer to `folder`: a sequence classifier with `labels`, or a causal
    language model without.

    chat: whether its tokenizer has a chat template. pad: its padding token; None: neither tokenizer nor configuration has
    one. side: on which the tokenizer pads. `changes` go into the configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    tokenizer = _decoder_tokenizer(pad, side, chat)
    options: dict[str, Any] = {"vocab_size": len(tokenizer) + 7, "pad_token_id": tokenizer.pad_token_id}
    options["bos_token_id"] = None
    options |= {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    options |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "initializer_range": 0.3}
    options |= {"eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": True}
    if labels is not None:
        options |= {"id2label": labels, "label2id": {label: at for at, label in labels.items()}}
    config = AutoConfig.for_model(family, **(options | changes))
    state = torch.get_rng_state()
    torch.manual_seed(len(family))
    kind: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    model = kind.from_config(config)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _decoder_tokenizer(pad: str | None, side: str, chat: bool) -> Any:
    """Byte-level BPE of the toy words without special tokens around a text, as Qwen's; the turns of a chat have two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _merges()
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"eos_token": "<|end|>", "additional_special_tokens": ["<|start|>"]} | ({"pad_token": pad} if pad else {})
    found = PreTrainedTokenizerFast(tokenizer_object=made, padding_side=side, model_max_length=1024, **special)
    if chat:
        found.chat_template = CHAT_TEMPLATE
    return found


_loaded: dict[str, Encoder] = {}  # encoders by folder and options


def loaded(folder: Path, **options: Any) -> Encoder:
    """Load an encoder as `loading.load` does; each is loaded once and then copied, which is faster."""
    from randout.models import loading

    key = repr((folder, sorted(options.items())))
    if key not in _loaded:
        _loaded[key] = loading.load(loading.Source(folder.name, folder), **options)
    return copy.deepcopy(_loaded[key], {id(_loaded[key].tokenizer): _loaded[key].tokenizer})
