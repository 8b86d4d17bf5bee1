"""The shelf of methods: the one place where they are listed. A new method is one file and one line here."""

from __future__ import annotations

from ..method import Method
from .ce import CrossEntropy
from .kd import KnowledgeDistillation
from .layers import Layers
from .metadistil import MetaDistil
from .noisy_distillation import NoisyDistillation
from .randout import Randout

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (CrossEntropy, KnowledgeDistillation, Randout, NoisyDistillation, MetaDistil, Layers)
}
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
