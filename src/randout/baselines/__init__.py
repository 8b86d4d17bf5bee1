"""Bag-of-words and neural baselines (Table 4 of the paper): the registry of all of them."""

from __future__ import annotations

from pathlib import Path

from .bag_of_words import SVM, Bag, BayesCount, BayesTfidf, Forest
from .base import Classifier, Fitted, Labelled, is_fitted
from .base import load as _load
from .neural import CNN, LSTM, Network

__all__ = ["CLASSIFIERS", "SVM", "Bag", "Classifier", "Fitted", "Labelled", "Network", "is_fitted", "load"]

CLASSIFIERS: dict[str, type[Classifier]] = {
    kind.name: kind for kind in (SVM, Forest, BayesCount, BayesTfidf, CNN, LSTM)
}


def load(folder: Path) -> Fitted:
    """The fitted classifier in a folder. Raises UserError for one that is damaged or not known."""
    return _load(folder, CLASSIFIERS)
