"""Bag-of-words baselines: features and fitting by scikit-learn, stored as arrays and never pickled.

Defaults follow Huang et al. 2020 (CODA-19, arXiv 2005.02367, and its published code): the segment alone as input;
lower-case words of at least two characters; tf-idf; 150 trees of any depth. Published are words that occur in at least five
training texts, which are few in a small table: by default the least number of texts depends on the number of rows
(`Bag.least_texts`).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field
from scipy import sparse

from randout.core.config import AutoInt, TrainTable
from randout.core.errors import UserError
from randout.stats.metrics import better, log_probabilities, score

from .base import COMMON_SETTINGS, Arrays, Classifier, Fitted, Labelled, Progress, Vocabulary
from .forest import arrays_of, mean_probabilities

BLOCK = 1000  # texts scored at once
FEW_ROWS = 1000  # fewer training rows than this: rarer words are kept
MIN_PROBABILITY = 1e-6  # lower bound of the forest's probabilities, for classes that no tree votes for
StepDone = Callable[[int], None]  # called before each step of fitting with the steps just done; may raise to stop
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class FittingData:
    """Input of fitting a bag-of-words classifier."""

    features: sparse.csr_array  # (n, V) features of the training texts
    labels: np.ndarray  # (n,) class index
    evaluate: Callable[[Arrays], dict[str, Any]]  # fitted arrays -> validation metrics
    metric: str  # the metric used for selection
    seed: int  # below 2**32, as scikit-learn requires
    step_done: StepDone


class Bag(Classifier):
    """Base class of the bag-of-words baselines.

    Features are word counts, or with `tfidf` counts * idf scaled to length 1, where idf = 1 + ln((1 + n) / (1 + df)).
    least_texts: what `min_df` "auto" is with fewer than `FEW_ROWS` training rows, and with more. The numbers were chosen by
    `benchmarks/word_frequency.py` (docs/log.md).
    """

    tfidf: ClassVar[bool] = True
    gives_probabilities = False
    own_loss = True
    train_settings = COMMON_SETTINGS
    least_texts: ClassVar[tuple[int, int]] = (2, 5)

    lowercase: Annotated[bool, Field(description="convert texts to lower case")] = True
    min_df: Annotated[
        AutoInt,
        Field(
            description="minimum number of training texts in which a word occurs (published: 5); auto: by the number of rows"
        ),
    ] = 0

    def resolved(self, rows: int, notes: list[str]) -> Self:
        if self.min_df:
            return self
        least = self.least_texts[rows >= FEW_ROWS]
        kept = "every word" if least == 1 else f"words that occur in at least {least} training texts"
        notes.append(f"words: {kept}, chosen for {rows:,} training rows (another number: --set classifier.min_df=N)")
        return self.model_copy(update={"min_df": least})

    @property
    def pieces(self) -> int:
        """Number of steps of fitting, for the progress bar."""
        return 1

    def training(self, asked: TrainTable) -> TrainTable:
        common = {key: getattr(asked, key) for key in COMMON_SETTINGS}
        return TrainTable(**common | {"device": "cpu", "precision": "float32"})

    def fit(
        self, train: Labelled, validation: Labelled, id2label: dict[int, str], table: TrainTable, step_done: StepDone
    ) -> Fitted:
        """Fit to `train`; `validation` is only used to choose among settings, by `table.metric`.

        table: training settings, of which seed and metric are used. step_done: called before each step of fitting. Raises
        UserError if no word is frequent enough.
        """
        settings = self.resolved(len(train.texts), [])
        vocabulary = settings._vocabulary(train.texts)
        vectorizer = self._vectorizer(vocabulary)
        features = sparse.csr_array(vectorizer.fit_transform(train.texts))
        arrays = {"idf": vectorizer.idf_} if self.tfidf else {}

        def evaluate(learned: Arrays) -> dict[str, Any]:
            held = sparse.csr_array(vectorizer.transform(validation.texts))
            return score(validation.labels, self.scores_of(held, learned), id2label)

        data = FittingData(features, train.labels, evaluate, table.metric, table.seed % 2**32, step_done)
        learned, found = self.learn(data)
        return Fitted(settings, id2label, vocabulary, arrays | learned, {"words": len(vocabulary)} | found)

    def _vectorizer(self, vocabulary: Vocabulary | None = None) -> Any:
        """Return scikit-learn's vectorizer, which computes the features (n, V), float64, of n texts."""
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        kind = TfidfVectorizer if self.tfidf else CountVectorizer
        return kind(lowercase=self.lowercase, vocabulary=vocabulary, dtype=np.float64)

    def _vocabulary(self, texts: Sequence[str]) -> Vocabulary:
        """Return the words that occur in `min_df` texts, in alphabetical order. Raises UserError if there are none."""
        words_of = self._vectorizer().build_analyzer()
        seen = Counter(word for text in texts for word in set(words_of(text)))
        vocabulary = tuple(sorted(word for word, texts_with in seen.items() if texts_with >= self.min_df))
        if not vocabulary:
            most = max(seen.values(), default=0)
            raise UserError(
                f"classifier.min_df: no word occurs in {self.min_df} of the {len(texts):,} training texts (the most "
                f"frequent one in {most}). Lower it, for example with --set classifier.min_df=1"
            )
        return vocabulary

    def learn(self, data: FittingData) -> tuple[Arrays, dict[str, Any]]:
        """Fit the model; return its arrays, and what was chosen."""
        raise NotImplementedError

    def scores_of(self, features: sparse.csr_array, arrays: Arrays) -> np.ndarray:
        """Return scores (n, C) from features (n, V)."""
        raise NotImplementedError

    def logits_of(
        self, vocabulary: Vocabulary, arrays: Arrays, labels: int, texts: Sequence[str], progress: Progress, device: str
    ) -> np.ndarray:
        vectorizer, found = self._vectorizer(vocabulary), [np.zeros((0, labels))]
        if self.tfidf:
            vectorizer.idf_ = arrays["idf"]
        for at in range(0, len(texts), BLOCK):
            block = texts[at : at + BLOCK]
            found.append(self.scores_of(sparse.csr_array(vectorizer.transform(block)), arrays))
            progress(len(block))
        return np.concatenate(found)


class SVM(Bag):
    """A linear support vector machine on tf-idf, one class against the rest (scikit-learn's LinearSVC)."""

    name = "svm"
    label_sets = True
    summary = "linear support vector machine on tf-idf"
    least_texts = (1, 2)
    scores = (
        "The scores are margins (the decision function), not log probabilities: they rank the classes, but their "
        "softmax is not a probability. Do not compare log loss, calibration error or the column `score` with those of "
        "other models."
    )

    C: Annotated[float, Field(gt=0, description="inverse regularization strength (published grid: 1e-4 to 1e4)")] = 1.0
    loss: Annotated[Literal["squared_hinge", "hinge"], Field(description="loss function")] = "squared_hinge"
    max_iter: Annotated[int, Field(ge=1, description="maximum iterations of the solver")] = 1000

    def learn(self, data: FittingData) -> tuple[Arrays, dict[str, Any]]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        data.step_done(0)
        model = LinearSVC(C=self.C, loss=self.loss, max_iter=self.max_iter, dual="auto", random_state=data.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if data.labels.ndim == 2:
                return self._learn_sets(model, data)
            model.fit(data.features, data.labels)
        converged = int(model.n_iter_) < self.max_iter
        return {"coefficients": model.coef_, "intercept": model.intercept_}, {"converged": converged}

    def _learn_sets(self, model: Any, data: FittingData) -> tuple[Arrays, dict[str, Any]]:
        """Fit one machine for each label: the rows that have it against the others. A label of all rows is constant."""
        slopes, intercepts, converged = [], [], True
        for has in data.labels.T:
            if has.all() or not has.any():
                slopes.append(np.zeros(data.features.shape[1]))
                intercepts.append(1.0 if has.all() else -1.0)
                continue
            model.fit(data.features, has)
            slopes.append(model.coef_[0])
            intercepts.append(float(model.intercept_[0]))
            converged = converged and int(model.n_iter_) < self.max_iter
        return {"coefficients": np.stack(slopes), "intercept": np.array(intercepts)}, {"converged": converged}

    def scores_of(self, features: sparse.csr_array, arrays: Arrays) -> np.ndarray:
        found = features @ arrays["coefficients"].T + arrays["intercept"]
        return np.hstack([-found, found]) if found.shape[1] == 1 else found  # two classes have one margin


class Forest(Bag):
    """A random forest on tf-idf (scikit-learn's RandomForestClassifier)."""

    name = "rf"
    summary = "random forest on tf-idf"
    scores = (
        "The scores are logarithms of the probability averaged over the trees. Probabilities below "
        f"{MIN_PROBABILITY:g} are set to {MIN_PROBABILITY:g}, which bounds the log loss."
    )

    trees: Annotated[int, Field(ge=1, description="number of trees")] = 150
    criterion: Annotated[Literal["gini", "entropy", "log_loss"], Field(description="impurity that splits minimize")] = (
        "gini"
    )
    max_depth: Annotated[int, Field(ge=0, description="maximum depth of a tree; 0: unlimited")] = 0

    @property
    def pieces(self) -> int:
        return self.trees

    def learn(self, data: FittingData) -> tuple[Arrays, dict[str, Any]]:
        from sklearn.ensemble import RandomForestClassifier

        depth = self.max_depth or None
        model = RandomForestClassifier(
            criterion=self.criterion, max_depth=depth, random_state=data.seed, n_jobs=-1, warm_start=True
        )
        step, grown = math.ceil(self.trees / 15), 0
        while grown < self.trees:  # steps only allow stopping and progress; the forest is the same as with one step
            data.step_done(0 if grown == 0 else step)
            grown = min(grown + step, self.trees)
            model.set_params(n_estimators=grown).fit(data.features, data.labels)
        return arrays_of([tree.tree_ for tree in model.estimators_]), {}

    def scores_of(self, features: sparse.csr_array, arrays: Arrays) -> np.ndarray:
        return np.log(np.maximum(mean_probabilities(features, arrays), MIN_PROBABILITY))


class Bayes(Bag):
    """Multinomial naive Bayes (scikit-learn's MultinomialNB): log p(c) + sum_w x_w log p(w | c), p(w | c) smoothed."""

    scores = (
        "The scores are log probabilities that assume independent words and are therefore overconfident: see log loss "
        "and calibration error. Do not read the column `score` as a confidence."
    )

    alpha: Annotated[float, Field(gt=0, description="smoothing: added to the count of every word")] = 1.0
    alphas: Annotated[
        tuple[Positive, ...],
        Field(description="values of `alpha` to try; the best on validation is kept; empty: only `alpha`"),
    ] = ()

    @property
    def pieces(self) -> int:
        return len(self.alphas) or 1

    def learn(self, data: FittingData) -> tuple[Arrays, dict[str, Any]]:
        from sklearn.naive_bayes import MultinomialNB

        best: Arrays = {}
        tried: list[dict[str, float]] = []
        chosen, reached = self.alpha, None
        for alpha in self.alphas or (self.alpha,):
            data.step_done(bool(tried))
            model = MultinomialNB(alpha=alpha, force_alpha=True).fit(data.features, data.labels)
            learned = {"word_log_probability": model.feature_log_prob_, "class_log_prior": model.class_log_prior_}
            if not self.alphas:
                return learned, {"alpha": alpha}
            value = data.evaluate(learned)[data.metric]
            tried.append({"alpha": alpha, f"validation_{data.metric}": value})
            if not best or better(data.metric, value, reached):
                best, chosen, reached = learned, alpha, value
        return best, {"alpha": chosen, "tried": tried}

    def scores_of(self, features: sparse.csr_array, arrays: Arrays) -> np.ndarray:
        return log_probabilities(features @ arrays["word_log_probability"].T + arrays["class_log_prior"])


class BayesCount(Bayes):
    """Multinomial naive Bayes on word counts."""

    name = "mnb-count"
    summary = "multinomial naive Bayes on counts"
    tfidf = False


class BayesTfidf(Bayes):
    """Multinomial naive Bayes on tf-idf."""

    name = "mnb-tfidf"
    summary = "multinomial naive Bayes on tf-idf"
