"""Runs in Weights & Biases: those of a study are a group."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from .callbacks import PROJECT, CallbackTracker, Ending
from .described import Described

MODEL = "WANDB_LOG_MODEL"  # as transformers reads it: end, checkpoint or false
_begun: set[str] = set()  # ids of the runs that this process has begun; another one is the caller's


class WandbTracker(CallbackTracker):
    """A run in W&B; that of the caller, if there is one, as in a sweep."""

    def _callback(self, kind: Any) -> Any:
        import wandb

        self._wandb = wandb
        self._given = wandb.run is not None and wandb.run.id not in _begun
        asked = os.environ.pop(MODEL, None)  # the callback would save a model of the Trainer
        try:
            return kind()
        finally:
            if asked is not None:
                os.environ[MODEL] = asked

    def begin(self, run: Described) -> str:
        name = run.id or uuid.uuid4().hex[:8]
        if not self._given:
            _begun.add(name)
            settings = self._wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off"), silent=True)
            self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.name,
                group=os.environ.get("WANDB_RUN_GROUP") or run.study or None,
                id=name,
                resume="allow",
                reinit="finish_previous",  # of a run that was given up after an error
                settings=settings,
            )
        super().begin(run)
        return str(self._wandb.run.id)

    def upload(self, folder: Path) -> None:
        if os.environ.get(MODEL, "false").lower() in ("end", "checkpoint"):
            model = self._wandb.Artifact(f"model-{self._wandb.run.id}", type="model")
            model.add_dir(str(folder))
            self._wandb.run.log_artifact(model, aliases=["final_model"])

    def end(self, how: Ending) -> None:
        super().end(how)
        if not self._given:
            self._wandb.finish(exit_code=1 if how == "failed" else 0)

    def place(self) -> str:
        run = self._wandb.run
        if run is None:
            return ""
        return str(run.dir if run.offline else run.url)
