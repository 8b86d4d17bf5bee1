"""randout: fine-tune a small text classifier to match a big one, and know that it did.

    import randout
    result = randout.train("reviews.csv", student="sentence-transformers/all-MiniLM-L6-v2", teacher="roberta-large")

Nothing heavy is loaded until it is used.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch takes large memory pages: fewer page faults
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")  # a kernel is compiled for every shape of a product

__version__ = "0.1.0"
_WHERE = {
    "train": "api",
    "predict": "api",
    "Result": "job",
    "Randout": "methods.randout",
    "KnowledgeDistillation": "methods.kd",
    "CrossEntropy": "methods.ce",
    "Contrastive": "methods.contrastive",
    "AttentionPerturbation": "methods.attention",
    "DropoutRates": "methods.dropout",
    "EmbeddingAdversarial": "methods.embedding_adversarial",
    "EqualL2": "methods.equal_l2",
    "FreeLB": "methods.freelb",
    "Gaussian": "methods.gaussian",
    "GaussianContrastive": "methods.gaussian_contrastive",
    "Mixout": "methods.mixout",
    "NEFTune": "methods.neftune",
    "NoisyTune": "methods.noisytune",
    "RDrop": "methods.r_drop",
    "Scattered": "methods.scattered",
    "attached": "foreign",
    "for_trainer": "trainer",
    "kl_divergence": "losses",
    "UserError": "errors",
    "Failure": "errors",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'randout' has no attribute {name!r}")
    return getattr(importlib.import_module(f"randout.{_WHERE[name]}"), name)
