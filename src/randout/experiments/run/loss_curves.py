"""What trackers are told while a network is trained: mean losses every few steps, and each validation."""

from __future__ import annotations

from randout.storage.metrics_record import Epoch
from randout.trackers.described import VALIDATION, epoch_values
from randout.trackers.tracked_run import TrackedRun
from randout.training.schedule import learning_rate
from randout.training.state import Event, TrainingData, TrainingState

POINTS = 200  # of a curve over the whole training, at most


class LossCurves:
    """The curves of a training from its present position on. tracked: None or without trackers, every call does nothing.

    The loop adds the losses of an epoch up as it reads them; a point is the mean of what was added since the last one, so that
    nothing is computed or read for it.
    """

    def __init__(self, training: TrainingState, data: TrainingData, tracked: TrackedRun | None) -> None:
        self._training, self._tracked = training, tracked or None
        self._steps = data.steps(training.settings)
        self._every = max(1, -(-self._steps // POINTS))
        if self._tracked is not None:
            self._tracked.begin(training.position.step, self._steps)
            self._mark()

    def take(self, event: Event) -> None:
        """Report the event of the loop, if it is time for a point."""
        if self._tracked is None:
            return
        position = self._training.position
        if event.metrics is not None:
            values = epoch_values(Epoch.model_validate(position.history[-1]))  # its mean losses would be second points
            own = {name: value for name, value in values.items() if name.startswith((VALIDATION, "epoch"))}
            self._tracked.log(own, position.step)
            self._mark()
        elif (
            position.step - self._step >= self._every and not self._training.pending
        ):  # on a GPU, losses are read at once
            if values := self._means():
                self._tracked.log(values, position.step)
            self._mark()

    def _means(self) -> dict[str, float]:
        """Return the means of what was logged since the last point; empty if that was nothing."""
        position, settings = self._training.position, self._training.settings
        before = self._sums if position.epoch == self._epoch else {}
        found = {}
        for name, (total, count) in position.sums.items():
            was, counted = before.get(name, (0.0, 0))
            if count > counted:
                found[name] = (total - was) / (count - counted)
        if not found:
            return {}
        found["loss"] = sum(value for name, value in found.items() if name.startswith("loss_"))
        per_epoch = max(1, self._steps // settings.epochs)
        return found | {
            "learning_rate": learning_rate(settings, max(position.step - 1, 0), self._steps),
            "epoch": position.epoch + position.batch / per_epoch,
        }

    def _mark(self) -> None:
        position = self._training.position
        self._step, self._epoch = position.step, position.epoch
        self._sums = {name: (total, count) for name, (total, count) in position.sums.items()}
