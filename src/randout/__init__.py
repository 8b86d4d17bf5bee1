"""randout: fine-tune a small text classifier to match a big one, and know that it did.

    import randout
    result = randout.train("reviews.csv", student="sentence-transformers/all-MiniLM-L6-v2", teacher="roberta-large")

Heavy dependencies are imported on first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from .core.hardware import KERNELS, share_busy_cores

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch allocates huge pages: fewer page faults
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)  # one for every shape of a matrix product
share_busy_cores()

__version__ = "0.1.0"
_WHERE = {
    "train": "api",
    "predict": "api",
    "annotate": "api",
    "label_issues": "api",
    "label_shards": "api",
    "load": "api",
    "Predictor": "api",
    "evaluate": "api",
    "export": "api",
    "push": "api",
    "search": "api",
    "compare": "api",
    "cross_validate": "api",
    "report": "api",
    "shrink": "api",
    "Result": "experiments.run.pipeline",
    "Randout": "methods.randout",
    "KnowledgeDistillation": "methods.kd",
    "CrossEntropy": "methods.cross_entropy",
    "Contrastive": "methods.contrastive",
    "AttentionPerturbation": "methods.attention_noise",
    "DropoutRates": "methods.dropout_rates",
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
    "applied": "integrations.attach",
    "attached": "integrations.attach",
    "for_trainer": "integrations.hf_trainer",
    "kl_divergence": "methods.functional",
    "Method": "methods.base",
    "register": "methods.plugins",
    "UserError": "core.errors",
    "Failure": "core.errors",
    "Stopped": "experiments.run.options",
}

if TYPE_CHECKING:  # the same names as in `_WHERE`, for type checkers
    from .api import (
        Predictor,
        annotate,
        compare,
        cross_validate,
        evaluate,
        export,
        label_issues,
        label_shards,
        load,
        predict,
        push,
        report,
        search,
        shrink,
        train,
    )
    from .core.errors import Failure, UserError
    from .experiments.run.options import Stopped
    from .experiments.run.pipeline import Result
    from .integrations.attach import applied, attached
    from .integrations.hf_trainer import for_trainer
    from .methods.attention_noise import AttentionPerturbation
    from .methods.base import Method
    from .methods.contrastive import Contrastive
    from .methods.cross_entropy import CrossEntropy
    from .methods.dropout_rates import DropoutRates
    from .methods.embedding_adversarial import EmbeddingAdversarial
    from .methods.equal_l2 import EqualL2
    from .methods.freelb import FreeLB
    from .methods.functional import kl_divergence
    from .methods.gaussian import Gaussian
    from .methods.gaussian_contrastive import GaussianContrastive
    from .methods.kd import KnowledgeDistillation
    from .methods.mixout import Mixout
    from .methods.neftune import NEFTune
    from .methods.noisytune import NoisyTune
    from .methods.plugins import register
    from .methods.r_drop import RDrop
    from .methods.randout import Randout
    from .methods.scattered import Scattered

__all__ = [
    "AttentionPerturbation",
    "Contrastive",
    "CrossEntropy",
    "DropoutRates",
    "EmbeddingAdversarial",
    "EqualL2",
    "Failure",
    "FreeLB",
    "Gaussian",
    "GaussianContrastive",
    "KnowledgeDistillation",
    "Method",
    "Mixout",
    "NEFTune",
    "NoisyTune",
    "Predictor",
    "RDrop",
    "Randout",
    "Result",
    "Scattered",
    "Stopped",
    "UserError",
    "annotate",
    "applied",
    "attached",
    "compare",
    "cross_validate",
    "evaluate",
    "export",
    "for_trainer",
    "kl_divergence",
    "label_issues",
    "label_shards",
    "load",
    "predict",
    "push",
    "register",
    "report",
    "search",
    "shrink",
    "train",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "sklearn":
        return importlib.import_module("randout.sklearn")
    if name not in _WHERE:
        raise AttributeError(f"module 'randout' has no attribute {name!r}")
    return getattr(importlib.import_module(f"randout.{_WHERE[name]}"), name)
