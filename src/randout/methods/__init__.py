"""The shelf of methods: the one place where they are listed. A new method is one file and one line here."""

from __future__ import annotations

from ..method import Method
from .attention import AttentionPerturbation
from .ce import CrossEntropy
from .embedding_adversarial import EmbeddingAdversarial
from .freelb import FreeLB
from .kd import KnowledgeDistillation
from .r_drop import RDrop
from .randout import Randout

SHELF: tuple[type[Method], ...] = (
    CrossEntropy,
    KnowledgeDistillation,
    Randout,
    EmbeddingAdversarial,
    AttentionPerturbation,
    FreeLB,
    RDrop,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in SHELF}
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
