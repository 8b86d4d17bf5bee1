"""Reads soft labels from a table: class probabilities that a language model, another classifier or annotators gave.

`read_soft_labels` detects the form from the column names and returns floored log-probabilities. A form is one of:

    prob_CLASS (or probability_CLASS)   one column per class; each row is divided by its sum
    logit_CLASS                         one column per class; softmax
    top_logprobs                        JSON of a language model's candidates for its first answer token
    several annotators                  annotator_1, annotator_2, ... (wide), or a column "annotator" (long)
    label, confidence                   the rest of the confidence is spread evenly over the other classes
    label                               the label alone
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError, nearest
from randout.core.wording import plural, verb

from .columns import LABEL_NAMES, is_missing, named_column, row_list, rows_in
from .labels import clean_label, lookalike_key
from .tables import Table

Floats = NDArray[np.float64]

# A file says 0 for a class that a model did not list or that was rounded away, not for one that is impossible. With this
# floor no text costs the student more than -log(1e-4) = 9.2 nats, and no temperature can turn a zero into anything else.
FLOOR = 1e-4
ALPHA = 1.0  # pseudo-vote per class: (votes + ALPHA) / (all votes + ALPHA * classes)
SUM_TOLERANCE = (
    0.01  # of the sum of a row's probabilities around 1 before a note says that rows were divided by their sum
)
PREFIX = 2  # least number of characters of a token that begins a class name
PREDICTED_NAMES = ("prediction", "predicted", "predicted_label", "pred", "answer")
CONFIDENCE_NAMES = ("confidence", "score", "probability", "prob", "certainty")
ANNOTATOR_NAMES = ("annotator", "annotator_id", "rater", "rater_id", "worker", "worker_id", "coder", "judge")
VOTES = re.compile(r"(annotator|rater|worker|coder|judge|vote)_?\w+|label_?\d+")  # columns of one annotator each
VOTE_LISTS = ("annotations", "votes", "labels")
LOGPROBS_NAMES = ("top_logprobs", "logprobs")
PROBABILITY_PREFIXES = ("prob_", "probability_")
LOGIT_PREFIXES = ("logit_",)
TOKEN_NAMES = ("token", "text", "decoded_token")  # of a candidate's text, by interface
TOKEN_MARKS = str.maketrans({"Ġ": " ", "▁": " "})  # the space before a word in byte-level and SentencePiece tokens
FORMS = (
    "columns prob_CLASS or logit_CLASS, one for each class; a column top_logprobs; a label and a confidence; labels of "
    "several annotators (annotator_1, annotator_2, ..., or a column annotator); or a label alone"
)


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels by key (the text or the id of a row), m keys and C classes.

    form: in words, with the columns. keys: distinct, in the order of the file. rows: number of the (first) row of each.
    logits: (m, C), floored log-probabilities, or for label sets log-odds; NaN for a key without a usable value. lost: (m,)
    share of the probability (of the votes, of the labels) that was on answers other than the classes. unknown: such answers
    with their total, largest first. notes: what was changed or left out.
    """

    form: str
    keys: list[str]
    rows: list[int]
    logits: Floats
    lost: Floats
    unknown: dict[str, float]
    notes: list[str]


@dataclass
class Classes:
    """Finds classes by the spelling in the file: exactly, else ignoring case, spaces, hyphens and underscores."""

    names: Sequence[str]
    respelled: dict[str, str] = field(default_factory=dict)  # spelling in the file -> class
    begun: dict[str, str] = field(default_factory=dict)  # token that begins a class name -> class
    unknown: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # answers that are no class

    def __post_init__(self) -> None:
        keys = [_class_key(name) for name in self.names]
        self._exact = {name: at for at, name in enumerate(self.names)}
        self._alike = {key: at for at, key in enumerate(keys) if keys.count(key) == 1}

    def find(self, spelled: str) -> int | None:
        """Return the index of a class, or None."""
        at = self._exact.get(spelled)
        if at is None and (at := self._alike.get(_class_key(spelled))) is not None:
            self.respelled[spelled] = self.names[at]
        return at

    def find_token(self, token: str) -> int | None:
        """Return the class that a token is, or that it alone begins, or None."""
        word = token.translate(TOKEN_MARKS).strip(" \t\r\n\"'`*.,:;()[]{}")
        if not word:
            return None
        at = self._exact.get(word)
        at = self._alike.get(_class_key(word)) if at is None else at  # other case and spaces are usual in tokens
        if at is None and len(key := _class_key(word)) >= PREFIX:
            places = [place for name, place in self._alike.items() if name.startswith(key)]
            if len(places) == 1:
                at = places[0]
                self.begun[word] = self.names[at]
        return at

    def lose(self, spelled: str, share: float) -> None:
        self.unknown[spelled] += share


def _class_key(name: str) -> str:
    return " ".join(lookalike_key(name).replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class SoftRows:
    """What a form gives: p (n, C) for each row of the file, NaN where there is none, and lost (n,) as in `SoftLabels`."""

    form: str
    p: Floats
    lost: Floats
    notes: list[str] = field(default_factory=list)


def key_of(value: Any) -> str | None:
    """Return a text or an id as a key that is equal for the same value in files of other formats; None if missing."""
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Forms:
    """How the soft labels in each form of file are read; `to_logits` of probabilities (m, C).

    probabilities, logits: from a table's columns of these. candidates: from a column of candidate tokens. labels: from cells
    with labels, by the columns' names in lower case, with the keys of the rows.
    """

    probabilities: Callable[[Table, list[str], Classes], SoftRows]
    logits: Callable[[Table, list[str], Classes], SoftRows]
    candidates: Callable[[Table, str, Classes], SoftRows]
    labels: Callable[[Table, dict[str, str], Sequence[str | None], Classes], SoftRows]
    to_logits: Callable[[Floats], Floats]


def read_soft_labels(table: Table, classes: Sequence[str], key: str, label: str = "") -> SoftLabels:
    """Return the soft labels of a table, for the classes of a dataset in their order.

    key: the column by which rows are joined. label: the name of the dataset's label column. Raises UserError with file,
    row and column for a form that is not clear, and for a value that cannot be used.
    """
    labels = functools.partial(_labels, label=label)
    return read_forms(table, classes, key, Forms(_probabilities, _logits, _top_logprobs, labels, floored_log))


def read_forms(table: Table, classes: Sequence[str], key: str, forms: Forms) -> SoftLabels:
    """Return the soft labels of a table in the form that its columns' names say. Raises UserError."""
    known = Classes(classes)
    keys = [key_of(value) for value in table.columns[key]]
    lower = {name.lower(): name for name in table.columns if name != key}
    probabilities, logits = _prefixed_columns(table, key)
    if probabilities:
        found = forms.probabilities(table, probabilities, known)
    elif logits:
        found = forms.logits(table, logits, known)
    elif column := first(lower, LOGPROBS_NAMES):
        found = forms.candidates(table, column, known)
    else:
        found = forms.labels(table, lower, keys, known)
    return _by_key(table, key, keys, found, known, forms.to_logits)


def _prefixed_columns(table: Table, key: str) -> tuple[list[str], list[str]]:
    """Return the columns of probabilities and those of logits. Raises UserError if there are both."""
    probabilities, logits = (
        [name for name in table.columns if name != key and name.lower().startswith(prefixes)]
        for prefixes in (PROBABILITY_PREFIXES, LOGIT_PREFIXES)
    )
    if probabilities and logits:
        raise UserError(
            f"{table.name}: has both probabilities ({probabilities[0]!r}) and logits ({logits[0]!r}); remove the columns of "
            "one of them"
        )
    return probabilities, logits


def first(lower: dict[str, str], names: Iterable[str]) -> str:
    return next((lower[name] for name in names if name in lower), "")


def floored_log(p: Floats) -> Floats:
    """Return log(max(p, FLOOR) / sum of these over the classes), for p (n, C); rows of NaN stay NaN."""
    raised = np.maximum(p, FLOOR)
    found: Floats = np.log(raised / raised.sum(1, keepdims=True))
    return found


def _by_key(
    table: Table,
    key: str,
    keys: Sequence[str | None],
    found: SoftRows,
    known: Classes,
    to_logits: Callable[[Floats], Floats],
) -> SoftLabels:
    """Return one row per key. to_logits: of probabilities (m, C). Raises UserError if two rows of the same key differ."""
    earliest: dict[str, int] = {}
    again = 0
    for at, one in enumerate(keys):
        if one is None:
            continue
        if (before := earliest.setdefault(one, at)) != at:
            again += 1
            if not np.array_equal(found.p[before], found.p[at], equal_nan=True):
                raise UserError(
                    f"{table.name}, {rows_in(table, [before + 1, at + 1])}: the same {key!r} ({one!r:.60}) has different "
                    f"soft labels. Keep one row of each{_LONG_HINT}"
                )
    notes = [*found.notes, *_class_notes(table, known)]
    if lacking := keys.count(None):
        notes.append(f"{plural(lacking, 'row')} without a value in {key!r} {verb(lacking, 'is', 'are')} not used")
    if again:
        notes.append(
            f"{plural(again, 'row')} {verb(again, 'repeats', 'repeat')} the {key!r} of an earlier one, with equal values"
        )
    places = list(earliest.values())
    unknown = dict(sorted(known.unknown.items(), key=lambda one: -one[1]))
    return SoftLabels(
        found.form,
        list(earliest),
        [row + 1 for row in places],
        to_logits(found.p[places]),
        found.lost[places],
        unknown,
        notes,
    )


_LONG_HINT = ", or, if several annotators labelled it, add a column 'annotator' that names them"


def _class_notes(table: Table, known: Classes) -> list[str]:
    notes = []
    for spellings, how in ((known.respelled, "that differ only in spelling"), (known.begun, "that they begin")):
        if spellings:
            shown = [f"{word!r:.60} as {name!r:.60}" for word, name in list(spellings.items())[:5]]
            more = f" and {len(spellings) - 5:,} more" if len(spellings) > 5 else ""
            what = "labels" if spellings is known.respelled else "tokens"
            notes.append(f"{what} were matched to classes {how}: {', '.join(shown)}{more}")
    return notes


def _number(table: Table, row: int, column: str, value: Any) -> float:
    """Return a cell as a finite number; NaN if it is missing. row: from 0."""
    if is_missing(value):
        return math.nan
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{table.name}, {table.row(row + 1)}: {column!r} is {value!r:.60}; expected a finite number")
    return number


def _numbers(table: Table, column: str) -> Floats:
    return np.array([_number(table, row, column, value) for row, value in enumerate(table.columns[column])])


def class_columns(table: Table, columns: Sequence[str], known: Classes) -> tuple[Floats, list[int | None]]:
    """Return the values (n, K) of one column per class, and the class of each column; None for other answers.

    A row has all values or none. Raises UserError for a class without a column, or with two.
    """
    places = [known.find(clean_label(name.split("_", 1)[1])) for name in columns]
    for at, name in enumerate(known.names):
        if places.count(at) > 1:
            several = [column for column, place in zip(columns, places, strict=True) if place == at]
            raise UserError(f"{table.name}: the columns {', '.join(map(repr, several))} are all of class {name!r}")
        if at not in places:
            prefix = columns[0].split("_", 1)[0]
            raise UserError(
                f"{table.name}: no column {prefix}_{name} for the class {name!r}.{nearest(f'{prefix}_{name}', columns)} "
                f"Columns: {', '.join(map(repr, columns))}"
            )
    values = np.stack([_numbers(table, column) for column in columns], 1)
    lacking = np.isnan(values)
    for row in np.flatnonzero(lacking.any(1) & ~lacking.all(1))[:1].tolist():
        column = columns[int(lacking[row].argmax())]
        raise UserError(
            f"{table.name}, {table.row(row + 1)}: {column!r} is empty, but other classes of this row have a value. Fill it "
            "in, or leave the whole row empty"
        )
    return values, places


def _without_others(
    columns: Sequence[str], p: Floats, places: Sequence[int | None], known: Classes
) -> tuple[Floats, Floats]:
    """Drop columns that are no class from p (n, K): returns p (n, C), and the lost share (n,) of each row."""
    others = [column for column, place in enumerate(places) if place is None]
    for column in others:
        known.lose(columns[column], float(np.nansum(p[:, column])))
    lost = p[:, others].sum(1)
    kept = p[:, [places.index(at) for at in range(len(known.names))]]
    return _renormalised(kept, lost), np.nan_to_num(lost)


def _renormalised(p: Floats, lost: Floats) -> Floats:
    """Divide p (n, C) by its sum; NaN for rows of which everything is lost."""
    total = p.sum(1, keepdims=True)
    usable = (total > 0) & (lost[:, None] < 1)
    return np.divide(p, total, out=np.full_like(p, np.nan), where=usable)


def _probabilities(table: Table, columns: list[str], known: Classes) -> SoftRows:
    values, places = class_columns(table, columns, known)
    if (low := values < 0).any():
        row, column = np.argwhere(low)[0].tolist()
        raise UserError(
            f"{table.name}, {table.row(row + 1)}: the probability {columns[column]!r} is {values[row, column]:g}, below 0. "
            "Name columns of logits logit_CLASS"
        )
    totals = values.sum(1)
    if (empty := np.flatnonzero(totals == 0)).size:
        raise UserError(
            f"{table.name}, {rows_in(table, (empty + 1).tolist())}: all probabilities are 0. Leave a row without soft label empty"
        )
    notes = []
    if (odd := np.abs(totals - 1) > SUM_TOLERANCE).any():
        count = int(odd.sum())
        between = f"{totals[odd].min():.3g} to {totals[odd].max():.3g}"
        notes.append(
            f"the probabilities of {plural(count, 'row')} do not sum to 1 ({between}); each row is divided by its sum"
        )
    p, lost = _without_others(columns, values / totals[:, None], places, known)
    return SoftRows(f"probabilities ({shown_columns(columns)})", p, lost, notes)


def _logits(table: Table, columns: list[str], known: Classes) -> SoftRows:
    values, places = class_columns(table, columns, known)
    powers = np.exp(values - values.max(1, keepdims=True))
    p, lost = _without_others(columns, powers / powers.sum(1, keepdims=True), places, known)
    return SoftRows(f"logits ({shown_columns(columns)})", p, lost)


def shown_columns(columns: Sequence[str], most: int = 3) -> str:
    return ", ".join(columns[:most]) + (", ..." if len(columns) > most else "")


def _top_logprobs(table: Table, column: str, known: Classes) -> SoftRows:
    """Sum exp(logprob) over the candidates that match each class; candidates that match none, and unlisted ones, are lost."""
    p = np.full((len(table), len(known.names)), np.nan)
    lost = np.zeros(len(table))
    for row, value in enumerate(table.columns[column]):
        where = f"{table.name}, {table.row(row + 1)}: {column!r}"
        candidates = _candidates(value, where)
        if candidates is None:
            continue
        own = np.zeros(len(known.names))
        for token, share in candidates:
            at = known.find_token(token)
            if at is None:
                known.lose(token, share)
            else:
                own[at] += share
        lost[row] = max(1 - own.sum(), 0.0)
        if own.sum() > 0:
            p[row] = own / own.sum()
        else:
            lost[row] = 1.0
    return SoftRows(f"candidate tokens of a language model ({column})", p, lost)


def _candidates(value: Any, where: str) -> list[tuple[str, float]] | None:
    """Return the candidates of the first answer token with their probabilities; None for a row without any.

    Understands the layouts of OpenAI's and compatible interfaces: a list of {"token", "logprob"}, the object `logprobs`
    with `content`, {"token": logprob}, and vLLM's {id: {"decoded_token", "logprob"}}, each also as a JSON string.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(f"{where} is not valid JSON ({error}): {value!r:.60}") from None
    pairs = [] if is_missing(value) else _token_pairs(value)
    if pairs is None:
        raise UserError(
            f'{where} is {value!r:.80}; expected candidates of one token, as [{{"token": "yes", "logprob": -0.1}}, ...] or '
            '{"yes": -0.1, ...}'
        )
    for token, logprob in pairs:
        if math.isnan(logprob) or logprob > 1e-6:
            raise UserError(f"{where}: the log-probability of {token!r:.40} is {logprob:g}; expected at most 0")
    total = sum(math.exp(logprob) for _, logprob in pairs)
    if total > 1 + SUM_TOLERANCE:
        raise UserError(
            f"{where}: the probabilities sum to {total:.3g}; expected the candidates of one token, each listed once"
        )
    return [(token, math.exp(logprob)) for token, logprob in pairs] or None


def _token_pairs(value: Any) -> list[tuple[str, float]] | None:
    """Return pairs of token and log-probability from any of the layouts; None if it is none of them."""
    if isinstance(value, list | tuple):
        if not value:
            return []
        named = [_token_of(one) for one in value]
        if all(one is not None for one in named) and not any(_alternatives(one) for one in value):
            return [one for one in named if one is not None]
        return _token_pairs(value[0])  # one entry per token of the answer: the first one decides
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("content", value.get("top_logprobs")), list | dict):
        return _token_pairs(inner)
    if (single := _token_of(value)) is not None:
        return [single]
    pairs = []
    for token, one in value.items():
        inner = one if not isinstance(one, dict) else one.get("logprob")
        text = one.get("decoded_token", token) if isinstance(one, dict) else token
        if isinstance(inner, bool) or not isinstance(inner, int | float):
            return None
        pairs.append((str(text), float(inner)))
    return pairs


def _alternatives(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.get("top_logprobs"))


def _token_of(value: Any) -> tuple[str, float] | None:
    """Return token and log-probability of {"token": ..., "logprob": ...}; None for anything else."""
    if not isinstance(value, dict) or not isinstance(number := value.get("logprob"), int | float):
        return None
    token = next((value[name] for name in TOKEN_NAMES if isinstance(value.get(name), str)), None)
    return None if token is None else (token, float(number))


def _labels(table: Table, lower: dict[str, str], keys: Sequence[str | None], known: Classes, label: str) -> SoftRows:
    """Return the soft labels of a form in which cells hold labels."""
    if votes := _vote_columns(table, lower, known):
        rows = [
            [one for column in votes for one in _labels_in(table, column, table.columns[column][row])]
            for row in range(len(table))
        ]
        return _shares(f"votes of several annotators ({shown_columns(votes)})", rows, known)
    column = first(lower, [*PREDICTED_NAMES, label.lower(), *LABEL_NAMES])
    if not column:
        named = [name for name in table.columns if known.find(name) is not None]
        rename = (
            f" If {named[0]!r} holds the probabilities of this class, rename it to 'prob_{named[0]}'" if named else ""
        )
        raise UserError(
            f"{table.name}: no soft labels found. Expected {FORMS}. Columns: {', '.join(map(repr, table.columns))}."
            + rename
            + (", and so on" if len(named) > 1 else "")
        )
    named_column(table, column, "--label-column")
    values = [_label_text(table, column, row, value) for row, value in enumerate(table.columns[column])]
    if annotator := first(lower, ANNOTATOR_NAMES):
        return _long_votes(table, column, annotator, keys, values, known)
    confidence = first(lower, CONFIDENCE_NAMES) or next(
        (name for low, name in lower.items() if low.endswith("confidence")), ""
    )
    return _labels_with_confidence(table, column, values, confidence, known)


def _label_text(table: Table, column: str, row: int, value: Any) -> str | None:
    found = _labels_in(table, column, value)
    if len(found) > 1:
        raise UserError(f"{table.name}, {table.row(row + 1)}: {column!r} is {value!r:.60}; expected one label")
    return found[0] if found else None


def _labels_in(table: Table, column: str, value: Any) -> list[str]:
    """Return the labels in a cell: one, those of a list, or none."""
    if isinstance(value, list | tuple):
        return [text for one in value for text in _labels_in(table, column, one)]
    names = table.categories.get(column)
    if names and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        value = names[value]
    if isinstance(value, bool):
        value = str(value).lower()
    key = key_of(value)
    return [] if key is None else [clean_label(key)]


def _vote_columns(table: Table, lower: dict[str, str], known: Classes) -> list[str]:
    """Return the columns with labels of several annotators: at least two whose values include classes, or one of lists."""
    lists = first(lower, VOTE_LISTS)
    if lists and any(isinstance(value, list | tuple) and len(value) > 1 for value in table.columns[lists]):
        return [lists]
    plain = Classes(known.names)  # a trial: its notes are dropped

    def holds_classes(column: str) -> bool:
        found = [text for value in table.columns[column] for text in _labels_in(table, column, value)]
        return bool(found) and sum(plain.find(text) is not None for text in found) >= len(found) / 2

    found = [name for name in columns_of_one_annotator(lower) if holds_classes(name)]
    return found if len(found) > 1 else []


def columns_of_one_annotator(lower: dict[str, str]) -> list[str]:
    """Return the columns whose names are those of single annotators, such as `annotator_1`."""
    named = [name for low, name in lower.items() if VOTES.fullmatch(low) and low not in (*ANNOTATOR_NAMES, *VOTE_LISTS)]
    return [name for name in named if not name.lower().endswith("confidence")]


def _shares(form: str, votes: Sequence[Sequence[str]], known: Classes) -> SoftRows:
    """Return (n_c + ALPHA) / (n + ALPHA C) for the votes of each row; votes for no class are lost."""
    p = np.full((len(votes), len(known.names)), np.nan)
    lost = np.zeros(len(votes))
    for row, own in enumerate(votes):
        places = [known.find(one) for one in own]
        for one, place in zip(own, places, strict=True):
            if place is None:
                known.lose(one, 1.0)
        counts = np.bincount([at for at in places if at is not None], minlength=len(known.names))
        if own:
            lost[row] = places.count(None) / len(own)
        if counts.sum():
            p[row] = (counts + ALPHA) / (counts.sum() + ALPHA * len(known.names))
    each = [len(own) for own in votes if own]
    between = f"{min(each)} to {max(each)} votes per text" if each else "no votes"
    return SoftRows(f"{form}; {between}, smoothed by {ALPHA:g} per class", p, lost)


def _long_votes(
    table: Table,
    column: str,
    annotator: str,
    keys: Sequence[str | None],
    values: Sequence[str | None],
    known: Classes,
) -> SoftRows:
    """Return the shares of the votes for each key, the same in all of its rows."""
    places = rows_of_annotators(table, annotator, keys, values)
    votes = [[text for at in rows if (text := values[at]) is not None] for rows in places.values()]
    found = _shares(f"votes of several annotators ({column} by {annotator})", votes, known)
    return in_all_rows(found, places, keys)


def rows_of_annotators(
    table: Table, annotator: str, keys: Sequence[str | None], values: Sequence[Any]
) -> dict[str, list[int]]:
    """Return the rows (from 0) with the votes for each key. An annotator counts once per key; None is no vote."""
    votes: dict[str, dict[str, int]] = defaultdict(dict)  # key -> annotator -> row
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        who = key_of(table.columns[annotator][row])
        if key is None or value is None:
            continue
        if who is None:
            raise UserError(f"{table.name}, {table.row(row + 1)}: {annotator!r} is empty, but the row has a label")
        before = votes[key].setdefault(who, row)
        if values[before] != value:
            raise UserError(
                f"{table.name}, {rows_in(table, [before + 1, row + 1])}: {annotator} {who!r:.40} gave the same text two "
                f"labels, {values[before]!r:.40} and {value!r:.40}. Keep one"
            )
    return {key: list(rows.values()) for key, rows in votes.items()}


def in_all_rows(found: SoftRows, order: Iterable[str], keys: Sequence[str | None]) -> SoftRows:
    """Return soft labels of keys, in this order, as those of every row of the file; NaN for a row of another key."""
    place = {key: at for at, key in enumerate(order)}
    p = np.full((len(keys), found.p.shape[1]), np.nan)
    lost = np.zeros(len(keys))
    for row, key in enumerate(keys):
        if key in place:
            p[row], lost[row] = found.p[place[key]], found.lost[place[key]]
    return SoftRows(found.form, p, lost, found.notes)


def _labels_with_confidence(
    table: Table, column: str, values: Sequence[str | None], confidence: str, known: Classes
) -> SoftRows:
    """Return c for the label and (1 - c) / (C - 1) for each other class; c is 1 without a column of confidences."""
    classes = len(known.names)
    p = np.full((len(values), classes), np.nan)
    lost = np.zeros(len(values))
    sure = _numbers(table, confidence) if confidence else np.ones(len(values))
    if (bad := np.flatnonzero((sure < 0) | (sure > 1))).size:
        row = int(bad[0])
        raise UserError(
            f"{table.name}, {table.row(row + 1)}: {confidence!r} is {sure[row]:g}; expected a probability from 0 to 1 "
            "(divide percentages by 100). If it is no confidence, remove the column"
        )
    doubtful: list[int] = []
    for row, (value, c) in enumerate(zip(values, sure.tolist(), strict=True)):
        if value is None:
            continue
        at = known.find(value)
        if at is None:
            known.lose(value, 1.0)
            lost[row] = 1.0
        elif math.isnan(c):
            doubtful.append(row + 1)
        else:
            p[row] = (1 - c) / (classes - 1)
            p[row, at] = c
    notes = []
    if doubtful:
        have = verb(len(doubtful), "has", "have")
        notes.append(f"{row_list(doubtful)} {have} a label without a {confidence!r} and {have} no soft label")
    form = f"labels with a confidence ({column}, {confidence})" if confidence else f"labels alone ({column})"
    return SoftRows(form, p, lost, notes)
