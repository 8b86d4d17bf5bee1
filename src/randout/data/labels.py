"""Label columns: which values are classes, which spellings are the same class, and the order of the classes."""

from __future__ import annotations

import json
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from randout.core.errors import UserError, nearest
from randout.core.wording import plural, verb

from .columns import is_missing, naming, rows_in
from .tables import Table

INTEGER = re.compile(r"0|-?[1-9][0-9]*")
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"([+-]?\d+)\.0*")
MAX_LISTED = 20  # maximum class names listed in a message
MAX_PASTED = 50  # maximum class names in a suggested command
INVISIBLE = dict.fromkeys(  # soft hyphen, zero width, byte order mark, directions, fillers
    map(
        ord,
        "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2060\u2061\u2062\u2063\u2064\u3164\ufeff\uffa0",
    )
) | dict.fromkeys(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0x85)]
)
JOINERS = "\u200c\u200d"  # used within words and emoji; invisible at either end
LATIN_LOOKALIKES = str.maketrans(  # letters and marks of other scripts that look like Latin ones
    "АВЕЅІЈКМНОРСТУХаеоѕіјрсухһԁ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρι" "‐‑‒–—−‘’‛′“”„″",
    "ABESIJKMHOPCTYXaeosijpcyxhd" "ABEZHIKMNOPTYXovpi" "------" "''''" '""""',
)  # fmt: skip


class UnknownLabel(UserError):
    """A label is not among the known classes."""


def clean_label(label: str) -> str:
    """Normalize a label to its class name: NFC, plain spaces, no invisible characters, stripped."""
    if label.isascii() and label.isprintable():
        return label.strip()
    label = unicodedata.normalize("NFC", label.translate(INVISIBLE))
    label = "".join(" " if unicodedata.category(c) == "Zs" else c for c in label)
    return _stripped(label)


def _stripped(label: str) -> str:
    before = None
    while label != before:
        before, label = label, label.strip().strip(JOINERS)
    return label


def lookalike_key(label: str) -> str:
    """Return a key that is equal for labels that look alike, or differ only in case or a trailing ".0"."""
    label = clean_label(unicodedata.normalize("NFKC", label)).translate(dict.fromkeys(map(ord, JOINERS)))
    label = " ".join(label.translate(LATIN_LOOKALIKES).casefold().split())
    return whole[1] if (whole := WHOLE.fullmatch(label)) else label


def listed(labels: Iterable[str], limit: int = MAX_LISTED) -> str:
    """List labels in quotes: `"'a', 'b'"`, at most `limit`, followed by the number of further ones."""
    names = list(labels)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(f"{name!r:.60}" for name in names[:limit]) + more


def labels_option(labels: Collection[str]) -> str:
    """Return the command-line option that declares these labels as classes, quoted for the shell."""
    return f"--set {shlex.quote('data.labels=' + json.dumps(sorted(labels, key=_number), ensure_ascii=False))}"


def _number(label: str) -> tuple[float, str]:
    return (float(label) if DECIMAL.fullmatch(label) else math.inf, label)


def labels_of(
    table: Table, column: str, known: Collection[str] | None = None, notes: list[str] | None = None
) -> list[str]:
    """Return a label column as cleaned strings: integers as digits, booleans as "true" and "false".

    known: the classes, if already determined; decimal numbers and mixed types are then accepted. Appends changes to
    `notes`. Raises UserError for a missing label, several labels in one row, mixed types, or decimal numbers.
    """
    notes = [] if notes is None else notes
    values = _values(table, column, known, notes)
    values = _unwrap_lists(table, column, values, notes)
    missing = [row for row, value in enumerate(values, 1) if is_missing(value)]
    if known is None:
        _check_kinds(table, column, values)
    if known is None and any(isinstance(value, float | Decimal) and not is_missing(value) for value in values):
        found = [_label(value) for value in values if not is_missing(value)]
        row = next(row for row, value in enumerate(values, 1) if not is_missing(value))
        raise _decimal_error(table, column, row, found)
    if missing:
        have = verb(len(missing), "has", "have")
        raise UserError(
            f"{table.name}: {len(missing):,} of {plural(len(values), 'row')} {have} no label in column {column!r}: "
            f"{rows_in(table, missing)}. Label them, or move them to a separate file and name it with --unlabeled."
            f"{_sets_hint([_label(value) for value in values if not is_missing(value)])}"
        )
    spelt = {(type(value), value) for value in values}
    cache = {key: clean_label(_label(key[1])) for key in spelt}
    labels = [cache[type(value), value] for value in values]
    empty = [row for row, label in enumerate(labels, 1) if not label]
    if empty:
        raise UserError(
            f"{table.name}, {rows_in(table, empty)}: the label (column {column!r}) consists of invisible characters. "
            "Label these rows, or remove them."
        )
    _note_cleaned(table, column, values, cache, notes)
    if known is None and all(DECIMAL.fullmatch(label) for label in cache.values()):
        odd = {label for label in cache.values() if not label.lstrip("+-").isdigit()}
        row = next((row for row, label in enumerate(labels, 1) if label in odd), 0)
        if row:
            raise _decimal_error(table, column, row, [labels[row - 1], *labels])
    return labels


def _values(table: Table, column: str, known: Collection[str] | None, notes: list[str]) -> Sequence[Any]:
    """Return the values of a column, with class numbers replaced by the names that the file declares (-1: no label)."""
    values, names = table.columns[column], table.categories.get(column)
    if not names:
        return values
    codes = {value for value in values if isinstance(value, int) and not isinstance(value, bool) and value != -1}
    beyond = sorted(code for code in codes if not 0 <= code < len(names))
    if beyond:
        row = list(values).index(beyond[0]) + 1
        raise UserError(
            f"{table.name}, {table.row(row)}: the label (column {column!r}) is {beyond[0]}, but the file declares the classes "
            f"0 to {len(names) - 1} ({listed(names)}). Correct the label, or use the class names as labels."
        )
    if known is not None and codes:
        known_keys = {lookalike_key(str(label)) for label in known}
        by_name = all(lookalike_key(names[code]) in known_keys for code in codes)
        if not by_name and all(str(code) in known_keys for code in codes):
            notes.append(f"{table.name}: labels are matched by number; the file names them {listed(names)}")
            return values
    return [names[value] if isinstance(value, int) and value != -1 else None for value in values]


def _unwrap_lists(table: Table, column: str, values: Sequence[Any], notes: list[str]) -> Sequence[Any]:
    """Replace lists of one label by that label. Raises UserError for a list of several labels, or an object."""
    if not any(isinstance(value, list | tuple | dict | set | bytes) for value in values):
        return values
    found: list[Any] = []
    for row, value in enumerate(values, 1):
        if isinstance(value, list | tuple | set):
            if len(value) > 1:
                raise _multi_label_error(table, column, row, value)
            found.append(next(iter(value), None))
        else:
            found.append(value)
        if isinstance(found[-1], list | tuple | dict | set | bytes):
            what = "bytes" if isinstance(found[-1], bytes) else "an object"
            raise UserError(
                f"{table.name}, {table.row(row)}: the label (column {column!r}) is {what}, {found[-1]!r:.60}; expected a string "
                f"or an integer. Name another column with {naming('label')}, or write the labels as strings."
            )
    notes.append(f"{table.name}: column {column!r} contains lists of one label each; the label in each list is used")
    return found


def _check_kinds(table: Table, column: str, values: Sequence[Any]) -> None:
    """Raise UserError if a column mixes types, as it would be unclear whether 1, "1" and true are the same class."""
    first: dict[str, int] = {}
    kinds = {bool: "true or false", str: "strings", int: "numbers", float: "numbers", Decimal: "numbers"}
    if len(set(map(type, values))) == 1:
        return
    for row, value in enumerate(values, 1):
        if not is_missing(value):
            first.setdefault(kinds.get(type(value), f"values of type {type(value).__name__}"), row)
    if len(first) > 1:
        found = " and ".join(f"{kind} (row {row}: {values[row - 1]!r:.40})" for kind, row in first.items())
        raise UserError(
            f"{table.name}: the labels (column {column!r}) are of different types: {found}. "
            "Use one type for all of them, for example strings."
        )


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _note_cleaned(
    table: Table, column: str, values: Sequence[Any], cache: Mapping[tuple[type, Any], str], notes: list[str]
) -> None:
    """Add a note on labels that were changed beyond surrounding white space."""
    changed = {key: label for key, label in cache.items() if _label(key[1]).strip() != label}
    if changed:
        counts = Counter(value for value in values if (type(value), value) in changed)
        shown = [f"{key[1]!a:.60} as {label!r:.60} ({plural(counts[key[1]], 'row')})" for key, label in changed.items()]
        more = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
        merged = len({_label(key[1]).strip() for key in cache}) > len(set(cache.values()))
        notes.append(
            f"{table.name}: invisible characters were removed from labels, and Unicode was normalized (NFC): "
            f"{', '.join(shown[:5])}{more}{'; spellings that look the same are the same class' if merged else ''}"
        )


def _decimal_error(table: Table, column: str, row: int, labels: Sequence[str]) -> UserError:
    distinct = set(labels)
    if all(WHOLE.fullmatch(label) or label.lstrip("+-").isdigit() for label in distinct):
        what = f"whole numbers written with a decimal point; write them as integers ({labels[0].split('.')[0]}) or as names"
    else:
        what = (
            "decimal numbers, which are regression targets and not classes. Bin them into classes first, or name the "
            f"column of classes with {naming('label')}"
        )
    insist = (
        f" If each value is a class, list them: {labels_option(distinct)}" if 1 < len(distinct) <= MAX_LISTED else ""
    )
    return UserError(
        f"{table.name}, {table.row(row)}: the label (column {column!r}) is {labels[0]}. These are {what}.{insist}"
    )


def _multi_label_error(
    table: Table, column: str, row: int, value: Any, separator: str = "", labels: Collection[str] = ()
) -> UserError:
    joined = f" joined by {separator!r}" if separator else ""
    if not separator:
        listing = "or join the labels of each row into one string, so that each combination is a class."
    elif len(labels) <= MAX_PASTED:
        listing = f"or, if each of these is a class of its own, list them: {labels_option(labels)}"
    else:
        listing = f"or, if each of these is a class of its own, list all {len(labels):,} of them in data.labels."
    return UserError(
        f"{table.name}, {table.row(row)}: the label (column {column!r}) is {value!r:.60}: several labels for one text{joined} "
        "(multi-label data), but a row must have one label. If a text may have several, set data.multi_label (--set "
        "multi_label=true). Otherwise "
        f"keep one label per row, train one classifier per label, {listing}"
    )


def _sets_in(labels: Sequence[str]) -> Iterator[tuple[str, Collection[str]]]:
    """Yield each separator by which labels of several rows are joined, with these labels."""
    counts = Counter(labels)
    for separator in "|;,":
        several = _joined_labels(counts, separator)
        if sum(counts[label] for label in several) >= max(2, 0.01 * len(labels)):
            yield separator, several


def _sets_hint(labels: Sequence[str]) -> str:
    """Return what else rows without a label may be, if other rows have several joined labels; else empty."""
    for _, several in _sets_in(labels):
        joined = next(label for label in labels if label in several)
        return (
            f" Or, if labels such as {joined!r:.60} are several, of which a row may have none: --set multi_label=true"
        )
    return ""


def check_classes(table: Table, column: str, labels: Sequence[str], notes: list[str] | None = None) -> None:
    """Raise UserError for joined labels (multi-label data), a single class, or nearly as many labels as rows."""
    counts = Counter(labels)
    for separator, several in _sets_in(labels):
        row = next(row for row, label in enumerate(labels, 1) if label in several)
        raise _multi_label_error(table, column, row, labels[row - 1], separator, counts)
    for separator in "/+&":
        several = _joined_labels(counts, separator, alone=True)
        if several and notes is not None:
            notes.append(
                f"{table.name}: {listed(sorted(several), 5)} look like several labels joined by {separator!r}; each "
                "combination is treated as a class"
            )
    if len(counts) == 1:
        raise UserError(
            f"{table.name}: all {len(labels):,} rows have the same label {labels[0]!r:.60} (column {column!r}). "
            "A classifier needs at least two classes."
        )
    if len(counts) > max(2, len(labels) / 2):
        raise UserError(
            f"{table.name}: column {column!r} has {len(counts):,} different labels in {len(labels):,} rows ({table.row(1)}: "
            f"{labels[0]!r:.60}). The column looks like ids or free text. "
            f"Name the column of classes with {naming('label')}."
        )


def _joined_labels(labels: Collection[str], separator: str, alone: bool = False) -> set[str]:
    """Return labels that look like several joined labels: each part is also a label, or occurs in several joined ones.

    alone: count only parts that are also labels.
    """
    parts = {label: [part.strip(" []'\"") for part in label.split(separator)] for label in labels}
    joined = {label: found for label, found in parts.items() if len(found) > 1 and all(found)}
    used = Counter(part for label in joined for part in set(parts[label]))
    single = {label.strip(" []'\"") for label in labels if label not in joined}
    return {
        label
        for label, found in joined.items()
        if all(part in single or (not alone and used[part] > 1) for part in found)
    }


def label_order(found: Sequence[str], given: Sequence[str] | None) -> dict[int, str]:
    """Return id2label: in the given order, else integers in numeric and other labels in code point order."""
    distinct = set(found)
    if given is not None:
        order = list(dict.fromkeys(given))
    elif all(INTEGER.fullmatch(label) for label in distinct):
        order = sorted(distinct, key=int)
    else:
        order = sorted(distinct)
    return dict(enumerate(order))


def matched(
    table: Table,
    column: str,
    labels: Sequence[str],
    names: Iterable[str] | Mapping[str, str],
    notes: list[str],
    strict: bool = True,
) -> list[str]:
    """Match labels to class names: exactly, else by `lookalike_key` if that is unambiguous.

    names: class names, or a mapping from values to names. strict: whether to raise UserError for an unknown label, which is
    otherwise kept unchanged. Appends to `notes` which labels were matched by `lookalike_key`.
    """
    known = (
        {str(k): str(v) for k, v in names.items()} if isinstance(names, Mapping) else {str(n): str(n) for n in names}
    )
    known |= {name: name for name in known.values() if name not in known}
    alike: dict[str, set[str]] = {}
    for value, name in known.items():
        alike.setdefault(lookalike_key(value), set()).add(name)
    counts = Counter(labels)
    found: dict[str, str] = {}
    by_key: list[str] = []
    for label in counts:
        candidates = alike.get(lookalike_key(label), set())
        if label in known:
            found[label] = known[label]
        elif len(candidates) == 1:
            found[label] = next(iter(candidates))
            by_key.append(label)
        elif not strict:
            found[label] = label
    if by_key:
        shown = [f"{label!a:.60} as {found[label]!r:.60} ({plural(counts[label], 'row')})" for label in by_key[:5]]
        more = f" and {len(by_key) - 5:,} more" if len(by_key) > 5 else ""
        notes.append(
            f"{table.name}: labels were matched to classes that differ only in case, Unicode form or a final .0: "
            f"{', '.join(shown)}{more}"
        )
    unknown = [label for label in counts if label not in found]
    if unknown:
        raise _unknown_label(table, column, labels, unknown, known, alike)
    return [found[label] for label in labels]


def _unknown_label(
    table: Table,
    column: str,
    labels: Sequence[str],
    unknown: Sequence[str],
    known: Mapping[str, str],
    alike: Mapping[str, set[str]],
) -> UnknownLabel:
    """Return the error for unknown labels: the first with its row, then the others."""
    row, first = next((row, label) for row, label in enumerate(labels, 1) if label in set(unknown))
    several = sorted(alike.get(lookalike_key(first), ()))
    hint = f" It could be {' or '.join(map(repr, several))}." if several else nearest(first, known)
    others = f" {len(unknown) - 1:,} more are unknown: {listed(unknown[1:])}." if len(unknown) > 1 else ""
    shown = ", ".join(repr(name) for name in list(known)[:MAX_LISTED]) + (", ..." if len(known) > MAX_LISTED else "")
    return UnknownLabel(
        f"{table.name}, {table.row(row)}: unknown label {first!r:.60} (column {column!r}).{hint}{others} Known: {shown}."
    )


MERGE = "Write them alike in the table, or map them to one name under `labels` of a TOML file that describes the data"


def class_name_notes(names: Sequence[str]) -> list[str]:
    """Return notes on class names that look alike, differ only in case, or look like a missing value."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(lookalike_key(name), []).append(name)
    cased, alike = [], []
    for same in (group for group in groups.values() if len(group) > 1):
        if len({name.casefold() for name in same}) == 1:
            cased.append(", ".join(map(repr, same)))
        else:
            shown = f"{' and '.join(map(repr, same))} look alike ({' and '.join(map(ascii, same))})"
            alike.append(f"classes {shown}: are they the same class? {MERGE}")
    if cased:
        alike.insert(0, f"classes {'; '.join(cased)} differ only in case: are they the same class? {MERGE}")
    blank = [name for name in names if name.casefold() in ("na", "nan", "null", "n/a", "#n/a", "<na>")]
    return alike + [f"class {name!r} looks like a missing label: is it really a class?" for name in blank]
