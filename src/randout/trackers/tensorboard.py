"""Runs in TensorBoard: event files in the folder of the run, or of its study in a subfolder for each run."""

from __future__ import annotations

import importlib
from typing import Any

from .callbacks import CallbackTracker
from .described import Described


class TensorBoardTracker(CallbackTracker):
    """A run in TensorBoard. The callback would write to a folder named after the time; this one is the same on resuming."""

    def _callback(self, kind: Any) -> Any:
        self._kind = kind
        try:
            self._writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError:
            self._writer = importlib.import_module("tensorboardX").SummaryWriter
        return None

    def begin(self, run: Described) -> str:
        self._curves = run.curves
        purge = run.step + 1 if run.id else None  # steps after the checkpoint, which are trained again
        self.callback = self._kind(self._writer(log_dir=str(run.curves), purge_step=purge))
        super().begin(run)
        return run.curves.name

    def place(self) -> str:
        return f"tensorboard --logdir {self._curves}"
