"""CPU, memory and GPUs of this machine, read from the operating system without slow imports such as PyTorch."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path

KERNELS, FEW_KERNELS = "8192", "64"  # compiled kernels that oneDNN keeps: in general, and where that is limited
LOAD = Path("/proc/loadavg")  # its fourth field: running/all
SPINS = "1000"  # of a waiting thread, some microseconds
GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # NVIDIA, AMD, and Windows' GPUs under WSL


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_kernel_cache() -> None:
    """Keep oneDNN from storing a compiled kernel for every number of tokens in a batch, which take hundreds of MiB.

    For predicting any number of texts; training has few numbers of rows, and `randout` enlarges the cache for it. Has an
    effect on processes that have not imported PyTorch yet. A value that the user has set is kept.
    """
    for name, enlarged in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS), ("LRU_CACHE_CAPACITY", None)):
        if os.environ.get(name) == enlarged:
            os.environ[name] = FEW_KERNELS


def share_busy_cores() -> None:
    """Let PyTorch's threads wait in the kernel for one another while other processes compute, instead of spinning.

    Beside a busy process, a spinning thread keeps the core from the thread that it waits for. On an idle machine spinning is
    faster, so it is kept there. Results are the same. Has an effect on processes that have not imported PyTorch yet. A value
    that the user has set is kept.
    """
    if running_processes() > 1 and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def running_processes() -> int:
    """Return how many processes of the machine compute now, this one included; 1 where only Linux would say."""
    try:
        return int(LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1


def cpu_flags() -> frozenset[str]:
    """Return the CPU's instruction set extensions as Linux names them (`avx512_bf16`); empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def memory() -> int | None:
    """Return the main memory in bytes, or None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def available_memory() -> int | None:
    """Return the bytes of memory that a new process can use without swapping, within the limit of a container.

    None if unknown (not Linux).
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    left = _left_in_container()
    return free if left is None else min(free, left)


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that the limit of this container leaves, counting file caches as free; None without a limit."""
    for most, used, stats in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            limit, now = (int((folder / name).read_text()) for name in (most, used))
            cached = dict(line.split() for line in (folder / stats).read_text().splitlines())
            return max(0, limit - now + int(cached.get("inactive_file", 0)))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def process_memory() -> tuple[int, int] | None:
    """Return the bytes of memory that this process has now, and the most that it has had; None if unknown (not Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        now, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError, ValueError):
        return None
    return now, most


@cache
def boot_id() -> str:
    """Return what identifies the running kernel of this machine; empty if unknown (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def gpu_devices() -> list[str]:
    """Return the GPU device files under /dev (Linux). PyTorch may still be unable to use them."""
    return sorted(path.name for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))


def may_have_gpu() -> bool:
    """Return whether it is worth asking PyTorch for a GPU: False only on Linux without a GPU device file."""
    return sys.platform != "linux" or bool(gpu_devices())


def described() -> list[str]:
    """Return what automatic, machine-dependent choices depend on: system, CPU and GPUs."""
    return [platform.platform(), platform.machine(), str(cores()), *sorted(cpu_flags()), *gpu_devices()]
