"""Locks of folders: who gets them, who loses them, and that a process that lost its lock writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from randout.core.errors import UserError
from randout.core.files import replace_text
from randout.storage import locks
from randout.storage.locks import Busy, LockLost, locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stops and kills as POSIX does")
EXPIRY = 0.6  # seconds in these tests
HOLDER = """
import sys, time
from pathlib import Path
from randout.core.files import replace_text
from randout.storage.locks import LockLost, locked
folder = Path(sys.argv[1])
try:
    with locked(folder, "run", wait="no"):
        print("held", flush=True)
        while True:
            time.sleep(0.02)
            replace_text(folder / "file", "holder")
except LockLost as lost:
    print(lost, flush=True)
"""


@pytest.fixture(autouse=True)
def short_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDOUT_LOCK_EXPIRY", str(EXPIRY))


@contextmanager
def holder(folder: Path, host: str = "") -> Iterator[Any]:
    """A process that holds the lock of a folder and writes a file there again and again."""
    environment = os.environ | ({"RANDOUT_HOST": host} if host else {})
    words = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def take(folder: Path) -> bool:
    """Whether this process can have the lock now, as a worker of a study asks for it."""
    try:
        with locked(folder, "run", wait="no"):
            return True
    except Busy:
        return False


def take_within(folder: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if take(folder):
            return True
        time.sleep(0.05)
    return False


def test_one_process_has_the_lock_and_a_killed_one_loses_it_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        words = rf"another process \(pid {process.pid} on .*\) is working on this run"
        with pytest.raises(Busy, match=words) as busy, locked(tmp_path, "run"):
            pass
        assert busy.value.holder.pid == process.pid
        assert locks.holder(tmp_path) == busy.value.holder
    assert locks.holder(tmp_path) is None
    assert take(tmp_path)


def test_a_paused_process_of_this_host_keeps_its_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert not take_within(tmp_path, 3 * EXPIRY)


def test_another_host_waits_for_the_expiry_of_a_dead_one_whatever_the_clocks_say(tmp_path: Path) -> None:
    with holder(tmp_path, "elsewhere") as process:
        assert not take_within(tmp_path, 2 * EXPIRY)  # it is alive
        process.kill()
        process.wait()
    for skew in (-1e6, 1e6):  # its clock is far behind or ahead
        os.utime(tmp_path / ".lease", (time.time() + skew, time.time() + skew))
        began = time.monotonic()
        assert not take(tmp_path)
        assert time.monotonic() - began < EXPIRY
    assert take_within(tmp_path, 10 * EXPIRY)


def test_a_plain_command_waits_until_it_knows_whether_another_host_is_alive(tmp_path: Path) -> None:
    with holder(tmp_path, "elsewhere") as process:
        with pytest.raises(Busy, match="on elsewhere"), locked(tmp_path, "run"):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path, "run"):
            assert locks.holder(tmp_path) == locks.Holder(locks.host(), os.getpid())


def test_a_paused_process_that_lost_its_lock_writes_nothing_more(tmp_path: Path) -> None:
    with holder(tmp_path, "elsewhere") as process:
        os.kill(process.pid, signal.SIGSTOP)
        until = time.monotonic() + 20 * EXPIRY
        while time.monotonic() < until:
            try:
                with locked(tmp_path, "run", wait="no"):
                    replace_text(tmp_path / "file", "ours")
                    os.kill(process.pid, signal.SIGCONT)
                    said = process.stdout.readline()
                    assert "lock was taken over" in said
                    assert f"pid {os.getpid()}" in said
                    process.wait(30)
                    assert (tmp_path / "file").read_text() == "ours"
                    replace_text(tmp_path / "file", "still ours")
                break
            except Busy:
                time.sleep(0.05)
        assert (tmp_path / "file").read_text() == "still ours"
    assert take(tmp_path)


def test_a_process_that_was_paused_and_whose_lock_nobody_took_goes_on(tmp_path: Path) -> None:
    with holder(tmp_path, "elsewhere") as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2 * EXPIRY)
        os.kill(process.pid, signal.SIGCONT)
        (tmp_path / "file").unlink(missing_ok=True)
        until = time.monotonic() + 30
        while not (tmp_path / "file").exists():
            assert process.poll() is None, "it stopped"
            assert time.monotonic() < until, "it writes nothing"
            time.sleep(0.02)
        assert not take(tmp_path)


def test_of_two_observers_one_takes_an_expired_lease(tmp_path: Path) -> None:
    with holder(tmp_path, "elsewhere") as process:
        process.kill()
        process.wait()
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom randout.storage.locks import Busy, locked\n"
            "until = time.monotonic() + 30\n"
            "while time.monotonic() < until:\n"
            "    try:\n"
            "        with locked(Path(sys.argv[1]), 'run', wait='no'):\n"
            "            once = Path(sys.argv[1], 'once')\n"
            "            once.touch(exist_ok=False); time.sleep(0.5); once.unlink(); print('had it'); break\n"
            "    except Busy: time.sleep(0.01)\n"
        )
        observers = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"RANDOUT_HOST": f"observer-{number}"},
            )
            for number in range(2)
        ]
        assert [one.communicate(timeout=60)[0] for one in observers] == ["had it\n"] * 2  # one after the other


def test_a_lock_that_is_gone_stops_every_write_below_its_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "run"):
        replace_text(tmp_path / "run" / "file", "before")
        (tmp_path / "run" / ".lease").unlink()
        with pytest.raises(LockLost, match="lock was taken over"):
            replace_text(tmp_path / "run" / "file", "after")
        replace_text(tmp_path / "elsewhere", "not locked")
    assert (tmp_path / "run" / "file").read_text() == "before"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "file"]


@pytest.mark.parametrize("text", ["soon", "0", "-1"])
def test_an_expiry_that_is_no_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RANDOUT_LOCK_EXPIRY", text)
    with pytest.raises(UserError, match="expected seconds"), locked(tmp_path, "run"):
        pass
