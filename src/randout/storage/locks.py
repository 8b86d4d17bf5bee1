"""Locks of folders: one process at a time works on a run, on one machine or on several that share a file system.

A lock has two layers.

* The kernel's lock on the file `.lock` tells at once whether a process of this machine is alive: a killed process loses it, a
  paused one keeps it.
* The lease, in the file `.lease`, tells the same where kernel locks do not reach: it names the host, the process and a random
  token, and holds a counter that a thread of its holder increases every few seconds. Another host takes a lease over once the
  counter has stood still for the holder's `expiry` seconds, measured with the observer's own clock: clocks of two machines are
  never compared.

The holder writes its counter into the file that it opened, never to the path, so that a process that wakes after its lease was
taken over cannot overwrite the new one. `verify` is called before each file of a locked folder is moved into place
(`core.files.PUBLISH_CHECKS`) and raises `LockLost` in such a process.

Environment: `RANDOUT_LOCK_EXPIRY`, the seconds after which a lease of this process expires (default 60). `RANDOUT_HOST`, another
name for this machine; processes with different names do not see each other's kernel locks, as on two machines.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from randout.core import files
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.hardware import boot_id

EXPIRY = 60.0  # seconds, unless RANDOUT_LOCK_EXPIRY says otherwise
BEATS_PER_EXPIRY = 12
START = b'{"beat": "'  # of a lease; the counter follows in `DIGITS` digits, so that it can be changed in place
DIGITS = 12
SHORT_PAUSE, LONG_PAUSE = 0.02, 0.5  # seconds between two attempts to get a lock

Wait = Literal["no", "observe", "yes"]


def host() -> str:
    """Return the name of this machine in locks."""
    return os.environ.get("RANDOUT_HOST") or platform.node() or "unknown"


def expiry() -> float:
    """Return after how many seconds without a beat a lease of this process expires. Raises UserError."""
    text = os.environ.get("RANDOUT_LOCK_EXPIRY", "")
    try:
        found = float(text or EXPIRY)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 86400:
        raise UserError(f"RANDOUT_LOCK_EXPIRY: found {text!r}; expected seconds, such as 60")
    return found


def awake_and_asleep() -> float:
    """Return the seconds of a clock that also counts while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. pid: 0 if it is not known."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" if self.pid else "pid unknown"


class Busy(UserError):
    """Another process holds a lock. folder, name: of the lock. holder: the process."""

    def __init__(self, folder: Path, name: str, holder: Holder, what: str) -> None:
        super().__init__(f"{folder}: another process ({holder}) is working on this {what}")
        self.folder, self.name, self.holder = folder, name, holder


class LockLost(Failure):
    """This process was paused for so long that another one took its lock over; nothing more may be written."""


@dataclass(frozen=True)
class _Lease:
    token: str
    beat: str
    host: str = "unknown"
    boot: str = ""
    pid: int = 0
    expiry: float = EXPIRY

    @property
    def holder(self) -> Holder:
        return Holder(self.host, self.pid)

    @property
    def is_of_this_host(self) -> bool:
        return (self.host, self.boot) == (host(), boot_id())

    def text(self) -> bytes:
        about = {"token": self.token, "host": self.host, "boot": self.boot, "pid": self.pid, "expiry": self.expiry}
        return START + self.beat.encode() + b'", ' + json.dumps(about).encode()[1:] + b"\n"


def _read(path: Path) -> _Lease | None:
    """Return the lease in a file; None if there is none. What cannot be read is a lease of an unknown host."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return _Lease(f"unreadable: {error.errno}", "")
    try:
        found = json.loads(data)
        return _Lease(**{name: found[name] for name in ("token", "beat", "host", "boot", "pid", "expiry")})
    except (ValueError, KeyError, TypeError):
        return _Lease(data.hex(), "")


def _create(path: Path, lease: _Lease) -> bool:
    """Write a lease where there is none, completely or not at all; return False if there is one by then."""
    private = path.with_name(f"{path.name}.{lease.token[:8]}.partial")
    private.write_bytes(lease.text())
    try:
        os.link(private, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError), path.open("xb") as stream:
            stream.write(lease.text())
    finally:
        private.unlink(missing_ok=True)
    found = _read(path)  # over a network, an error may be reported although the link was made
    return found is not None and found.token == lease.token


def _remove(path: Path, token: str, beat: str | None = None) -> bool:
    """Remove the lease with a token and, if given, an unchanged counter; of several processes exactly one returns True.

    The file is moved aside first and read there, because it may have become another one since it was last read.
    """
    private = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.rename(private)
    except OSError:
        return False
    found = _read(private)
    if found is not None and found.token == token and beat in (None, found.beat):
        private.unlink(missing_ok=True)
        return True
    try:
        os.link(private, path)
    except FileExistsError:
        pass
    except OSError:
        with suppress(OSError):
            private.rename(path)
    private.unlink(missing_ok=True)
    return False


_observed: dict[Path, tuple[str, str, float]] = {}  # by lease: token, counter, and since when both are unchanged


def _has_expired(path: Path, lease: _Lease) -> bool:
    """Return whether this process has seen a lease unchanged for as long as its holder said that it may be."""
    now, before = time.monotonic(), _observed.get(path)
    if before is None or before[:2] != (lease.token, lease.beat):
        _observed[path] = (lease.token, lease.beat, now)
        return False
    return now - before[2] >= lease.expiry


class _Lock:
    """A lock that this process holds."""

    def __init__(self, folder: Path, lease_file: Path, stream: BinaryIO, lease: _Lease) -> None:
        self.folder, self.lease_file, self.stream = folder, lease_file, stream
        self._lease, self._count, self._mutex, self.lost = lease, 0, threading.Lock(), False
        self._descriptor = os.open(lease_file, os.O_RDWR)
        self._last = awake_and_asleep()

    def beat(self) -> None:
        """Increase the counter; called by a thread every few seconds."""
        with self._mutex:
            if self.lost or self._descriptor < 0:
                return
            if self._is_late():
                self._renew()
                return
            self._count += 1
            with suppress(OSError):  # a disk that fails for a moment: the lock is lost only after `expiry` seconds
                os.lseek(self._descriptor, len(START), os.SEEK_SET)
                os.write(self._descriptor, f"{self._count:0{DIGITS}d}".encode())
                os.fsync(self._descriptor)
                self._last = awake_and_asleep()
            self.lost = not self._is_ours()

    def verify(self) -> None:
        """Raise LockLost if another process has taken this lock over."""
        with self._mutex:
            if not self.lost and self._is_late():
                self._renew()
            elif not self.lost:
                self.lost = not self._is_ours()
            if self.lost:
                taker = _read(self.lease_file)
                by = f" by another process ({taker.holder})" if taker is not None else ""
                raise LockLost(
                    f"{self.folder}: this process did not run for a while, and its lock was taken over{by}. Nothing more is "
                    "written here; the other process goes on from the last checkpoint"
                )

    def release(self) -> None:
        """Give the lock back."""
        with self._mutex:
            os.close(self._descriptor)
            self._descriptor = -1
            if not self.lost:
                _remove(self.lease_file, self._lease.token)
            self.stream.close()

    def _is_late(self) -> bool:
        return awake_and_asleep() - self._last > self._lease.expiry

    def _is_ours(self) -> bool:
        for _ in range(5):  # an observer that came too late moves a lease aside for a moment and puts it back
            found = _read(self.lease_file)
            if found is not None:
                return found.token == self._lease.token
            time.sleep(SHORT_PAUSE)
        return False

    def _renew(self) -> None:
        """After a pause, take the own lease over as any other process would: only one of them gets it."""
        lease = _new_lease()
        if _remove(self.lease_file, self._lease.token) and _create(self.lease_file, lease):
            os.close(self._descriptor)
            self._lease, self._count, self._last = lease, 0, awake_and_asleep()
            self._descriptor = os.open(self.lease_file, os.O_RDWR)
        else:
            self.lost = True


def _new_lease() -> _Lease:
    return _Lease(secrets.token_hex(16), "0" * DIGITS, host(), boot_id(), os.getpid(), expiry())


_held: list[_Lock] = []
_wake = threading.Event()
_beating: list[threading.Thread] = []


def _beat_all() -> None:
    while True:
        _wake.wait(min((expiry() / BEATS_PER_EXPIRY, EXPIRY)))
        for lock in tuple(_held):
            lock.beat()


def _hold(lock: _Lock) -> None:
    _held.append(lock)
    if not _beating or not _beating[0].is_alive():  # not alive: in a forked process
        _beating[:] = [threading.Thread(target=_beat_all, name="randout locks", daemon=True)]
        _beating[0].start()


def verify(path: Path) -> None:
    """Raise LockLost if `path` lies in a folder whose lock this process held and lost."""
    if _held:
        place = Path(os.path.abspath(path))
        for lock in tuple(_held):
            if lock.folder == place or lock.folder in place.parents:
                lock.verify()


files.PUBLISH_CHECKS.append(verify)


def _files_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the file of the kernel's lock and that of the lease."""
    start = f".{name}" if name else ""
    simulated = os.environ.get("RANDOUT_HOST")
    return folder / f"{start}.lock{f'.{simulated}' if simulated else ''}", folder / f"{start}.lease"


def _kernel_lock(stream: BinaryIO, folder: Path) -> bool | None:
    """Try to get the kernel's lock: True, False if another process has it, None if the file system has no such locks."""
    from filelock import lock_descriptor  # not needed by commands that only read

    try:
        return lock_descriptor(stream.fileno(), blocking=False)
    except OSError as error:
        _warn_of_no_locks(folder, error.strerror or str(error))
        return None


def _is_dead(lease: _Lease, path: Path, kernel: bool | None) -> bool:
    """Return whether the holder of a lease does not live any more. kernel: whether the kernel's lock was free."""
    if lease.is_of_this_host:
        if kernel:
            return True
        try:
            os.kill(lease.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
    return _has_expired(path, lease)


def _attempt(folder: Path, name: str) -> _Lock | tuple[bool, _Lease]:
    """Get the lock, or return whether the kernel says that another process has it, and the lease of that process."""
    lock_file, lease_file = _files_of(folder, name)
    stream = lock_file.open("ab+", buffering=0)
    try:
        kernel = _kernel_lock(stream, folder)
        found = _read(lease_file)
        if kernel is not False:
            if found is not None and _is_dead(found, lease_file, kernel):
                found = None if _remove(lease_file, found.token, found.beat) else _read(lease_file)
            if found is None:
                lease = _new_lease()
                if _create(lease_file, lease):
                    _observed.pop(lease_file, None)
                    made = _Lock(Path(os.path.abspath(folder)), Path(os.path.abspath(lease_file)), stream, lease)
                    _hold(made)
                    return made
                found = _read(lease_file)
    except BaseException:
        stream.close()
        raise
    stream.close()
    return kernel is False, found or _Lease("", "")


@contextmanager
def locked(folder: Path, what: str, name: str = "", wait: Wait = "observe") -> Iterator[None]:
    """Hold an exclusive lock on `folder`, which is created if missing.

    what: end of the error message, such as "run; wait for it, or use --fresh". name: of one of several locks of a folder.
    wait: "no": raise Busy at once; "observe": first wait until it is known whether the holder, if it is on another machine,
    is alive; "yes": until the lock is free.

    Raises Busy naming the process that holds the lock, and Failure if the folder is not writable.
    """
    lock = _get(folder, what, name, wait)
    try:
        yield
    finally:
        _held.remove(lock)
        lock.release()


def _get(folder: Path, what: str, name: str, wait: Wait) -> _Lock:
    first, began, said = "", time.monotonic(), False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = _attempt(folder, name)
        except OSError as error:
            raise Failure(
                f"{folder}: this folder cannot be written ({error.strerror}). Name another with -o or --runs."
            ) from None
        if isinstance(found, _Lock):
            return found
        by_kernel, lease = found
        first = first or lease.token + lease.beat
        if wait == "no" or (wait == "observe" and (by_kernel or lease.token + lease.beat != first)):
            raise Busy(folder, name, lease.holder, what)
        spent = time.monotonic() - began
        if spent > 1 and not said:
            said = True
            Show().say(f"{folder}: waiting for another process ({lease.holder})")
        time.sleep(min(LONG_PAUSE, max(SHORT_PAUSE, spent / 10)))


def holder(folder: Path, name: str = "") -> Holder | None:
    """Return the process that holds a lock, as far as is known now; None if none does."""
    lock_file, lease_file = _files_of(folder, name)
    lease, kernel = _read(lease_file), None
    if lock_file.exists():
        with suppress(OSError), lock_file.open("ab+", buffering=0) as stream:
            kernel = _kernel_lock(stream, folder)
    if kernel is False:
        return (lease or _Lease("", "")).holder
    return None if lease is None or _is_dead(lease, lease_file, kernel) else lease.holder


WITHOUT_LOCKS: set[int] = set()  # devices without locks for which a warning was printed


def _warn_of_no_locks(folder: Path, reason: str) -> None:
    """Warn once per file system."""
    device = folder.stat().st_dev
    if device not in WITHOUT_LOCKS:
        WITHOUT_LOCKS.add(device)
        Show().warn(
            f"{folder}: this file system has no locks ({reason}), so a process that was killed keeps its run for "
            f"{expiry():.0f} seconds"
        )
