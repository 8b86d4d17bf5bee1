"""The shelf of methods: the one place where they are listed. A new method is one file and one line here."""

from __future__ import annotations

from ..method import Method
from .attention import AttentionPerturbation
from .ce import CrossEntropy
from .dropout import DropoutRates
from .embedding_adversarial import EmbeddingAdversarial
from .equal_l2 import EqualL2
from .freelb import FreeLB
from .gaussian import Gaussian
from .gaussian_contrastive import GaussianContrastive
from .kd import KnowledgeDistillation
from .mixout import Mixout
from .neftune import NEFTune
from .noisytune import NoisyTune
from .r_drop import RDrop
from .randout import Randout
from .scattered import Scattered

SHELF: tuple[type[Method], ...] = (
    CrossEntropy,
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
)
METHODS: dict[str, type[Method]] = {method.name: method for method in SHELF}
GOLD = CrossEntropy.name  # what a plain fine-tuning has alone
