"""Predicts the labels of texts with an exported classifier. Needs numpy, onnxruntime and tokenizers; never PyTorch.

    python predict.py "A text to classify." "Another one."
    python predict.py --file texts.txt
    python predict.py --file table.csv --text-column text
    python predict.py < texts.txt
    python predict.py --abstain accuracy=0.95 "A text to classify."

Each line of a file or of standard input is one text; a .csv or .tsv file is read as a table, whose text column is that of the
training unless `--text-column` names another. Prints label, probability and text, separated by tabs; with --json, one
object per text with the probabilities of all classes. With --abstain, a text whose confidence is too low gets no label, and
best guess and confidence are printed after the probability; `abstention.json` says which confidence a target needs. A
model of pairs of texts, or one that reads fields before the text, needs a table with these columns.

A model of label sets (multi-label) gives each text the labels whose probability is above their threshold in `export.json`:
joined by "; ", a list with --json, and possibly none. The printed probability is that of the whole set, with labels taken as
independent; each label's own probability is the sigmoid of its logit. With --abstain, accuracy and confidence are those of
whole sets; a text whose set is left out has no probability (with --json, label null), unlike one whose set is empty. From
Python:

    from predict import Classifier

    model = Classifier("FOLDER")
    model.predict(["A text to classify."])        # labels, or lists of labels; with abstain="accuracy=0.95", None if not sure
    model.probabilities(["A text to classify."])  # (texts, classes), columns by model.labels
    model.predict([("A text.", "Its second text.")])  # a model of pairs
    model.predict(model.inputs([{"text": "A text.", "position": "3/8"}]))  # rows with the columns of the training

`export.json` describes the folder: labels, files, and how a text is read. A text that is longer than the model reads is cut
as in training.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
RECORD, ABSTENTION = "export.json", "abstention.json"
LEAST_ROWS = 10  # accepted validation rows without which an accuracy says nothing
TOKENS = 512  # tokens of a batch, padding included; its activations stay in a CPU's cache
SLOWER = [
    "SkipLayerNormFusion",
    "BiasGeluFusion",
]  # fused CPU kernels of onnxruntime that take twice the time of their parts
TABLES = (".csv", ".tsv")
BLOCK = 1000  # texts that are tokenized, or scored by a bag of words, at once
PADDING, UNKNOWN, FIRST = 0, 1, 2  # word ids of a neural baseline; FIRST: the first word of the vocabulary
WORD = re.compile(r"\b\w\w+\b")
MIN_PROBABILITY = 1e-6  # lower bound of a forest's probabilities

SEPARATOR = " ||| "  # between the texts of a pair where they are read as words
JOINED = "; "  # between the labels of a set

Tokens = tuple[list[int], list[int]]  # token ids and token types of a text
Text = str | tuple[str, str]  # a pair for a model of pairs; the first text begins with the fields of its row
Label = str | list[str]  # a list for a model of label sets
Progress = Callable[[int], None]  # called with the number of texts just done
Logits = Callable[[Sequence[Text], Progress], np.ndarray]


class Classifier:
    """An exported classifier in memory.

    thresholds: (C,) of the probabilities of its labels, if it predicts label sets (multi-label); None: one label per text.

    folder: the export. form: "float32" or "int8"; empty: the form that the export names as its default. threads: of
    onnxruntime; 0: as `OMP_NUM_THREADS` says, or one per core. int8 computes one text at a time, because it scales
    activations to the largest value of a batch: a text's scores would depend on the other texts. Raises ValueError for a
    folder that is not an export, or for a form that it does not have.
    """

    def __init__(self, folder: str | Path = ".", form: str = "", threads: int = 0) -> None:
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        self.labels: list[str] = self.record["labels"]
        self.form: str = form or self.record["default"]
        if self.form not in self.record["files"]:
            raise ValueError(
                f"{folder}: no form {self.form!r} in this export; it has {', '.join(self.record['files'])}"
            )
        self.fields: dict[str, Any] = self.record.get("fields") or {}
        self.thresholds = _thresholds(self.record, self.labels, folder)
        self.texts_cut = 0  # texts cut so far, because they were too long
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        path = self.folder / self.record["files"][self.form]
        readers = {"tokens": self._tokens, "words": self._words, "bag": self._bag}
        self._logits: Logits = readers[self.record["reader"]["kind"]](path, self.record["reader"])

    def inputs(self, rows: Sequence[Mapping[str, Any]], text_column: str = "", text_pair: str = "") -> list[Text]:
        """Return the input of each row of a table; "" if a text is missing. The columns are those of the training.

        text_column, text_pair: other names of the columns of texts. Raises ValueError if a column is missing.
        """
        text = text_column or self.fields.get("text") or self.record.get("columns", {}).get("text", "text")
        pair, fields = self.fields.get("pair") and (text_pair or self.fields["pair"]), self.fields.get("prefix", ())
        texts = [text, pair] if pair else [text]
        found: list[Text] = []
        for number, row in enumerate(rows, 1):
            if missing := [name for name in (*texts, *fields) if name not in row]:
                raise ValueError(f"row {number}: no column {missing[0]!r}; found {', '.join(map(str, row))}")
            before = "".join(_field(name, row[name]) for name in fields)
            parts = ["" if _missing(row[name]) else str(row[name]) for name in texts]
            parts = [before + parts[0], *parts[1:]] if all(parts) else [""]
            found.append((parts[0], parts[1]) if len(parts) == 2 else parts[0])
        return found

    def logits(self, texts: Sequence[Text], progress: Progress = lambda count: None) -> np.ndarray:
        """Return the logits (n, C) of n texts, float32. Raises ValueError for single texts if the model reads pairs."""
        pairs = bool(self.fields.get("pair"))
        if any(isinstance(text, str) == pairs for text in texts):
            raise ValueError(f"expected {'pairs of texts: (first, second)' if pairs else 'single texts'}")
        if not len(texts):
            return np.zeros((0, len(self.labels)), np.float32)
        return self._logits(texts, progress).astype(np.float32)

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """Return the probabilities (n, C) of n texts, columns by `labels`; of a model of label sets, each by itself."""
        return self.shares(self.logits(texts))

    def predict(self, texts: Sequence[Text], abstain: str = "") -> list[Label | None]:
        """Return the label of each text, or its list of labels. abstain: as for `rule`; a text below its confidence gets None."""
        rule = self.rule(abstain) if abstain else None
        logits = self.logits(texts)
        labels, _ = self.decided(logits)
        if rule is None:
            return list(labels)
        sure = rule.confidences(logits, self.thresholds)
        return [label if one >= rule.confidence else None for label, one in zip(labels, sure, strict=True)]

    def rule(self, target: str) -> Abstention:
        """Return when a prediction is a label, as `Abstention.of` does."""
        return Abstention.of(self.folder, target)

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities (n, C) from logits (n, C): the softmax or, for label sets, the sigmoid of each."""
        return softmax(logits) if self.thresholds is None else sigmoid(logits)

    def decided(self, logits: np.ndarray) -> tuple[list[Label], np.ndarray]:
        """Return the label, or list of labels, of each row of logits (n, C), and its probability (n,)."""
        shares = self.shares(logits)
        if self.thresholds is None:
            best = logits.argmax(1)
            return [self.labels[at] for at in best.tolist()], shares[np.arange(len(best)), best]
        made = above(logits, self.thresholds)  # (n, C)
        sets = [[self.labels[at] for at in np.flatnonzero(row).tolist()] for row in made]
        return [*sets], np.where(made, shares, 1 - shares).prod(1)

    def _session(self, path: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )

    def _tokens(self, path: Path, reader: dict[str, Any]) -> Logits:
        """Read texts as tokens of the encoder's tokenizer: the logits of batches of similar length."""
        from tokenizers import Tokenizer

        tokenizer, session = Tokenizer.from_file(str(self.folder / "tokenizer.json")), self._session(path)
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def run(rows: Sequence[Tokens]) -> np.ndarray:
            ids = np.full((len(rows), max(len(row) for row, _ in rows)), reader["padding_id"], np.int64)  # (b, longest)
            mask, types = np.zeros_like(ids), np.zeros_like(ids)
            for at, (row, own) in enumerate(rows):
                ids[at, : len(row)], mask[at, : len(row)], types[at, : len(row)] = row, 1, own
            given = {"input_ids": ids, "attention_mask": mask}
            given |= {"token_type_ids": types} if reader.get("token_types") else {}
            found: np.ndarray = session.run(["logits"], given)[0]
            return found

        limit = 1 if self.form == "int8" else TOKENS

        def logits(texts: Sequence[Text], progress: Progress) -> np.ndarray:
            rows = [self._read(encoding, reader) for encoding in _encoded(tokenizer, texts)]
            found = np.zeros((len(texts), len(self.labels)), np.float32)
            for places in batches([len(row) for row, _ in rows], limit):
                found[places] = run([rows[place] for place in places])
                progress(len(places))
            return found

        return logits

    def _read(self, encoding: Any, reader: dict[str, Any]) -> Tokens:
        """Return the token ids and types of a text or a pair, cut to `max_length`."""
        if "token_types" not in reader:
            ids = self._cut(encoding.ids or [reader["empty_id"]], reader)
            return ids, [0] * len(ids)
        owner, size = encoding.sequence_ids, reader["max_length"]
        places = [[at for at, text in enumerate(owner) if text == part] for part in (0, 1)]
        if len(owner) > size:
            self.texts_cut += 1
            room = size - sum(text is None for text in owner)
            short = min(*map(len, places), room // 2)  # of the longest first, until both are equally long
            first_longer = len(places[0]) > len(places[1])
            keep = (room - short, short) if first_longer else (short, room - short)
            places = [_ends(part, kept, reader) for part, kept in zip(places, keep, strict=True)]
        stay = {at for part in places for at in part} | {at for at, text in enumerate(owner) if text is None}
        ids, types = ([values[at] for at in sorted(stay)] for values in (encoding.ids, encoding.type_ids))
        return (ids, types) if ids else ([reader["empty_id"]], [0])

    def _cut(self, ids: list[int], reader: dict[str, Any]) -> list[int]:
        """Cut a text to `max_length` tokens; the special tokens at both ends stay.

        "head" keeps the first tokens; "head+tail" a quarter of the room from the head and the rest from the tail.
        """
        if len(ids) <= reader["max_length"]:
            return ids
        self.texts_cut += 1
        prefix, suffix = reader["prefix"], reader["suffix"]
        room = reader["max_length"] - prefix - suffix
        head = room // 4 if reader["truncation"] == "head+tail" else room
        return ids[: prefix + head] + ids[len(ids) - suffix - (room - head) :]

    def _words(self, path: Path, reader: dict[str, Any]) -> Logits:
        """Read texts as the first words, padded on the left: the logits of a neural baseline."""
        session, length = self._session(path), reader["length"]
        size = 1 if self.form == "int8" else 64
        index = {word: at + FIRST for at, word in enumerate(self._vocabulary())}

        def words(given: Text) -> list[str]:
            text = in_words(given)
            text = text.lower() if reader["lowercase"] else text
            if reader["split"] == "space":
                return text.split()
            return "".join(c if c.isalnum() or c.isspace() or c == "_" else f" {c} " for c in text).split()

        def logits(texts: Sequence[Text], progress: Progress) -> np.ndarray:
            found = []
            for at in range(0, len(texts), size):
                block = [words(text) for text in texts[at : at + size]]
                ids = np.full((len(block), length), PADDING, np.int64)
                for row, text in enumerate(block):
                    known = [index.get(word, UNKNOWN) for word in text[:length]]
                    ids[row, length - len(known) :] = known
                    self.texts_cut += len(text) > length
                found.append(session.run(["logits"], {"input_ids": ids})[0])
                progress(len(block))
            return np.concatenate(found)

        return logits

    def _bag(self, path: Path, reader: dict[str, Any]) -> Logits:
        """Read texts as word counts or tf-idf: the scores of a bag-of-words baseline, computed from its arrays."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        index, idf = {word: at for at, word in enumerate(self._vocabulary())}, arrays.get("idf")
        scores = {"svm": _linear, "mnb-count": _bayes, "mnb-tfidf": _bayes, "rf": _forest}[reader["model"]]

        def features(text: str) -> tuple[np.ndarray, np.ndarray]:  # (k,) columns and (k,) values
            found = WORD.findall(text.lower() if reader["lowercase"] else text)
            counts = Counter(index[word] for word in found if word in index)
            columns = np.array(sorted(counts), np.int64)
            values = np.array([counts[column] for column in columns.tolist()], np.float64)
            if idf is not None and len(columns):
                values *= idf[columns]
                values /= np.sqrt(np.square(values).sum())
            return columns, values

        def logits(texts: Sequence[Text], progress: Progress) -> np.ndarray:
            found = []
            for at in range(0, len(texts), BLOCK):
                block = texts[at : at + BLOCK]
                found.append(scores([features(in_words(text)) for text in block], arrays))
                progress(len(block))
            return np.concatenate(found)

        return logits

    def _vocabulary(self) -> list[str]:
        words: list[str] = json.loads((self.folder / "vocabulary.json").read_text(encoding="utf-8"))
        return words


class Abstention(NamedTuple):
    """When a prediction is a label. temperature: divides the logits. confidence: the least one of a label.

    warning: that a target accuracy may be missed on new texts, because there are too few validation rows; else "".
    """

    temperature: float
    confidence: float
    warning: str = ""

    @classmethod
    def of(cls, folder: Path, target: str) -> Abstention:
        """Return the rule for a target: "accuracy=0.95", "coverage=0.9" or "confidence=0.8". Raises ValueError.

        The thresholds in `abstention.json` are in order of coverage. An accuracy is met by the largest coverage at which the
        lower end of its interval reaches it on validation rows, else by the largest at which the accuracy itself does.
        """
        kind, _, number = target.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if kind not in ("accuracy", "coverage", "confidence", "") or not 0 < value <= 1:
            raise ValueError(f"--abstain {target}: expected accuracy=0.95, coverage=0.9 or confidence=0.8")
        file = folder / ABSTENTION
        if not file.exists():
            if kind in ("accuracy", "coverage"):
                raise ValueError(f"--abstain {target}: this export has no {ABSTENTION}. Use confidence=0.8")
            return cls(1.0, value)
        record = json.loads(file.read_text(encoding="utf-8"))
        points, temperature = record["points"], float(record["temperature"])
        if kind not in ("accuracy", "coverage"):
            return cls(temperature, value)
        enough = [point for point in points if point["rows"] >= LEAST_ROWS]
        met = [point for point in points if kind == "coverage" and point["coverage"] >= value][:1]
        for key in ("low", "accuracy"):
            met = met or [point for point in enough if kind == "accuracy" and point[key] >= value]
        if not met:
            raise ValueError(f"--abstain {target}: no threshold reached this on the validation rows")
        point, warning = met[-1], ""
        if kind == "accuracy" and point["low"] < value:
            shown = f"95 % interval {point['low']:.1%} to {point['high']:.1%}"
            warning = f"{target} is not assured: the validation rows are too few to tell ({shown})"
        return cls(temperature, float(point["confidence"]), warning)

    def confidences(self, logits: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """Return (n,) the calibrated probability of each prediction, from logits (n, C).

        thresholds: (C,) of a model of label sets: the probability of the whole set, with labels taken as independent. Which
        labels it has does not depend on the temperature.
        """
        scaled = logits.astype(np.float64) / self.temperature
        likely = softmax(scaled) if thresholds is None else sigmoid(scaled)
        found: np.ndarray = likely.max(1)
        if thresholds is not None:
            found = np.where(above(logits, thresholds), likely, 1 - likely).prod(1)
        return found


Features = Sequence[tuple[np.ndarray, np.ndarray]]


def _linear(features: Features, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Margins (n, C) of a linear support vector machine; two classes have one margin."""
    found = _products(features, arrays["coefficients"]) + arrays["intercept"]
    return np.hstack([-found, found]) if found.shape[1] == 1 else found


def _bayes(features: Features, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Log probabilities (n, C) of multinomial naive Bayes."""
    found = _products(features, arrays["word_log_probability"]) + arrays["class_log_prior"]
    return np.log(softmax(found))


def _products(features: Features, weights: np.ndarray) -> np.ndarray:
    """Products (n, C) of sparse features with weights (C, V)."""
    return np.stack([weights[:, columns] @ values for columns, values in features])


def _forest(features: Features, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Log of the class probabilities (n, C), averaged over the leaves that a text reaches in the trees."""
    left, right, feature, threshold = (arrays[name] for name in ("left", "right", "feature", "threshold"))
    found = []
    for columns, values in features:
        dense = np.zeros(len(arrays["idf"]), np.float32)  # scikit-learn compares in float32
        dense[columns] = values
        nodes = arrays["roots"]
        while (left[nodes] != nodes).any():  # a leaf is its own child
            nodes = np.where(dense[feature[nodes]] <= threshold[nodes], left[nodes], right[nodes])
        found.append(arrays["probability"][nodes].mean(0, dtype=np.float64))
    return np.log(np.maximum(np.stack(found), MIN_PROBABILITY))


def read_record(folder: Path) -> dict[str, Any]:
    """Read `export.json`. Raises ValueError if it is missing or of another format."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: not an exported classifier ({RECORD}: {error})") from None
    if found != FORMAT:
        raise ValueError(f"{folder}: the export has format {found}; this script reads format {FORMAT}")
    return record


def _thresholds(record: dict[str, Any], labels: list[str], folder: str | Path) -> np.ndarray | None:
    """Return the thresholds (C,) of a model of label sets; None for one label per text. Raises ValueError for others."""
    if "thresholds" not in record and "problem_type" not in record:
        return None
    try:
        found = record["thresholds"]
        return np.array([float(found[label]) for label in labels])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{folder}: thresholds in {RECORD} are not a number for each label ({', '.join(labels)}). Copy the folder again"
        ) from None


def in_words(text: Text) -> str:
    """Return a text, or both texts of a pair with a separator, as one string."""
    return text if isinstance(text, str) else SEPARATOR.join(text)


def _missing(value: Any) -> bool:
    """Return whether a cell has no value: None, NaN, or white space."""
    return value is None or value != value or not str(value).strip()


def _field(name: str, value: Any) -> str:
    """Return a field as it is put before a text; "" for a missing value."""
    if _missing(value):
        return ""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return f"{name}: {' '.join(str(value).split())} | "


def _ends(places: list[int], kept: int, reader: dict[str, Any]) -> list[int]:
    """Return the places of the tokens of one text of a pair that stay: its head, or its head and tail."""
    head = kept // 4 if reader["truncation"] == "head+tail" and kept < len(places) else kept
    return places[:head] + places[len(places) - (kept - head) :]


def _encoded(tokenizer: Any, texts: Sequence[Text]) -> Iterator[Any]:
    """Yield the encoding of each text or pair, with special tokens."""
    for at in range(0, len(texts), BLOCK):
        yield from tokenizer.encode_batch_fast(list(texts[at : at + BLOCK]))


def batches(lengths: Sequence[int], tokens: int = TOKENS) -> Iterator[np.ndarray]:
    """Yield the places of texts in batches, longest first; several texts have at most `tokens` tokens with padding."""
    order, at = np.argsort(np.array(lengths), kind="stable")[::-1], 0
    while at < len(order):
        take = max(tokens // max(lengths[order[at]], 1), 1)
        yield order[at : at + take]
        at += take


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of each row."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return found


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of each logit, without overflow."""
    found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return found


def above(logits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (n, C) bool, the labels of each text whose probability is above its threshold (C,)."""
    found: np.ndarray = sigmoid(logits.astype(np.float64)) > thresholds
    return found


def _texts(model: Classifier, asked: argparse.Namespace) -> list[Text]:
    """Return the texts of the command line: arguments, or those of a file or standard input.

    A table (a .csv or .tsv file, or if a column is named) is read by its columns, else each line is a text. Raises ValueError
    for anything but a table if an input has several columns.
    """
    file, table = asked.file, asked.text_column or asked.text_pair or Path(asked.file).suffix.lower() in TABLES
    if model.fields and (asked.texts or (file and not table)):
        columns = [model.fields["text"], model.fields["pair"], *model.fields["prefix"]]
        names = ", ".join(repr(name) for name in columns if name)
        raise ValueError(
            f"this model reads the columns {names}. Expected a table: --file TABLE.csv, or a table as input"
        )
    if asked.texts:
        return list(asked.texts)
    text = (Path(file).read_bytes() if file else sys.stdin.buffer.read()).decode("utf-8-sig")
    if table or model.fields:
        return _from_table(model, text, file or "standard input", asked)
    return re.split(r"\r\n|\r|\n", text.removesuffix("\n")) if text else []


def _from_table(model: Classifier, text: str, name: str, asked: argparse.Namespace) -> list[Text]:
    """Return the texts of a table, separated by the commas, semicolons or tabs of its header. Raises ValueError."""
    header = text.partition("\n")[0]
    csv.field_size_limit(max(len(text), 1))
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = list(rows.fieldnames or ())
    column = asked.text_column or model.record.get("columns", {}).get("text", "text")
    if column not in columns:
        raise ValueError(f"{name}: no column {column!r}; use --text-column with one of: {', '.join(columns)}")
    try:
        if not model.fields:
            return [row[column] or "" for row in rows]
        return model.inputs(list(rows), column, asked.text_pair)
    except csv.Error as error:
        raise ValueError(f"{name}: line {rows.line_num}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Predict the labels of texts.")
    parser.add_argument("texts", nargs="*", help="texts (default: the lines of standard input)")
    parser.add_argument("--file", default="", help="a file with one text per line, or a .csv or .tsv table")
    parser.add_argument("--text-column", default="", help="a table's text column (default: as in training)")
    parser.add_argument("--text-pair", default="", help="a table's column of second texts (default: as in training)")
    parser.add_argument("--form", default="", help="float32 or int8 (default: as export.json says)")
    parser.add_argument("--abstain", default="", help="no label below a confidence: accuracy=0.95, coverage=0.9, ...")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    asked = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    folder = Path(__file__).resolve().parent
    try:
        model = Classifier(folder, asked.form)
        texts = _texts(model, asked)
        if not texts:
            raise ValueError("no texts given. Give them as arguments, with --file, or one per line on standard input")
        rule = model.rule(asked.abstain) if asked.abstain else None
    except ImportError as error:
        print(f"error: {error.name} is missing. Install it: pip install numpy onnxruntime tokenizers", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kept = [at for at, text in enumerate(texts) if in_words(text).strip()]  # an empty text gets no label
    logits = model.logits([texts[at] for at in kept])
    labels, scores = model.decided(logits)
    found = dict(zip(kept, zip(labels, scores.tolist(), model.shares(logits).tolist(), strict=True), strict=True))
    sure = dict(zip(kept, rule.confidences(logits, model.thresholds).tolist(), strict=True)) if rule else {}
    try:
        for at, text in enumerate(texts):
            guess, score, shares = found.get(at, (None, None, None))
            by_label = shares and dict(zip(model.labels, shares, strict=True))
            print(_printed(in_words(text), guess, score, by_label, asked.json, rule, sure.get(at)))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    if empty := len(texts) - len(kept):
        verbs = "is empty and gets" if empty == 1 else "are empty and get"
        print(f"note: {empty:,} of {len(texts):,} texts {verbs} no label", file=sys.stderr)
    if rule and rule.warning:
        print(f"warning: {rule.warning}", file=sys.stderr)
    if rule:
        left = sum(one < rule.confidence for one in sure.values())
        print(f"note: {left:,} of {len(kept):,} texts are below confidence {rule.confidence:.3f}", file=sys.stderr)
    if model.texts_cut:
        print(f"note: {model.texts_cut:,} of {len(texts):,} texts are too long and were cut", file=sys.stderr)
    return 0


def _printed(
    text: str,
    guess: Label | None,
    score: float | None,
    probabilities: dict[str, float] | None,
    as_json: bool,
    rule: Abstention | None,
    sure: float | None,
) -> str:
    """Format a prediction as a line of output. guess: None for an empty text. sure: its confidence, if there is a rule."""
    accepted = rule is None or (sure is not None and sure >= rule.confidence)
    label, shown = (guess, score) if accepted else (None, None)
    if as_json:
        found: dict[str, Any] = {"text": text, "label": label, "score": shown}
        found |= {} if rule is None else {"best_guess": guess, "confidence": sure}
        return json.dumps(found | {"probabilities": probabilities}, ensure_ascii=False)
    cells = [label, shown] if rule is None else [label, shown, guess, sure]
    return "\t".join([*map(_cell, cells), " ".join(re.split(r"[\r\n]+", text))])


def _cell(value: Label | float | None) -> str:
    """Return a value as it is printed; an empty string for None."""
    if isinstance(value, list):
        return JOINED.join(value)
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
