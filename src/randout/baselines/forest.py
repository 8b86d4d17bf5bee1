"""A random forest stored as arrays, and its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from .base import Arrays


def arrays_of(trees: Sequence[Any]) -> Arrays:
    """Concatenate scikit-learn's trees into arrays over all N nodes.

    roots: (trees,) root node of each tree. left, right: (N,) child nodes; a leaf is its own child. feature, threshold: (N,)
    go left if x[feature] <= threshold. probability: (N, C) share of each class among the node's training texts.
    """
    sizes = np.array([tree.node_count for tree in trees])
    roots = np.cumsum(sizes) - sizes
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("left", "right", "feature", "threshold", "probability")}
    for tree, root in zip(trees, roots, strict=True):
        here, leaf = np.arange(tree.node_count), tree.children_left < 0
        found["left"].append(root + np.where(leaf, here, tree.children_left))
        found["right"].append(root + np.where(leaf, here, tree.children_right))
        found["feature"].append(np.where(leaf, 0, tree.feature))
        found["threshold"].append(tree.threshold)
        found["probability"].append(tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True))
    kinds = {"threshold": np.float64, "probability": np.float32}  # thresholds lie between float32 values, so float64
    joined = {name: np.concatenate(parts).astype(kinds.get(name, np.int32)) for name, parts in found.items()}
    return joined | {"roots": roots.astype(np.int32)}


def mean_probabilities(features: sparse.csr_array, arrays: Arrays, block: int = 250) -> np.ndarray:
    """Return (n, C) class probabilities, averaged over the leaves that a text reaches in the trees. features: (n, V)."""
    found = [np.zeros((0, arrays["probability"].shape[1]))]
    for at in range(0, features.shape[0], block):
        dense = features[at : at + block].toarray().astype(np.float32)  # scikit-learn compares in float32
        leaves = _leaves(dense, arrays)
        found.append(arrays["probability"][leaves].mean(1, dtype=np.float64))
    return np.concatenate(found)


def _leaves(dense: np.ndarray, arrays: Arrays) -> np.ndarray:
    """Return (n, trees): the leaf that each text reaches in each tree. dense: (n, V)."""
    left, right, feature, threshold = (arrays[name] for name in ("left", "right", "feature", "threshold"))
    texts, trees = len(dense), len(arrays["roots"])
    nodes = np.tile(arrays["roots"], texts)  # (n * trees,)
    moving = np.arange(texts * trees)
    while len(moving):
        now = nodes[moving]
        goes_left = dense[moving // trees, feature[now]] <= threshold[now]
        nodes[moving] = np.where(goes_left, left[now], right[now])
        moving = moving[left[nodes[moving]] != nodes[moving]]
    return nodes.reshape(texts, trees)
