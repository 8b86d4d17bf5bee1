"""The shelf of methods: the one place where they are listed. A new method is one file and one line here."""

from __future__ import annotations

from ..method import Method
from .ce import CrossEntropy
from .kd import KnowledgeDistillation
from .randout import Randout

METHODS: dict[str, type[Method]] = {method.name: method for method in (CrossEntropy, KnowledgeDistillation, Randout)}
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
KD_ALONE = KnowledgeDistillation.name  # what other methods of distillation are compared with
PAPERS_OWN = Randout.name
