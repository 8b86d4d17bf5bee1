"""List of the built-in methods. To add one, write its module and add a line here.

`METHODS` is the registry of built-in methods, plugins and methods of installed packages (`registry`).
"""

from __future__ import annotations

from .attention_noise import AttentionPerturbation
from .base import Method
from .contrastive import Contrastive
from .cross_entropy import CrossEntropy
from .dropout_distillation import DropoutDistillation
from .dropout_rates import DropoutRates
from .embedding_adversarial import EmbeddingAdversarial
from .equal_l2 import EqualL2
from .freelb import FreeLB
from .gaussian import Gaussian
from .gaussian_contrastive import GaussianContrastive
from .hard_label import HardLabel
from .hinton import Hinton
from .kd import KnowledgeDistillation
from .layer_matching import LayerMatching
from .metadistil import MetaDistil
from .mixout import Mixout
from .multi_teacher import MultiTeacher
from .neftune import NEFTune
from .noisy_distillation import NoisyDistillation
from .noisytune import NoisyTune
from .r_drop import RDrop
from .randout import Randout
from .registry import Registry
from .scattered import Scattered
from .self_distillation import SelfDistillation
from .term_pooling import TermPooling
from .term_spans import TermSpans
from .weidc import WeiDC

BUILTIN: tuple[type[Method], ...] = (
    CrossEntropy,
    Contrastive,
    TermSpans,
    TermPooling,
    KnowledgeDistillation,
    Randout,
    DropoutRates,
    Mixout,
    NoisyTune,
    Gaussian,
    GaussianContrastive,
    NEFTune,
    EqualL2,
    Scattered,
    EmbeddingAdversarial,
    AttentionPerturbation,
    FreeLB,
    RDrop,
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
METHODS = Registry(BUILTIN)
GOLD = CrossEntropy.name  # the only method of plain fine-tuning
KD_ALONE = KnowledgeDistillation.name  # the baseline of other distillation methods
PAPERS_OWN = Randout.name  # the method of the paper
