"""What a language model is asked about a text, to label it; needs neither PyTorch nor transformers.

`Prompt` holds the labels and the words of the question. The model answers in one of two ways (`ANSWERS`):

    letter   the labels are options A, B, C, ...; the answer is one letter (transformers' decision pipeline)
    name     the answer is the name of a label, of one or more tokens
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from randout.core.errors import UserError

ANSWERS = ("letter", "name")
LETTERS = 26  # options that a prompt of the decision pipeline can have
INSTRUCTION = "Which label fits this text best?"
PAIR_INSTRUCTION = "Which label fits this pair of texts best?"
TEMPLATE = "{instruction}\n\nText: {text}\n\nLabels: {labels}\n\nAnswer with one of the labels only."
WITHOUT_CHAT = "\n\nLabel:"  # ends the default template for a model without a chat template
PLACES = re.compile(r"\{(text|labels|instruction)\}")


@dataclass(frozen=True)
class Prompt:
    """The question about a text. template: of an answer by name, with {text}, {labels} and {instruction}; empty: `TEMPLATE`."""

    labels: tuple[str, ...]
    answer: str = "letter"
    instruction: str = INSTRUCTION
    template: str = ""

    def render(self, text: str, chat: bool = True) -> str:
        """Return the question about a text, for an answer by name. chat: whether it becomes a message of a chat."""
        template = self.template or TEMPLATE + ("" if chat else WITHOUT_CHAT)
        words = {"text": text, "labels": ", ".join(self.labels), "instruction": self.instruction}
        return PLACES.sub(lambda place: words[place[1]], template if chat else template.rstrip())


def check_prompt(prompt: Prompt, source: str = "--prompt") -> None:
    """Raise UserError for a prompt that cannot be asked. source: where its template is from, for messages."""
    if prompt.answer not in ANSWERS:
        raise UserError(f"--answer {prompt.answer}: expected one of {', '.join(ANSWERS)}")
    if prompt.template and prompt.answer == "letter":
        raise UserError(
            "--prompt: an answer by letter has the prompt of the decision pipeline. Add --answer name, or state the "
            "question with --instruction"
        )
    if prompt.template and "{text}" not in prompt.template:
        raise UserError(
            f"{source}: no {{text}} in this prompt. Write {{text}} where the text goes, {{labels}} for the labels"
        )
    if not prompt.instruction.strip():
        raise UserError("--instruction: found an empty text; expected a question or a task")
    check_label_names(prompt.labels)


def check_label_names(labels: Sequence[str]) -> None:
    """Raise UserError for less than two labels, an empty one, or one that is named twice."""
    if len(labels) < 2 or not all(label.strip() for label in labels):
        raise UserError(
            f"--labels: found {', '.join(map(repr, labels)) or 'none'}; expected two labels or more: --labels a,b,c"
        )
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"--labels: {twice[0]!r} is named twice")


def check_answer(prompt: Prompt, name: str, folder: Path) -> None:
    """Raise UserError if a model, or the installed transformers, does not support the answer that a prompt asks for."""
    if prompt.answer == "name":
        return
    if not has_decision_pipeline():
        from importlib.metadata import version

        raise UserError(
            f"--answer letter: transformers {version('transformers')} has no decision pipeline. Update it (pip install -U "
            "transformers), or use --answer name"
        )
    own = (folder / "decision.json").exists()
    if len(prompt.labels) > LETTERS and not own:
        raise UserError(
            f"--answer letter: found {len(prompt.labels)} labels; expected at most {LETTERS}, one for each letter. Use "
            "--answer name"
        )
    if not (own or (folder / "decision_template.jinja").exists() or has_chat_template(folder)):
        raise UserError(
            f"{name}: its tokenizer has no chat template, which --answer letter needs. Use --answer name, or a chat model"
        )


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder has a chat template, in a file of its own or in tokenizer_config.json."""
    if any((folder / file).exists() for file in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def has_decision_pipeline() -> bool:
    """Whether the installed transformers has a decision pipeline; transformers is not imported."""
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    return any((Path(place) / "pipelines" / "decision.py").exists() for place in places or ())
