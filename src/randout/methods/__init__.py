"""The shelf of methods: the one place where they are listed. A new method is one file and one line here."""

from __future__ import annotations

from ..method import Method
from .ce import CrossEntropy
from .dropout_distillation import DropoutDistillation
from .hard_label import HardLabel
from .hinton import Hinton
from .kd import KnowledgeDistillation
from .layer_matching import LayerMatching
from .metadistil import MetaDistil
from .multi_teacher import MultiTeacher
from .noisy_distillation import NoisyDistillation
from .randout import Randout
from .self_distillation import SelfDistillation
from .weidc import WeiDC

SHELF: tuple[type[Method], ...] = (
    CrossEntropy,
    KnowledgeDistillation,
    Randout,
    Hinton,
    HardLabel,
    MultiTeacher,
    SelfDistillation,
    WeiDC,
    DropoutDistillation,
    NoisyDistillation,
    MetaDistil,
    LayerMatching,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in SHELF}
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
KD_ALONE = KnowledgeDistillation.name  # what other methods of distillation are compared with
PAPERS_OWN = Randout.name
