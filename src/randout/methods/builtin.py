"""The built-in methods: the one place where they are listed. A new one is one file and one line here.

`METHODS` is the registry of these and of methods from elsewhere (`registry`).
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
from .weidc import WeiDC

BUILTIN: tuple[type[Method], ...] = (
    CrossEntropy,
    Contrastive,
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
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
KD_ALONE = KnowledgeDistillation.name  # what other methods of distillation are compared with
PAPERS_OWN = Randout.name
