"""Which experiment trackers a command reports to (`--report-to`), checked before PyTorch is loaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from randout.core.errors import UserError, nearest

NONE, ALL = "none", "all"
PACKAGES: dict[str, tuple[str, str]] = {  # tracker, as transformers names it: its module, and what pip installs
    "azure_ml": ("azureml.core", "azureml-sdk"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub mlflow"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit flytekitplugins-deck-standard"),
    "kubeflow": ("", ""),  # transformers sends it messages itself
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}


@dataclass(frozen=True)
class ReportTo:
    """The trackers that runs are reported to; nothing here changes a result.

    study: folder of the study that runs are reported for; None for none. study_name: its name. label: of the run in its
    study; empty: as the run is called.
    """

    names: tuple[str, ...] = ()
    study: Path | None = None
    study_name: str = ""
    label: str = ""

    def labelled(self, label: str) -> ReportTo:
        """Return the same for a run with this label."""
        return replace(self, label=label)

    def only(self, names: Sequence[str]) -> ReportTo:
        """Return the same for some of the trackers."""
        return replace(self, names=tuple(names))

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, for another process."""
        found = {"names": list(self.names), "study_name": self.study_name, "label": self.label}
        return found | {"study": None if self.study is None else str(self.study.absolute())}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ReportTo:
        """Return what `as_json` was called on."""
        study = None if value["study"] is None else Path(value["study"])
        return ReportTo(tuple(value["names"]), study, value["study_name"], value["label"])


def trackers_of(asked: str | Sequence[str] | None, spelt: str = "--report-to") -> ReportTo:
    """Return the trackers that a command or call names: a list or a comma-separated text, "all" of those installed, or "none".

    Raises UserError for an unknown one, and for one that is not installed or, of W&B, that nobody is logged in to.
    """
    if not isinstance(asked, str | list | tuple | None) or not all(isinstance(one, str) for one in asked or ()):
        raise UserError(f"{spelt}: found {asked!r:.80}; expected names of trackers, such as 'tensorboard,mlflow'")
    words = asked.split(",") if isinstance(asked, str) else asked or ()
    names = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if NONE in names and len(names) > 1:
        raise UserError(f"{spelt}: none stands alone; found {', '.join(names)}")
    if names == [NONE]:
        return ReportTo()
    if ALL in names:
        names = [name for name, (module, _) in PACKAGES.items() if module and _installed(module)]
    for name in names:
        if name not in PACKAGES:
            raise UserError(
                f"{spelt}: no tracker {name!r}.{nearest(name, PACKAGES)} Known are {', '.join(PACKAGES)}; all; none"
            )
        module, package = PACKAGES[name]
        if module and not _installed(module):
            raise UserError(f"{spelt} {name}: not installed. Install it with: pip install {package}")
    if "wandb" in names:
        _check_wandb(spelt)
    return ReportTo(tuple(names))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package above it is missing
        return module == "tensorboard" and importlib.util.find_spec("tensorboardX") is not None


def _check_wandb(spelt: str) -> None:
    """Raise UserError if W&B would ask for a key, which must not happen in the middle of a training."""
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return
    import wandb

    settings = wandb.setup().settings
    if settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise UserError(
            f"{spelt} wandb: not logged in. Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to write to the "
            "folder wandb only"
        )
