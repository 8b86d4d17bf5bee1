"""PyTorch, imported at first use, for modules that load before any tensor is needed.

`from .lazy import F, nn, torch` stands for `import torch`, `import torch.nn.functional as F` and `from torch import nn`.
The settings of every method can so be checked, and a misspelt one reported, without the seconds that PyTorch takes to
load. Names that only annotations need are imported under `TYPE_CHECKING`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["F", "nn", "torch"]

if TYPE_CHECKING:
    import torch as torch
    import torch.nn.functional as F
    from torch import nn as nn


class _Module:
    """Stands for a module until, and after, one of its attributes is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if not TYPE_CHECKING:
    torch, F, nn = _Module("torch"), _Module("torch.nn.functional"), _Module("torch.nn")
