"""Bag-of-words and neural baselines (Table 4 of the paper), and the registry of both."""

from __future__ import annotations

from pathlib import Path

from .bag_of_words import SVM, Bag, BayesCount, BayesTfidf, Forest
from .base import Classifier, Fitted, Labelled, Vocabulary, is_fitted, kind_of
from .base import load as _load
from .neural import CNN, LSTM, Network

__all__ = [
    "BAGS",
    "CLASSIFIERS",
    "NETWORKS",
    "SVM",
    "Bag",
    "Classifier",
    "Fitted",
    "Labelled",
    "Network",
    "Vocabulary",
    "is_bag",
    "is_fitted",
    "load",
]

BAGS: dict[str, type[Bag]] = {kind.name: kind for kind in (SVM, Forest, BayesCount, BayesTfidf)}
NETWORKS: dict[str, type[Network]] = {kind.name: kind for kind in (CNN, LSTM)}
CLASSIFIERS: dict[str, type[Classifier]] = {**BAGS, **NETWORKS}


def load(folder: Path) -> Fitted:
    """Load the fitted baseline in a folder. Raises UserError if it is damaged or of an unknown kind."""
    return _load(folder, CLASSIFIERS)


def is_bag(folder: Path) -> bool:
    """Return whether a folder contains a fitted bag-of-words baseline."""
    return kind_of(folder) in BAGS
