"""Augmented views of training texts: texts for a teacher to label, from which a student learns more of its function.

A teacher that is a function matched on many inputs, for a long time, gives a better student than one matched on the
training texts alone (Beyer et al. 2021, 2106.05237, section 3: teacher and student read the same view). A view is a text
without a gold label. Its source is a training row, or two, and never a held-out one; a view that equals a held-out text is
left out.

    text        the plot is thin but the cast is good
    word drop   the is thin but cast is good
    window      is thin but the cast
    splice      the plot is thin but + two hours I want back

Of a pair, each text is changed in this way, and a splice joins first texts with first texts; fields before the text stay.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.random import Generator

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.core.wording import plural, verb

from .composed_text import texts_in, with_texts
from .row_hashes import row_key
from .stratify import Ints

KINDS = ("word drop", "window", "splice")
OF_HELD_OUT = "copies of validation or test rows"
OF_TRAIN = "copies of training rows"
OF_UNLABELED = "copies of unlabelled rows"
OF_VIEWS = "copies of one another"
ALONE = "without another text to splice with"
EMPTY = "without a visible character"

WORD = re.compile(  # with the white space after it; scripts without spaces (Han, Kana, Thai, Lao, Khmer): a character
    "(?:[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    "|[^\\s\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)\\s*"
)


@dataclass(frozen=True)
class View:
    """One view. source, partner: rows of the dataset that it is made of; partner is -1 except for a splice.

    number: of the view among those of its source row, from 1.
    """

    text: str
    kind: str
    source: int
    number: int
    partner: int = -1


@dataclass(frozen=True)
class Views:
    """The views of a dataset, which are its last rows in this order. left_out: their number by reason."""

    settings: dict[str, Any]
    made: tuple[View, ...]
    left_out: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Number of views by kind."""
        found = dict.fromkeys(KINDS, 0)
        for view in self.made:
            found[view.kind] += 1
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """What the views contribute to a run's fingerprint: their settings and a digest of their texts."""
        texts = json.dumps([[view.text, view.kind, view.source, view.partner] for view in self.made])
        return {**self.settings, "texts": hashlib.sha256(texts.encode()).hexdigest()}

    @property
    def line(self) -> str:
        """What the log says about the views."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items() if count)
        reasons = {why: why.replace("copies", verb(count, "copy", "copies"), 1) for why, count in self.left_out.items()}
        out = ", ".join(f"{count:,} {reasons[why]}" for why, count in self.left_out.items() if count)
        return (
            f"views: {plural(len(self.made), 'view')} of training texts{f' ({kinds})' if kinds else ''}, labelled by the "
            f"teacher; left out: {out or 'none'}"
        )


def words_of(text: str) -> list[str]:
    """Split a text into words, each with the white space after it, so that they join to the stripped text."""
    return WORD.findall(text.strip())


def word_drop(words: Sequence[str], rate: float, draw: Generator) -> str:
    """Leave out each word with probability `rate`, independently; if all would be left out, one random word stays."""
    kept = draw.random(len(words)) >= rate
    if not kept.any():
        kept[draw.integers(len(words))] = True
    return "".join(word for word, stays in zip(words, kept, strict=True) if stays).strip()


def window(words: Sequence[str], share: tuple[float, float], draw: Generator) -> str:
    """Return a contiguous part: max(1, round(f * n)) of the n words, f uniform in `share`, its start uniform."""
    low, high = share
    length = max(1, round((low + (high - low) * draw.random()) * len(words)))
    start = int(draw.integers(len(words) - length + 1))
    return "".join(words[start : start + length]).strip()


def splice(first: Sequence[str], second: Sequence[str]) -> str:
    """Join the first ceil(n / 2) words of one text and the last ceil(m / 2) of another with a space."""
    start, end = first[: -(-len(first) // 2)], second[len(second) // 2 :]
    return f"{''.join(start).strip()} {''.join(end).strip()}"


def check_views(table: DataTable) -> None:
    """Raise UserError if the settings of views contradict each other. Cheap."""
    if not table.views:
        return
    if not any((table.view_word_drop, table.view_window, table.view_splice)):
        raise UserError(
            "data.views: every kind of view has frequency 0. Set data.view_word_drop, data.view_window or data.view_splice "
            "above 0, or data.views = 0"
        )
    low, high = table.view_window_share
    if low > high:
        raise UserError(f"data.view_window_share: found [{low}, {high}]; expected the smaller share first")


def make_views(
    texts: Sequence[str],
    split: Mapping[str, Ints],
    table: DataTable,
    seed: int,
    rows: Ints | None = None,
    folds: Ints | None = None,
) -> Views:
    """Make `table.views` views of each source row.

    Each view depends on (seed, source row, number of the view) and, for a splice, on the rows that it may be joined with.
    texts, split: of a dataset. rows: source rows, sorted; None: all training rows. folds: (n,) fold of each row: rows of
    different folds are not spliced, and rows in no fold (-1) have no views. Raises UserError for contradicting settings.
    """
    check_views(table)
    sources = split["train"] if rows is None else rows
    if not np.isin(sources, split["train"]).all():
        raise ValueError("views are made of training rows only")
    fold = np.zeros(len(texts), np.int64) if folds is None else folds
    sources = sources[fold[sources] >= 0]
    pools = {int(one): sources[fold[sources] == one] for one in np.unique(fold[sources])}
    words = {int(row): [words_of(text) for text in texts_in(texts[row])] for row in sources}
    left_out = dict.fromkeys((OF_HELD_OUT, OF_TRAIN, OF_UNLABELED, OF_VIEWS, ALONE, EMPTY), 0)
    seen = _seen_texts(texts, split) | {"": EMPTY}
    made: list[View] = []
    for row in sources.tolist():
        for number in range(table.views):
            draw = np.random.default_rng(random_key(seed, "view", row, number))
            view = _view(row, number + 1, pools[int(fold[row])], words, table, draw, texts)
            key = "" if view is None or not all(texts_in(view.text)) else row_key(view.text)
            why = ALONE if view is None else seen.get(key, "")
            if view is None or why:
                left_out[why] += 1
                continue
            seen[key] = OF_VIEWS
            made.append(view)
    settings = {key: value for key, value in table.model_dump(mode="json").items() if key.startswith("view")}
    return Views(settings, tuple(made), left_out)


def _seen_texts(texts: Sequence[str], split: Mapping[str, Ints]) -> dict[str, str]:
    """Return the reason for which a view is left out, by the `row_key` of its text, for all rows of the splits.

    That key ignores accents, because tokenizers may.
    """
    reasons = {"unlabeled": OF_UNLABELED, "train": OF_TRAIN, "validation": OF_HELD_OUT, "test": OF_HELD_OUT}
    return {row_key(texts[row]): why for name, why in reasons.items() for row in split.get(name, ())}


def _view(
    row: int,
    number: int,
    pool: Ints,
    words: Mapping[int, list[list[str]]],
    table: DataTable,
    draw: Generator,
    texts: Sequence[str],
) -> View | None:
    """Return view `number` of `row`; None for a splice without another row in `pool`, which is sorted and contains `row`.

    words: of each text of a row: one, or the two of a pair.
    """
    ends = list(accumulate((table.view_word_drop, table.view_window, table.view_splice)))
    kind = KINDS[bisect_right(ends, draw.random() * ends[-1])]
    own = words[row]
    made = partial(with_texts, texts[row])
    if kind == "word drop":
        return View(made([word_drop(text, table.view_drop_rate, draw) for text in own]), kind, row, number)
    if kind == "window":
        return View(made([window(text, table.view_window_share, draw) for text in own]), kind, row, number)
    if len(pool) < 2:
        return None
    at = int(draw.integers(len(pool) - 1))
    partner = int(pool[at + (pool[at] >= row)])
    spliced = [splice(text, other) for text, other in zip(own, words[partner], strict=True)]
    return View(made(spliced), kind, row, number, partner)
