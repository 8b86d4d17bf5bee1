"""Reports a run to its trackers while it is trained, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from randout.core.terminal import Terminated
from randout.storage.run_folder import RunFolder
from randout.trackers.described import flat_settings
from randout.trackers.tracked_run import end_finished, track_run

from .options import Options, Paused, Stopped
from .plan import Plan


@contextmanager
def tracked_run(plan: Plan, run: RunFolder, options: Options) -> Iterator[Options]:
    """Yield the options with which the run of `plan` is trained and finished; trackers get its scores at the end."""
    settings = flat_settings(plan.config.model_dump(mode="json"))
    tracked = track_run(run, options.report_to, settings, options.show)
    try:
        yield replace(options, tracked=tracked)
    except Paused:
        tracked.end("paused")
        raise
    except (Stopped, Terminated, KeyboardInterrupt):
        tracked.end("stopped")
        raise
    except BaseException:
        tracked.end("failed")
        raise
    tracked.begin()  # a baseline that is fitted in one call has no curves
    end_finished(tracked, run)
