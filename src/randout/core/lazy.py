"""PyTorch, imported at first use, for modules that load before any tensor is needed.

`from .lazy import F, nn, torch` replaces `import torch`, `import torch.nn.functional as F` and `from torch import nn`.
This way the settings of every method can be checked, and a misspelt one reported, without the seconds that PyTorch takes
to load. Import names that only annotations need under `TYPE_CHECKING`.
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
    """Proxy for a module that is imported when an attribute is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if not TYPE_CHECKING:
    torch, F, nn = _Module("torch"), _Module("torch.nn.functional"), _Module("torch.nn")
