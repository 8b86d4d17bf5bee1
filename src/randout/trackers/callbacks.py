"""A tracker as transformers serves it: its reporting callback, called with stand-ins for the parts of a Trainer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .described import Described

PROJECT = "randout"  # where runs are shown, unless the tracker's environment variables say otherwise
Ending = Literal["finished", "paused", "stopped", "failed"]


@dataclass
class Arguments:
    """What the callbacks read of `transformers.TrainingArguments`. settings: flat."""

    run_name: str
    output_dir: str
    settings: dict[str, Any]
    project: str = PROJECT
    logging_steps: int = 1
    max_steps: int = -1
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    resume_from_checkpoint: str | None = None
    hub_private_repo: bool | None = None
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: bool = False
    report_to: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.settings)

    def to_sanitized_dict(self) -> dict[str, Any]:
        return dict(self.settings)

    def to_json_string(self) -> str:
        return json.dumps(self.settings, indent=2)


class CallbackTracker:
    """A run in a tracker, through the callback `name` of transformers. Made in the main thread, then called in another one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.callback = self._callback(_callback_class(name))

    def _callback(self, kind: Any) -> Any:
        return kind()

    def begin(self, run: Described) -> str:
        """Start the run, or resume it; returns its id in the tracker, empty if it has none."""
        from transformers import TrainerControl, TrainerState

        settings = {} if run.id else run.settings | self.told(run)  # of a resumed run they are there
        self.arguments = Arguments(run.name, str(run.folder), settings, max_steps=run.steps)
        self.arguments.project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.arguments.trackio_space_id = os.environ.get("TRACKIO_SPACE_ID")
        self.arguments.resume_from_checkpoint = str(run.folder) if run.id else None
        self.state, self.control = TrainerState(global_step=run.step, max_steps=run.steps), TrainerControl()
        self._call("on_init_end")
        self._call("on_train_begin")
        return ""

    def told(self, run: Described) -> dict[str, Any]:
        """Return what is passed on with the settings."""
        return run.about

    def log(self, values: dict[str, float], step: int) -> None:
        """Report values at an optimizer step."""
        self.state.global_step, self.state.epoch = step, values.get("epoch", self.state.epoch)
        self._call("on_log", logs=values)
        self._call("on_step_end")

    def upload(self, folder: Path) -> None:
        """Upload a finished run's model, if the user asked this tracker for it."""

    def end(self, how: Ending) -> None:
        """End the run."""
        self._call("on_train_end")

    def place(self) -> str:
        """Return where the run can be looked at; empty if unknown."""
        return ""

    def _call(self, event: str, **more: Any) -> None:
        getattr(self.callback, event)(self.arguments, self.state, self.control, model=None, **more)


def _callback_class(name: str) -> Any:
    from transformers.integrations import get_reporting_integration_callbacks

    (found,) = get_reporting_integration_callbacks([name])
    return found


def is_set(variable: str) -> bool:
    """Return whether an environment variable is set to a true value, as transformers reads it."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")
