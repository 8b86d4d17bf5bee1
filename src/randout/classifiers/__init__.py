"""The shelf of classifiers of words (Table 4): the one place where they are listed."""

from __future__ import annotations

from pathlib import Path

from .bag import SVM, Bag, BayesCount, BayesTfidf, Forest
from .base import Classifier, Fitted, Labelled, is_fitted
from .base import load as _load
from .networks import CNN, LSTM, Network

__all__ = ["CLASSIFIERS", "SVM", "Bag", "Classifier", "Fitted", "Labelled", "Network", "is_fitted", "load"]

CLASSIFIERS: dict[str, type[Classifier]] = {
    kind.name: kind for kind in (SVM, Forest, BayesCount, BayesTfidf, CNN, LSTM)
}


def load(folder: Path) -> Fitted:
    """The fitted classifier in a folder. Raises UserError for one that is damaged or not known."""
    return _load(folder, CLASSIFIERS)
