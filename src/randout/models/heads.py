"""Changes to a loaded classifier before training (fewer layers, a linear head), and conversion back to a stock model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from randout.core.errors import UserError

FOLD = 1e-4  # tanh(FOLD * x) / FOLD differs from x by a relative x^2 / 3e8


def keep_layers(model: Any, layers: Sequence[int], name: str) -> None:
    """Keep only the blocks `layers` (0 is the first), in the given order. Raises UserError if this model cannot be cut."""
    depth = model.config.num_hidden_layers
    check_layers(layers, depth, name)
    reason = ""
    if hasattr(model.config, "num_hidden_groups"):
        reason = "its blocks share their weights, so none can be left out"
    elif getattr(model.config, "layer_types", None):
        reason = "its blocks alternate between local and global attention by index"
    lists = [(m, key, child) for m in model.base_model.modules() for key, child in m.named_children()]
    found = [(m, key, child) for m, key, child in lists if isinstance(child, nn.ModuleList) and len(child) == depth]
    if reason or len(found) != 1:
        reason = reason or "its list of blocks was not found"
        raise UserError(f"student.layers: {name} ({type(model).__name__}) cannot be cut: {reason}; remove the setting")
    owner, key, blocks = found[0]
    setattr(owner, key, nn.ModuleList(blocks[layer] for layer in layers))
    model.config.num_hidden_layers = len(layers)


def check_layers(layers: Sequence[int], depth: int, name: str) -> None:
    """Raise UserError for layers that an encoder of `depth` blocks does not have, or that are listed twice."""
    if bad := [layer for layer in layers if not 0 <= layer < depth]:
        raise UserError(f"student.layers: {name} has layers 0 to {depth - 1}, got {bad[0]}")
    if twice := [layer for layer in layers if list(layers).count(layer) > 1]:
        raise UserError(f"student.layers: layer {twice[0]} is listed twice; two blocks cannot share their weights")


class LinearHead(nn.Module):
    """Linear head (paper, eq. 1): logits = W s_CLS + b, after the model family's dropout."""

    def __init__(self, drop: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.dropout, self.out_proj = drop, output

    def forward(self, features: Tensor, **_: Any) -> Tensor:
        return self.out_proj(self.dropout(features[:, 0]))


class FirstToken(nn.Module):
    """Pooler that returns the first token's state unchanged."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]


def put_linear_head(model: Any, name: str) -> None:
    """Make the classifier linear in s_CLS. Raises UserError if the family's stock head cannot express a linear one."""
    base = model.base_model
    classifier: Any = getattr(model, "classifier", None)
    pooler = getattr(base, "pooler", None)
    if isinstance(getattr(classifier, "out_proj", None), nn.Linear) and _is_foldable(classifier, "dense", "out_proj"):
        model.classifier = LinearHead(classifier.dropout, classifier.out_proj)
    elif isinstance(classifier, nn.Linear) and _is_foldable(pooler, "dense"):
        base.pooler = FirstToken()
    elif isinstance(classifier, nn.Linear) and isinstance(getattr(base, "pooler_activation", None), nn.Tanh):
        base.pooler, base.pooler_activation = nn.Identity(), nn.Identity()
    else:
        raise UserError(
            f'student.head = "linear": {name} ({type(model).__name__}) has no tanh in its head to fold a linear head '
            'into, so no stock class could load the result; use head = "model"'
        )


def _is_foldable(module: Any, dense: str, output: str = "") -> bool:
    """Test whether a pooler or head returns FOLD * s_CLS when its inner layer is FOLD times the identity."""
    inner = getattr(module, dense, None)
    if not isinstance(inner, nn.Linear) or inner.in_features != inner.out_features:
        return False
    tried = copy.deepcopy(module).eval()
    inner = getattr(tried, dense)
    inner.weight.data, inner.bias.data = torch.eye(inner.in_features) * FOLD, torch.zeros(inner.in_features)
    if output:
        setattr(tried, output, nn.Identity())
    states = torch.linspace(-3, 3, 3 * inner.in_features).view(1, 3, -1)  # (1, tokens, hidden)
    with torch.no_grad():
        return torch.allclose(tried(states) / FOLD, states[:, 0], rtol=1e-4, atol=1e-6)


def stock_state_dict(model: Any) -> dict[str, Tensor]:
    """State dict of a model with a linear head in the layout of its stock class: dense = c * I, output weights / c."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    like = state["classifier.out_proj.weight" if isinstance(model.classifier, LinearHead) else "classifier.weight"]
    identity = torch.eye(model.config.hidden_size, dtype=like.dtype, device=like.device) * FOLD
    prefix = model.base_model_prefix
    if isinstance(model.classifier, LinearHead):
        inner, output = "classifier.dense", "classifier.out_proj"
    elif isinstance(model.base_model.pooler, FirstToken):
        inner, output = f"{prefix}.pooler.dense", "classifier"
    else:
        inner, output = f"{prefix}.pooler", "classifier"
    state[f"{inner}.weight"], state[f"{inner}.bias"] = identity, torch.zeros_like(identity[0])
    state[f"{output}.weight"] = state[f"{output}.weight"] / FOLD
    return state


def is_linear(model: Any) -> bool:
    """Whether `put_linear_head` has changed this model."""
    pooler = getattr(model.base_model, "pooler", None)
    return isinstance(getattr(model, "classifier", None), LinearHead) or isinstance(pooler, FirstToken | nn.Identity)
