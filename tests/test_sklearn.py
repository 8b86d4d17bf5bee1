"""Randout's classifiers in scikit-learn's tools: searches, calibration, stacking, pipelines, copies in memory and on disk."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator

import randout
from randout.core.errors import UserError
from randout.sklearn import DistilledClassifier, RandoutClassifier
from randout.testing.models import toy_texts

Tiny = Callable[[str], Path]
TEXTS, NAMES = toy_texts(48, 0)
MORE = toy_texts(10, 5)[0]
CODES = {"health": 3, "money": 7, "sport": 11}
QUICK: dict[str, Any] = {"teacher": "none", "settings": {"classifier.min_df": 1}}
TUNED = {"learning_rate": 1e-3, "epochs": 1, "settings": {"precision": "float32", "pooling": "first"}}


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No fit and no prediction may leave anything in the folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert not list((tmp_path / "temporary").glob("randout-*"))


def bag(**settings: Any) -> RandoutClassifier:
    """A classifier that is fitted in no time."""
    return RandoutClassifier("mnb-count", **(QUICK | settings))


@pytest.mark.parametrize("kind", ["list", "array", "pandas", "polars"])
def test_labels_keep_their_types_and_texts_are_any_sequence(kind: str) -> None:
    library = pytest.importorskip(kind) if kind in ("pandas", "polars") else None
    labels: list[Any] = {
        "list": NAMES,
        "array": np.array([name == "money" for name in NAMES]),
        "pandas": [CODES[name] for name in NAMES],
        "polars": NAMES,
    }[kind]
    texts = TEXTS if kind == "list" else np.array(TEXTS) if library is None else library.Series(TEXTS)
    found = bag().fit(texts, labels if library is None else library.Series(labels))
    assert found.classes_.tolist() == sorted(set(np.asarray(labels).tolist()))
    assert (
        found.classes_.dtype.kind
        == {"list": "U", "array": "b", "pandas": "i", "polars": found.classes_.dtype.kind}[kind]
    )
    assert found.class_names_ == [str(one).lower() if kind == "array" else str(one) for one in found.classes_]
    predicted = found.predict(texts)
    assert predicted.dtype == found.classes_.dtype
    assert found.score(texts, labels) == np.mean(predicted == np.asarray(labels)) > 0.9
    assert found.predict_proba(texts).sum(1) == pytest.approx(np.ones(len(TEXTS)))
    assert not hasattr(found, "n_features_in_")


def test_an_empty_text_gets_the_shares_of_the_classes() -> None:
    weights = [2 if name == "sport" else 1 for name in NAMES]
    with pytest.raises(UserError, match="mnb-count does not support weights of rows"):
        bag().fit(TEXTS, NAMES, weights)
    found = bag().fit(TEXTS[:40], NAMES[:40])
    shares = [NAMES[:40].count(name) / 40 for name in found.classes_]
    with pytest.warns(UserWarning, match="2 texts of 3 are empty; predicted is the share of each class") as warned:
        assert found.predict_proba([" ", TEXTS[0], None])[[0, 2]].tolist() == [shares, shares]  # type: ignore[list-item]
    assert warned[0].filename == __file__


# ---- scikit-learn's tools


def lower(texts: Any) -> list[str]:
    return [text.lower() for text in texts]


def test_searches_pipelines_calibration_and_stacking() -> None:
    pipeline = Pipeline([("clean", FunctionTransformer(lower)), ("classifier", bag())])
    upper = [text.upper() for text in TEXTS]
    grid = {"classifier__settings": [{"classifier.min_df": 1}, {"classifier.min_df": 2}]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(upper, NAMES)
    assert search.best_score_ > 0.6
    assert search.predict(upper).tolist() == search.best_estimator_[-1].predict(TEXTS).tolist()
    calibrated = CalibratedClassifierCV(bag(), cv=2, ensemble=False).fit(TEXTS, NAMES)
    assert calibrated.predict_proba(TEXTS).shape == (48, 3)
    plain = make_pipeline(TfidfVectorizer(), LogisticRegression())
    stacked = StackingClassifier([("ours", bag()), ("plain", plain)], cv=2).fit(TEXTS, NAMES)
    assert stacked.score(TEXTS, NAMES) > 0.9


def test_a_copy_is_unfitted_and_has_the_parameters() -> None:
    own = bag(random_state=3, out="runs")
    copied = clone(own).set_params(epochs=2)
    assert copied.get_params() == own.get_params() | {"epochs": 2}
    with pytest.raises(NotFittedError):
        copied.predict(TEXTS)


# ---- encoders: weights, teachers, soft labels, copies


@pytest.fixture(scope="module")
def fitted(tiny_model: Tiny) -> RandoutClassifier:
    codes = [CODES[name] for name in NAMES]
    own = RandoutClassifier(tiny_model("bert"), teacher="none", **TUNED)
    return own.fit(TEXTS, codes, sample_weight=[1 + at % 3 for at in range(len(TEXTS))])


def test_weights_of_rows_reach_the_training(fitted: RandoutClassifier) -> None:
    codes = [CODES[name] for name in NAMES]
    weight = {code: sum(1 + at % 3 for at, own in enumerate(codes) if own == code) for code in fitted.classes_.tolist()}
    assert fitted.class_prior_ == pytest.approx(
        [weight[code] / sum(weight.values()) for code in fitted.classes_.tolist()]
    )
    without = clone(fitted).fit(TEXTS, codes)
    assert without.model_files_["model.safetensors"] != fitted.model_files_["model.safetensors"]
    assert without.predict_proba(TEXTS) == pytest.approx(fitted.predict_proba(TEXTS), abs=0.3)


def test_pickled_and_copied_it_predicts_the_same(fitted: RandoutClassifier) -> None:
    expected = fitted.predict_proba(TEXTS)
    content = pickle.dumps(fitted)
    assert b"temporary" not in content
    assert tempfile.gettempdir().encode() not in content
    assert fitted.model_files_["model.safetensors"] in content
    found = pickle.loads(content)
    assert found.predict_proba(TEXTS).tolist() == expected.tolist()
    assert found.classes_.tolist() == [3, 7, 11]


def test_skops_keeps_it(fitted: RandoutClassifier, tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io")
    io.dump(fitted, tmp_path / "own.skops")
    unknown = io.get_untrusted_types(file=tmp_path / "own.skops")
    assert set(unknown) <= {"randout.sklearn.RandoutClassifier", "pathlib.PosixPath", "pathlib.WindowsPath"}
    found = io.load(tmp_path / "own.skops", trusted=unknown)
    assert found.predict_proba(TEXTS).tolist() == fitted.predict_proba(TEXTS).tolist()


def test_a_file_outside_the_model_is_not_written(fitted: RandoutClassifier, tmp_path: Path) -> None:
    other = pickle.loads(pickle.dumps(fitted))
    other.model_files_ = other.model_files_ | {"../../escaped": b""}
    with pytest.raises(UserError, match="is not a file of a model"):
        other.predict(TEXTS)
    assert not list(tmp_path.rglob("escaped"))


def test_soft_labels_and_unlabelled_texts_are_the_teacher(tiny_model: Tiny, tmp_path: Path) -> None:
    soft = 0.1 + 0.7 * (np.array(NAMES)[:, None] == np.array(["health", "money", "sport"]))
    soft[4] = np.nan
    own = RandoutClassifier(tiny_model("bert"), out=tmp_path / "runs", **TUNED)
    theirs = np.full((len(MORE), 3), 1 / 3)
    own.fit(TEXTS, NAMES, soft_labels=soft, unlabeled=MORE, unlabeled_soft_labels=theirs)
    (run,) = [path for path in (tmp_path / "runs").iterdir() if (path / "run.json").exists()]
    recorded = json.loads((run / "run.json").read_text(encoding="utf-8"))["teacher"]["soft_labels"]
    assert recorded["of"] == {"train": 41, "validation": 7, "unlabeled": 10}
    assert sum(recorded["rows"].values()) == sum(recorded["of"].values()) - 1
    again = clone(own).fit(TEXTS, NAMES, soft_labels=soft, unlabeled=MORE, unlabeled_soft_labels=theirs)
    assert len([path for path in (tmp_path / "runs").iterdir() if (path / "run.json").exists()]) == 1
    assert again.model_files_ == own.model_files_


@pytest.mark.slow  # the how-to page on scikit-learn does the same
def test_soft_labels_are_routed_and_cut_with_their_rows(tiny_model: Tiny) -> None:
    pandas = pytest.importorskip("pandas")
    soft = pandas.DataFrame(
        {name: [0.8 if own == name else 0.1 for own in NAMES] for name in ("sport", "health", "money")}
    )
    with sklearn.config_context(enable_metadata_routing=True):
        own = RandoutClassifier(tiny_model("bert"), **TUNED).set_fit_request(soft_labels=True, unlabeled=True)
        scores = cross_val_score(
            Pipeline([("classifier", own)]),
            TEXTS,
            NAMES,
            cv=2,
            params={"soft_labels": soft, "unlabeled": MORE},
            error_score="raise",
        )
    assert scores.shape == (2,)


# ---- distilled from any classifier


class Decided(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A teacher that knows two of the three classes, and counts what it is fitted to."""

    def fit(self, X: Any, y: Any) -> Decided:  # noqa: N803
        self.classes_ = np.array(["money", "sport"])
        self.rows_ = len(X)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        return np.tile([0.9, 0.1], (len(X), 1))


def test_a_fitted_teacher_is_used_as_it_is(tiny_model: Tiny, tmp_path: Path) -> None:
    teacher = Decided().fit(["only one"], ["money"])
    settings = TUNED["settings"] | {"methods.ce": False, "kd.weight": 1.0, "contrastive": False}  # type: ignore[operator]
    own = DistilledClassifier(teacher, tiny_model("bert"), **(TUNED | {"epochs": 12, "settings": settings}))
    own.fit(TEXTS, NAMES, unlabeled=MORE)
    assert teacher.rows_ == 1
    assert own.classes_.tolist() == ["health", "money", "sport"]
    assert own.predict_proba(TEXTS).mean(0) == pytest.approx([0.0, 0.9, 0.1], abs=0.05)


@pytest.mark.slow  # the how-to page on scikit-learn fits one too
def test_an_unfitted_teacher_is_fitted_to_the_training_rows(tiny_model: Tiny) -> None:
    teacher = make_pipeline(TfidfVectorizer(), LogisticRegression())
    own = DistilledClassifier(teacher, tiny_model("bert"), cv=2, **TUNED)
    assert "teacher__logisticregression__C" in own.get_params()
    scores = cross_val_score(own, TEXTS, NAMES, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert not hasattr(teacher, "classes_")
    frozen = FrozenEstimator(teacher.fit(TEXTS, NAMES))
    assert clone(DistilledClassifier(frozen)).teacher.predict(TEXTS).tolist() == teacher.predict(TEXTS).tolist()


# ---- mistakes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": np.zeros((48, 2))}, "a table with 2 columns; expected one column of texts"),
        ({"X": "one text"}, "expected a list of texts"),
        ({"X": [("a", "b"), *TEXTS[1:]]}, r"X\[0\] .* For pairs of texts, use randout.train"),
        ({"X": [1, *TEXTS[1:]]}, r"X\[0\] is 1, an int; expected a string"),
        ({"X": [], "y": []}, "X: found no texts"),
        ({"X": [" "] * 48}, "X: all 48 texts are empty"),
        ({"sample_weight": [0.0] * 48}, "all weights are zero"),
        ({"X": TEXTS[:5]}, "X has 5 texts and y has 48 labels"),
        ({"y": [None, *NAMES[1:]]}, "y: 1 label missing"),
        ({"y": [1, *NAMES[1:]]}, "y: the labels are of several types"),
        ({"y": ["a"] * 48}, "all 48 rows have one class"),
        ({"y": [True, 1, *NAMES[2:]]}, "y: the labels are of several types"),
        ({"y": ["money\u200b", *NAMES[1:]]}, "differ only in invisible characters"),
        ({"sample_weight": [1.0]}, r"the shape \(1,\); expected \(48,\)"),
        ({"soft_labels": np.zeros((48, 2))}, r"the shape \(48, 2\); expected \(48, 3\)"),
        ({"unlabeled_soft_labels": np.zeros((2, 3))}, r"expected \(0, 3\)"),
    ],
)
def test_mistakes_in_the_arguments_are_named(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"X": TEXTS, "y": NAMES} | change
    with pytest.raises(UserError, match=words):
        RandoutClassifier("no-such-folder", teacher="none").fit(**given)


def test_settings_and_teachers_that_contradict_are_refused() -> None:
    with pytest.raises(UserError, match=r"settings: 'data\.labels' is set by `fit`"):
        bag(settings={"data.labels": ["a"]}).fit(TEXTS, NAMES)
    with pytest.raises(UserError, match=r"settings: 'split_column' is set by `fit`"):
        bag(settings={"split_column": "text"}).fit(TEXTS, NAMES)
    with pytest.raises(UserError, match="soft_labels take the place of a teacher"):
        RandoutClassifier("no-such-folder", teacher="big-encoder").fit(
            TEXTS, NAMES, soft_labels=np.full((48, 3), 1 / 3)
        )
    with pytest.raises(UserError, match=r"Use DistilledClassifier\(teacher="):
        RandoutClassifier(teacher=LogisticRegression()).fit(TEXTS, NAMES)
    with pytest.raises(UserError, match="LinearSVC has no predict_proba"):
        DistilledClassifier(LinearSVC()).fit(TEXTS, NAMES)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"data.text_pair_column": "other"}, "X has one text for each row"),
        ({"prefix_columns": ["id"]}, "X has one text for each row"),
        ({"data.multi_label": True}, "y has one label for each row"),
        ({"data.label_separator": ";"}, "y has one label for each row"),
    ],
)
def test_settings_for_other_data_are_refused(setting: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=f"is not supported here: {why}"):
        bag(settings=setting).fit(TEXTS, NAMES)


def test_a_stop_is_no_failed_candidate_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise randout.Stopped("Ctrl-C", None)  # type: ignore[arg-type]

    monkeypatch.setattr("randout.api.train", stopped)
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        GridSearchCV(bag(), {"random_state": [1, 2]}, cv=2).fit(TEXTS, NAMES)


# ---- scikit-learn's own checks. For estimators of texts, `check_estimator` runs one of them and says nothing of the others.

AS_IT_IS = """
estimator_cloneable estimator_tags_renamed valid_tag_types estimator_repr no_attributes_set_in_init estimators_unfitted
do_not_raise_errors_in_init_or_set_params mixin_order parameters_default_constructible get_params_invariance set_params
non_transformer_estimators_n_iter decision_proba_consistency estimators_partial_fit_n_features
"""  # these give it no data, or expect an error before it is read
ON_NUMBERS = """
fit_score_takes_y estimators_overwrite_params dont_overwrite_parameters estimators_fit_returns_self readonly_memmap_input
positive_only_tag_during_fit estimators_dtypes dtype_object complex_data requires_y_none
pipeline_consistency estimators_pickle f_contiguous_array_estimator classifier_data_not_an_array classifiers_one_label
classifiers_classes classifiers_regression_target supervised_y_no_nan supervised_y_2d methods_sample_order_invariance
methods_subset_invariance fit2d_1sample fit2d_1feature dict_unchanged fit_idempotent fit_check_is_fitted
"""
ON_NUMBERS_WITH_WEIGHTS = """
sample_weights_pandas_series sample_weights_not_an_array sample_weights_list sample_weights_shape
sample_weights_not_overwritten all_zero_sample_weights_error classifiers_one_label_sample_weights
"""
NOT_RUN = {
    "texts have no number of features": """n_features_in n_features_in_after_fitting classifiers_train
        estimators_empty_data_messages""",
    "texts are neither one-dimensional numbers nor sparse, nor NaN or arrays of another library": """fit1d fit2d_predict1d
        estimators_nan_inf estimator_sparse_tag estimator_sparse_array estimator_sparse_matrix array_api_input""",
    "with batches, a weight of 2 is the row twice in expectation only (tests/methods/test_row_weights.py)": """
        sample_weight_equivalence_on_dense_data""",
}


class OnNumbers(RandoutClassifier):
    """Writes each number of a row as a word, so that checks with numbers apply."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> OnNumbers:  # noqa: N803
        return super().fit(in_words(X), y, sample_weight)

    def predict(self, X: Any) -> Any:  # noqa: N803
        return super().predict(in_words(X))

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return super().predict_proba(in_words(X))


def in_words(rows: Any) -> list[str]:
    return [" ".join(f"f{at}x{float(value):.3f}" for at, value in enumerate(row)) for row in np.asarray(rows)]


def own_checks() -> dict[str, Any]:
    """scikit-learn's checks of a classifier of numbers, by their names without `check_`; of several of a name the first."""
    generated = estimator_checks_generator(OnNumbers(**QUICK))
    pairs = [(getattr(check, "func", check).__name__.removeprefix("check_"), check) for _, check in generated]
    return dict(reversed(pairs))


def test_each_of_scikit_learns_checks_is_run_or_has_a_reason() -> None:
    known = " ".join([AS_IT_IS, ON_NUMBERS, ON_NUMBERS_WITH_WEIGHTS, *NOT_RUN.values()]).split()
    assert len(known) == len(set(known))
    assert set(known) >= own_checks().keys()


@pytest.mark.parametrize("name", AS_IT_IS.split())
def test_of_scikit_learns_checks(name: str) -> None:
    own_checks()[name](bag())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ON_NUMBERS.split(), *ON_NUMBERS_WITH_WEIGHTS.split()])
@pytest.mark.filterwarnings("ignore")
def test_of_scikit_learns_checks_on_numbers(name: str, tiny_model: Tiny) -> None:
    if name in ON_NUMBERS.split():
        own = OnNumbers("mnb-count", **QUICK)
    else:
        own = OnNumbers(tiny_model("bert"), teacher="none", epochs=1, learning_rate=1e-3)
    own_checks()[name](own)
