"""Text classifiers with the interface of scikit-learn: `RandoutClassifier` and `DistilledClassifier`.

A fitted classifier holds its model as bytes in memory (safetensors, JSON), so that it can be pickled, copied and stored
without its run. Nothing here reads a pickle.
"""

from __future__ import annotations

import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, has_fit_parameter

from randout import api
from randout.core.config import full_name
from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.data.columns import is_missing
from randout.data.dataframes import saved
from randout.experiments.run.options import Result, Stopped
from randout.experiments.run.saved_model import LoadedClassifier, load_on_device
from randout.integrations.estimator_inputs import (
    Classes,
    InputError,
    check_kinds,
    class_names,
    classes_of,
    soft_columns,
    texts_of,
    weights_of,
)
from randout.methods.builtin import METHODS

__all__ = ["DistilledClassifier", "RandoutClassifier"]

ONE_TEXT, ONE_LABEL = "X has one text for each row", "y has one label for each row"
NOT_SUPPORTED = {  # settings of data, by their last word
    **dict.fromkeys(("text_pair_column", "prefix_columns"), ONE_TEXT),
    **dict.fromkeys(("multi_label", "label_separator", "label_columns"), ONE_LABEL),
}
# Not attributes: a prediction must not change an estimator, and a network in memory is no part of its state
_loaded: weakref.WeakKeyDictionary[RandoutClassifier, LoadedClassifier] = weakref.WeakKeyDictionary()


class RandoutClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fine-tune a small text classifier, as `randout.train` does, with the interface of scikit-learn.

    X is a list, an array or a pandas or polars Series of strings; y has strings, integers or booleans, which predictions keep.
    All rows of X are for training, except about 15 % on which the number of epochs is chosen; with few rows, the model is then
    trained again on all of them (`train.refit`). A text that is empty is left out of the training, with a warning; its
    prediction is the share of each class.

    student, teacher, preset: as for `randout.train`. learning_rate, epochs, batch_size, max_length: None: those of the preset, or
    chosen by the data. settings: any others, by the keys of `--set` ({"kd.weight": 0.4}). random_state: an integer, the seed
    (None: 1), or a NumPy generator that it is drawn from. device: auto, cpu, cuda or mps. out: folder in which the run of each
    fit is kept, with a teacher that is trained for it; a fit of the same data and settings finds or resumes it there. None: a
    temporary folder. quiet: whether to show no progress.

    Fitted attributes: classes_; class_prior_, the (weighted) share of each class; class_names_, their names in the model;
    model_files_, the files of the model by name, as bytes; truncation_, how long texts are cut; metrics_, the content of
    `metrics.json` with the scores on the validation rows.
    """

    def __init__(
        self,
        student: str | Path | None = None,
        *,
        teacher: Any = "auto",
        preset: str | None = None,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        out: str | Path | None = None,
        quiet: bool = True,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.preset = preset
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_length = max_length
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.out = out
        self.quiet = quiet

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        unlabeled: Any = None,
        soft_labels: Any = None,
        unlabeled_soft_labels: Any = None,
    ) -> Self:
        """Train on texts X (n) with labels y (n).

        sample_weight: (n,) factor of what each row adds to the losses; 2 counts as the row twice. unlabeled: (m) texts without
        labels, from which a student learns what the teacher says. soft_labels: (n, C) class probabilities that take the place
        of a teacher, columns in the order of `classes_`, or a DataFrame with a column for each class; a row of NaN has none.
        unlabeled_soft_labels: (m, C), the same for `unlabeled`. Raises UserError, Failure, and KeyboardInterrupt.
        """
        texts, classes = _labelled(X, y)
        if hasattr(self.teacher, "predict_proba"):
            raise UserError(
                "teacher: found a classifier of scikit-learn. Use DistilledClassifier(teacher=...) to learn from it"
            )
        if soft_labels is None and unlabeled_soft_labels is None:
            return self._fit(texts, classes, sample_weight, unlabeled, {}, str(self.teacher or "none"))
        if self.teacher not in ("auto", "none", None):
            raise UserError(
                f"fit: soft_labels take the place of a teacher, and this classifier has teacher={self.teacher!r:.60}. Leave "
                "one of the two out"
            )
        names = classes.values.tolist()
        soft = {}
        if soft_labels is not None:
            soft["soft_labels"] = soft_columns(soft_labels, names, len(texts), "soft_labels")
        if unlabeled_soft_labels is not None:
            rows = 0 if unlabeled is None else len(texts_of(unlabeled, "unlabeled"))
            soft["unlabeled"] = soft_columns(unlabeled_soft_labels, names, rows, "unlabeled_soft_labels")
        return self._fit(texts, classes, sample_weight, unlabeled, soft)

    def _fit(
        self,
        texts: list[str],
        classes: Classes,
        sample_weight: Any,
        unlabeled: Any,
        soft: dict[str, dict[str, list[float]]],
        teacher: str = "",
    ) -> Self:
        """Train on a table made of the arguments. soft: columns of soft labels by what they are of, instead of a `teacher`."""
        weights = weights_of(sample_weight, len(texts))
        names = [classes.names[code] for code in classes.codes]
        ids = [f"row {at}" for at in range(len(texts))]
        table: dict[str, Any] = {"text": texts, "label": names, "split": ["train"] * len(texts), "id": ids}
        with _folder(self.out) as folder:
            settings = {
                "data.text_column": "text",
                "data.label_column": "label",
                "data.split_column": "split",
                "data.labels": classes.names,
                "output.test": False,
            }
            if weights is not None:
                table["weight"] = weights
                settings["data.weight_column"] = "weight"
            more: list[str] = []
            if unlabeled is not None:
                more = texts_of(unlabeled, "unlabeled")
                their_ids = [f"unlabeled {at}" for at in range(len(more))]
                settings["data.unlabeled"] = str(saved({"text": more, "id": their_ids}, folder / "data")[0])
            if soft:
                settings["data.id_column"] = "id"
                teacher = str(saved(_soft_table(soft, len(texts), len(more)), folder / "data")[0])
            result = self._train(table, teacher, settings, folder)
            self.classes_ = classes.values
            self.class_names_ = classes.names
            self.class_prior_ = _shares(classes, weights)
            self._keep(result)
        return self

    def _train(self, table: dict[str, Any], teacher: str, own: dict[str, Any], folder: Path) -> Result:
        asked = dict(self.settings or {})
        if twice := sorted(key for key in asked if _full_name(key) in own):
            raise UserError(f"settings: {twice[0]!r} is set by `fit`; remove it")
        for key in asked:
            if why := NOT_SUPPORTED.get(key.rpartition(".")[2]):
                raise UserError(f"settings: {key!r} is not supported here: {why}. Use randout.train with a table")
        shared: dict[str, Any] = {
            name: getattr(self, name) for name in ("learning_rate", "epochs", "batch_size", "max_length")
        }
        shared |= {"seed": _seed(self.random_state), "device": None if self.device == "auto" else self.device}
        settings = asked | {name: value for name, value in shared.items() if value is not None} | own
        try:
            return api.train(
                table,
                student=self.student,
                teacher=teacher,
                preset=self.preset,
                settings=settings,
                runs=folder,
                quiet=self.quiet,
            )
        except Stopped as stop:  # an Exception, after which a search would go on with its next candidate
            raise KeyboardInterrupt(f"fit was stopped by {stop.why}") from None

    def _keep(self, result: Result) -> None:
        """Keep what predictions need of a finished run."""
        from randout.experiments.run.reload import stored_config  # imports PyTorch

        folder = result.model_path
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.model_files_ = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        self.truncation_ = str(stored_config(result.run).student.truncation)
        self.metrics_ = result.metrics
        _loaded.pop(self, None)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities (n, C) of texts X (n), columns in the order of `classes_`.

        Texts are truncated as in training. An empty text gets `class_prior_`, with a warning.
        """
        return self._probabilities(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label (n,) of each text, in the type of the labels in `fit`; of an empty text the most frequent one."""
        probabilities = self._probabilities(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return labels

    def _probabilities(self, given: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        texts = texts_of(given)
        kept = [at for at, text in enumerate(texts) if not is_missing(text)]
        if empty := len(texts) - len(kept):
            found = f"{plural(empty, 'text')} of {len(texts):,} {verb(empty, 'is', 'are')} empty"
            warnings.warn(f"{found}; predicted is the share of each class", UserWarning, stacklevel=3)
        probabilities = np.tile(self.class_prior_, (len(texts), 1))
        if kept:
            model = self._model()
            columns = [self.class_names_.index(name) for _, name in sorted(model.id2label.items())]
            raw = api.Predictor("model", model).predict_proba([texts[at] for at in kept]).astype(np.float64)
            probabilities[kept] = 0.0  # of a class whose only training rows are empty texts
            probabilities[np.ix_(kept, columns)] = raw / raw.sum(1, keepdims=True)
        return probabilities

    def _model(self) -> LoadedClassifier:
        """Return the model, loaded once for this object."""
        from randout.experiments.run.reload import record_truncation  # imports PyTorch

        if self not in _loaded:
            with tempfile.TemporaryDirectory(prefix="randout-", ignore_cleanup_errors=True) as place:
                folder = Path(place) / "model"
                for name, content in self.model_files_.items():
                    path = folder / name
                    if not path.resolve().is_relative_to(folder.resolve()):
                        raise UserError(
                            f"model_files_: {name!r:.80} is not a file of a model. Train the classifier again"
                        )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                record_truncation(folder, self.truncation_)
                _loaded[self] = load_on_device(str(folder), self.device, type(self).__name__)
        return _loaded[self]


class DistilledClassifier(RandoutClassifier):
    """Distil any scikit-learn classifier of texts with `predict_proba`, such as a Pipeline, into a small encoder.

    teacher: fitted: it is used as it is. Not fitted: a clone of it is fitted to the training rows first; cross-validation and
    searches clone every estimator and thus its teacher, so each of their fits trains its own, unless it is a `FrozenEstimator`.
    cv: None: the teacher's own probabilities for the training texts, which are too sure if it was fitted to them; a number of
    folds or a splitter: out-of-fold probabilities of clones of the teacher. Other arguments and attributes as for
    `RandoutClassifier`.
    """

    def __init__(
        self,
        teacher: Any,
        student: str | Path | None = None,
        *,
        cv: Any = None,
        preset: str | None = None,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        out: str | Path | None = None,
        quiet: bool = True,
    ) -> None:
        super().__init__(
            student,
            teacher=teacher,
            preset=preset,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            max_length=max_length,
            settings=settings,
            random_state=random_state,
            device=device,
            out=out,
            quiet=quiet,
        )
        self.cv = cv

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, unlabeled: Any = None) -> Self:  # type: ignore[override]
        """Train on texts X (n) with labels y (n) and on the teacher's probabilities for X and `unlabeled` (m texts).

        sample_weight: as for `RandoutClassifier.fit`; a teacher that is fitted here gets it if its `fit` takes it. Raises
        UserError, Failure, and KeyboardInterrupt.
        """
        texts, classes = _labelled(X, y)
        if not hasattr(self.teacher, "predict_proba"):
            raise UserError(
                f"teacher: {type(self.teacher).__name__} has no predict_proba. Name a classifier that gives probabilities, such "
                "as CalibratedClassifierCV(LinearSVC())"
            )
        weighted = sample_weight is not None and has_fit_parameter(self.teacher, "sample_weight")
        given = {"sample_weight": sample_weight} if weighted else {}
        teacher = self.teacher if _is_fitted(self.teacher) else clone(self.teacher).fit(X, y, **given)
        if self.cv is None:
            own = soft_columns(teacher.predict_proba(X), teacher.classes_.tolist(), len(texts), "teacher")
        else:
            found = cross_val_predict(self.teacher, X, y, cv=self.cv, method="predict_proba", params=given)
            own = soft_columns(found, classes.values.tolist(), len(texts), "teacher")
        soft = {"soft_labels": own}
        if unlabeled is not None:
            rows = len(texts_of(unlabeled, "unlabeled"))
            theirs = teacher.predict_proba(unlabeled)
            soft["unlabeled"] = soft_columns(theirs, teacher.classes_.tolist(), rows, "teacher")
        for columns in soft.values():  # a class that the teacher does not know has probability 0
            for name in class_names(classes.values.tolist()):
                columns.setdefault(f"prob_{name}", [0.0] * len(next(iter(columns.values()))))
        return self._fit(texts, classes, sample_weight, unlabeled, soft)


def _labelled(X: Any, y: Any) -> tuple[list[str], Classes]:
    """Return texts and classes. Raises InputError if their numbers differ, or if the labels are not classes."""
    texts = texts_of(X)
    if y is None:
        raise InputError("fit requires y to be passed, but the target y is None: expected a label for each text")
    check_kinds(y)
    labels = column_or_1d(y, warn=True)
    if len(labels) != len(texts):
        raise InputError(f"X has {plural(len(texts), 'text')} and y has {plural(len(labels), 'label')}")
    if not any(map(str.strip, texts)):
        raise InputError(f"X: all {plural(len(texts), 'text')} are empty")
    classes = classes_of(labels)
    check_classification_targets(labels)
    return texts, classes


def _full_name(key: str) -> str:
    """Return a setting's full name: data.labels for labels. An unknown one is unchanged, and reported by the training."""
    try:
        return full_name(key, METHODS)
    except UserError:
        return key


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    except TypeError:  # no estimator of scikit-learn, but it has predict_proba
        return True
    return True


def _seed(random_state: Any) -> int | None:
    if random_state is None or isinstance(random_state, int | np.integer):
        return None if random_state is None else int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def _shares(classes: Classes, weights: list[float] | None) -> NDArray[np.float64]:
    counts = np.bincount(classes.codes, weights, minlength=len(classes.values))
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _soft_table(soft: dict[str, dict[str, list[float]]], rows: int, more: int) -> dict[str, list[Any]]:
    """Return a table of soft labels with the ids of the labelled and unlabelled rows that have them."""
    table: dict[str, list[Any]] = {"id": []}
    names = list(dict.fromkeys(name for columns in soft.values() for name in columns))
    for what, prefix, count in (("soft_labels", "row", rows), ("unlabeled", "unlabeled", more)):
        if what in soft:
            table["id"] += [f"{prefix} {at}" for at in range(count)]
            for name in names:
                table.setdefault(name, [])
                table[name] += soft[what].get(name, [0.0] * count)
    return table


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Yield the folder for the runs of a fit: `out`, or a temporary one."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="randout-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
