"""Which cells a driver submits to a cluster, when it does so again, and when it gives one up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from randout.experiments.sharing.cell_schedule import DEATHS, LONGEST_PAUSE, CellSchedule, Lock

CELLS = ["a", "b", "c", "d"]
LOCK: Lock = ("/runs/teacher", "")


def free(_lock: Lock) -> bool:
    return False


def test_each_cell_is_submitted_once_in_order_and_not_more_than_some_at_once() -> None:
    schedule = CellSchedule(at_once=3)
    assert schedule.due(CELLS, 0.0, free) == ["a", "b", "c"]
    assert schedule.due(CELLS, 1.0, free) == []
    schedule.finished("b")
    assert schedule.due(["a", "c", "d"], 2.0, free) == ["d"]
    assert schedule.submitted == {"a", "c", "d"}
    assert schedule.tried == []


def test_a_failed_cell_is_not_submitted_again() -> None:
    schedule = CellSchedule()
    schedule.due(["a", "b"], 0.0, free)
    schedule.failed_run("a")
    assert schedule.tried == ["a"]
    assert schedule.due(["a", "b"], 99.0, free) == []


def test_a_finished_cell_can_be_open_again_at_the_next_rung() -> None:
    schedule = CellSchedule()
    schedule.due(["a"], 0.0, free)
    schedule.finished("a")
    assert schedule.due(["a"], 0.0, free) == ["a"]


@pytest.mark.parametrize("end", ["lost", "died", "busy"])
def test_a_cell_comes_back_after_a_pause(end: str) -> None:
    schedule = CellSchedule()
    schedule.due(["a"], 0.0, free)
    ends: dict[str, Callable[[], None]] = {
        "lost": lambda: schedule.lost("a", 10.0),
        "died": lambda: schedule.died("a", "was killed by SIGKILL", 10.0),
        "busy": lambda: schedule.busy("a", None, 10.0),
    }
    ends[end]()
    assert schedule.submitted == set()
    assert schedule.due(["a"], 10.0, free) == []
    assert schedule.due(["a"], 10.0 + LONGEST_PAUSE, free) == ["a"]
    assert schedule.tried == []


def test_a_busy_cell_waits_until_its_lock_is_free_and_each_lock_is_asked_once() -> None:
    schedule, asked = CellSchedule(), []

    def held(lock: Lock) -> bool:
        asked.append(lock)
        return True

    schedule.due(CELLS, 0.0, free)
    for name in CELLS:
        schedule.busy(name, LOCK, 0.0)
    now = LONGEST_PAUSE
    assert schedule.due(CELLS, now, held) == []
    assert asked == [LOCK]
    assert schedule.due(CELLS, now, free) == [], "its pause begins again"
    assert schedule.due(CELLS, now + LONGEST_PAUSE, free) == CELLS


def test_waiting_for_a_lock_is_never_given_up() -> None:
    schedule = CellSchedule()
    for at in range(20 * DEATHS):
        assert schedule.due(["a"], at * 2 * LONGEST_PAUSE, free) == ["a"]
        schedule.busy("a", LOCK, at * 2 * LONGEST_PAUSE)
    assert schedule.tried == []


def test_a_cell_whose_process_dies_again_and_again_is_given_up() -> None:
    schedule = CellSchedule()
    for at in range(DEATHS):
        assert schedule.due(["a", "b"] if not at else ["a"], at * 2 * LONGEST_PAUSE, free)
        schedule.died("a", f"was killed by SIGSEGV, time {at + 1}", at * 2 * LONGEST_PAUSE)
    assert schedule.given_up == {"a": f"was killed by SIGSEGV, time {DEATHS}"}
    assert schedule.due(["a"], 1e9, free) == []
    assert schedule.submitted == {"b"}


def test_deaths_before_a_cell_advanced_are_forgotten() -> None:
    schedule, now = CellSchedule(), 0.0
    for _ in range(3):
        for _ in range(DEATHS - 1):
            now += 2 * LONGEST_PAUSE
            assert schedule.due(["a"], now, free) == ["a"]
            schedule.died("a", "was killed by SIGKILL", now)
        now += 2 * LONGEST_PAUSE
        schedule.due(["a"], now, free)
        schedule.finished("a")
    assert schedule.given_up == {}
