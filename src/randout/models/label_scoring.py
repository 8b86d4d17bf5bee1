"""The probability of each label of a text, by a causal language model, in one forward pass per text.

`load_scorer` returns a `NameScorer` or a `LetterScorer`, as `label_prompts` describes. A label's name of tokens t_1 ... t_m
after the prompt x has the log-probability

    log p(name | x) = sum_i log p(t_i | x, t_1, ..., t_(i-1))

which is exact and not divided by m. The probabilities of the labels are its softmax over the labels.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from randout.core.errors import UserError

from .label_prompts import Prompt
from .sources import Source, load_tokenizer

Floats = NDArray[np.float64]
STAND_IN = "{text}"  # for a text, where the prompt is shown


class Scored(NamedTuple):
    """Labels of n texts. probabilities: (n, C), rows sum to 1. on_labels: (n,) probability of all C names; NaN if unknown."""

    probabilities: Floats
    on_labels: Floats


@dataclass(frozen=True)
class NameScorer:
    """Scores the names of the labels. names: token ids of each name. pad: fills up shorter prompts on the left."""

    model: Any
    tokenizer: Any
    prompt: Prompt
    names: tuple[tuple[int, ...], ...]
    pad: int

    def score(self, texts: Sequence[str]) -> Scored:
        """Return the probabilities of the labels of a batch of texts."""
        prompts = [self.ids_of(text) for text in texts]
        found = label_log_probabilities(self.model, prompts, self.names, self.pad)
        largest = found.max(1, keepdims=True)
        total = largest + np.log(np.exp(found - largest).sum(1, keepdims=True))
        return Scored(np.exp(found - total), np.exp(total[:, 0]))

    def ids_of(self, text: str) -> list[int]:
        """Return the prompt for a text as token ids; special tokens that are written in the text count as plain text."""
        chat = bool(self.tokenizer.chat_template)
        words = self.prompt.render(text, chat)
        if not chat:
            return list(self.tokenizer(words)["input_ids"])
        message = [{"role": "user", "content": words}]
        options = {"add_generation_prompt": True, "enable_thinking": False, "sanitize_control_tokens": True}
        return list(
            self.tokenizer.apply_chat_template(message, tokenize=True, return_dict=True, **options)["input_ids"]
        )

    @property
    def overhead(self) -> int:
        """Number of tokens of the prompt without a text, and of the longest name."""
        return len(self.ids_of("")) + max(map(len, self.names))

    def shown(self) -> str:
        """Return the whole prompt, with {text} in place of a text."""
        return str(self.tokenizer.decode(self.ids_of(STAND_IN)))


@dataclass(frozen=True)
class LetterScorer:
    """Scores the letters A, B, C, ... of the labels with transformers' decision pipeline, one text at a time."""

    pipe: Any
    prompt: Prompt

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    def score(self, texts: Sequence[str]) -> Scored:
        """Return the probabilities of the labels of some texts."""
        answers = [self.pipe(self._request(text))["label"]["probabilities"] for text in texts]
        rows = [[answer[label] for label in self.prompt.labels] for answer in answers]
        return Scored(np.array(rows, dtype=np.float64), np.full(len(texts), np.nan))

    def _request(self, text: str) -> dict[str, Any]:
        options = dict.fromkeys(self.prompt.labels)
        question = {"type": "choice", "instructions": self.prompt.instruction, "criteria": options}
        return {"state": text, "questions": {"label": question}}

    def _ids_of(self, text: str) -> Tensor:
        inputs, _ = self.pipe.preprocess(self._request(text))["prompts"][0]
        ids: Tensor = inputs["input_ids"][0]
        return ids

    @property
    def overhead(self) -> int:
        """Number of tokens of the prompt without a text."""
        return len(self._ids_of(""))

    def shown(self) -> str:
        """Return the whole prompt, with {text} in place of a text."""
        return str(self.tokenizer.decode(self._ids_of(STAND_IN)))


Scorer = NameScorer | LetterScorer


def load_scorer(source: Source, prompt: Prompt, device: str, precision: str) -> Scorer:
    """Load a causal language model from safetensors. precision: of its weights, float32 or bfloat16. Raises UserError."""
    from transformers import logging as library_logging

    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        if prompt.answer == "letter":
            return _letter_scorer(source, prompt, device, dtype)
        return _name_scorer(source, prompt, device, dtype)
    except UserError:
        raise
    except Exception as error:  # whatever transformers raises for a folder that it cannot load
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: transformers cannot load this as a causal language model: {text}") from None


def _letter_scorer(source: Source, prompt: Prompt, device: str, dtype: torch.dtype) -> LetterScorer:
    from transformers import pipeline

    model: Any = _decision_class(source).from_pretrained(
        str(source.folder), dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    pipe: Any = pipeline("decision", model=model, tokenizer=load_tokenizer(source), device=device)
    scorer = LetterScorer(pipe, prompt)
    try:
        scorer.score([STAND_IN])
    except ValueError as error:  # too many options for this model, or letters that are no tokens of its tokenizer
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source.name}: the decision pipeline cannot ask this model: {text} Use --answer name"
        ) from None
    return scorer


def _decision_class(source: Source) -> Any:
    """Return the class that loads a model for the decision pipeline: its own if it has a decision head, else a causal LM.

    transformers 5.23 itself chooses by model type: it would give a chat model of the type qwen2 a decision head of random
    weights, on a body of random weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_DECISION_MAPPING

    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    if type(config) not in MODEL_FOR_DECISION_MAPPING:
        return AutoModelForCausalLM
    kind: Any = MODEL_FOR_DECISION_MAPPING[type(config)]
    has_head = isinstance(config, kind.config_class) or kind.checkpoint_config(str(source.folder))[0] is not None
    return kind if has_head else AutoModelForCausalLM


def _name_scorer(source: Source, prompt: Prompt, device: str, dtype: torch.dtype) -> NameScorer:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(source)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    before = "" if tokenizer.chat_template else " "
    names = [tuple(tokenizer(before + label, add_special_tokens=False)["input_ids"]) for label in prompt.labels]
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    return NameScorer(model.to(device).eval(), tokenizer, prompt, _distinct(names, tokenizer, source.name, prompt), pad)


def _distinct(names: list[tuple[int, ...]], tokenizer: Any, model: str, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """Return the names with the end-of-text token after each, if one name begins another; else unchanged.

    Without that token, a longer name could never be more probable than the shorter one. Raises UserError for names that
    have no tokens or the same tokens, or if there is no such token.
    """
    for at, name in enumerate(names):
        same = [prompt.labels[other] for other in range(at) if names[other] == name]
        if same or not name:
            what = f"the same tokens as {same[0]!r}" if same else "no tokens"
            raise UserError(
                f"{model}: its tokenizer gives the label {prompt.labels[at]!r} {what}. Rename it, or use --answer letter"
            )
    begun = [
        (a, b) for a in range(len(names)) for b in range(len(names)) if a != b and names[b][: len(names[a])] == names[a]
    ]
    if not begun:
        return tuple(names)
    if tokenizer.eos_token_id is None:
        short, long = (prompt.labels[at] for at in begun[0])
        raise UserError(
            f"{model}: the label {short!r} begins {long!r}, and its tokenizer has no end-of-text token to tell them apart. "
            "Rename one, or use --answer letter"
        )
    return tuple((*name, tokenizer.eos_token_id) for name in names)


@torch.no_grad()
def label_log_probabilities(
    model: Any, prompts: Sequence[Sequence[int]], names: Sequence[Sequence[int]], pad: int
) -> Floats:
    """Return log p(name | prompt) of every prompt and name, (b, C) float64.

    The prompts are computed once, in one batch that is padded on the left; names of several tokens continue from the
    cached prompt.
    """
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=device)
    several = any(len(name) > 1 for name in names)
    output = _forward(model, ids, mask, None, several, last=True)
    first = output.logits[:, -1].float().log_softmax(-1)  # (b, vocabulary)
    found = torch.stack([first[:, name[0]] for name in names], 1).double()
    for at, name in enumerate(names):
        if len(name) == 1:
            continue
        given = torch.tensor(name[:-1], device=device).expand(len(prompts), -1)
        whole = torch.cat([mask, torch.ones_like(given)], 1)
        cache = copy.deepcopy(output.past_key_values)  # a forward pass extends its cache
        later = _forward(model, given, whole, cache, True).logits.float().log_softmax(-1)  # (b, m - 1, vocabulary)
        wanted = torch.tensor(name[1:], device=device).expand(len(prompts), -1)
        found[:, at] += later.gather(2, wanted[..., None])[..., 0].double().sum(1)
    return np.asarray(found.cpu().numpy(), dtype=np.float64)


def _forward(model: Any, ids: Tensor, mask: Tensor, cache: Any, use_cache: bool, last: bool = False) -> Any:
    """Run the model on `ids` (b, n), which end the tokens that `mask` (b, n or more) marks; a text's first token has position 0.

    last: whether only the logits of the last token are needed.
    """
    takes = inspect.signature(model.forward).parameters
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    optional = {"position_ids": positions, "logits_to_keep": 1 if last else 0, "past_key_values": cache}
    keywords = {name: value for name, value in optional.items() if name in takes and value is not None}
    return model(input_ids=ids, attention_mask=mask, use_cache=use_cache, **keywords)


def text_limit(scorer: Scorer, asked: int) -> int:
    """Return the maximum length of a text in tokens: as asked, or less if the model has fewer positions than the prompt then
    needs. Raises UserError if the prompt leaves no room for a text.
    """
    model = scorer.model if isinstance(scorer, NameScorer) else scorer.pipe.model
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**6
    room = int(positions) - scorer.overhead
    if room < 1:
        raise UserError(
            f"the prompt without a text has {scorer.overhead:,} tokens, and the model takes at most {positions:,}; shorten the "
            "prompt or the labels"
        )
    return min(asked, room)


def joined(texts: Sequence[str], names: Sequence[str] = ()) -> str:
    """Return what a prompt has in place of {text}: one text, or those of a pair on lines that begin with their names.

    premise: It rains.
    hypothesis: The street is wet.
    """
    return "\n".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True)) if names else texts[0]


def cut(tokenizer: Any, texts: Sequence[str], names: Sequence[str], max_length: int) -> str:
    """Return `joined(texts, names)` of at most about `max_length` tokens.

    A text keeps its start. Of a pair, the longer text is cut until both are equally long, then both.
    """
    if len(texts) == 1:
        return _start(tokenizer, texts[0], max_length)
    room = max(max_length - _tokens(tokenizer, joined(["", ""], names)), 2)
    first, second = (_tokens(tokenizer, text) for text in texts)
    if first + second <= room:
        return joined(texts, names)
    first = min(first, max(room - second, room // 2))
    return joined([_start(tokenizer, texts[0], first), _start(tokenizer, texts[1], room - first)], names)


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _start(tokenizer: Any, text: str, max_length: int) -> str:
    """Return the start of a text that has at most `max_length` tokens; the text itself if it is not longer."""
    if 4 * len(text) < max_length:  # a character has at most four bytes, and a token at least one
        return text
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= max_length:
        return text
    kept: str = tokenizer.decode(ids[:max_length])
    return kept.rstrip("\ufffd")  # a character that was cut in the middle
