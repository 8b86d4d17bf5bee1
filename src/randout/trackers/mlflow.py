"""Runs in MLflow: those of a study are nested in a run for the study."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from .callbacks import PROJECT, CallbackTracker, Ending, is_set
from .described import Described

MODEL = "HF_MLFLOW_LOG_ARTIFACTS"  # as transformers reads it
STATUS: dict[Ending, str] = {"finished": "FINISHED", "paused": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


class MLflowTracker(CallbackTracker):
    """A run in MLflow. MLflow's active run belongs to a thread, so that this one never meets the caller's."""

    def _callback(self, kind: Any) -> Any:
        import mlflow

        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output holds results
        self._mlflow = mlflow
        active = mlflow.active_run()
        self._outer = active.info.run_id if active else None
        return kind()

    def begin(self, run: Described) -> str:
        mlflow = self._mlflow
        if run.id and not self._resumed(run.id):  # deleted, or of another server
            run = replace(run, id="")
        if not run.id:
            if "MLFLOW_EXPERIMENT_ID" not in os.environ:
                mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
            tags = {f"randout.{name}": value for name, value in run.about.items()}
            mlflow.start_run(run_name=run.name, parent_run_id=run.parent or self._outer, tags=tags)
        super().begin(run)
        self.callback._async_log = False  # this is a thread of its own already, and an error must be seen
        self._id = str(mlflow.active_run().info.run_id)
        return self._id

    def _resumed(self, name: str) -> bool:
        """Resume a run; returns False if there is none with this id."""
        try:
            self._mlflow.start_run(run_id=name)
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def told(self, run: Described) -> dict[str, Any]:
        return {}  # they are tags

    def upload(self, folder: Path) -> None:
        if is_set(MODEL):
            self._mlflow.log_artifacts(str(folder), "model")

    def end(self, how: Ending) -> None:
        super().end(how)
        self._mlflow.end_run(STATUS[how])

    def place(self) -> str:
        return f"{self._mlflow.get_tracking_uri()}, run {self._id}"
