"""CPU, memory and GPUs of this machine, read from the operating system without slow imports such as PyTorch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # NVIDIA, AMD, and Windows' GPUs under WSL


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def gpu_devices() -> list[str]:
    """Return the GPU device files under /dev (Linux). PyTorch may still be unable to use them."""
    return sorted(path.name for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))


def may_have_gpu() -> bool:
    """Return whether it is worth asking PyTorch for a GPU: False only on Linux without a GPU device file."""
    return sys.platform != "linux" or bool(gpu_devices())


def described() -> list[str]:
    """Return what automatic, machine-dependent choices depend on: system, CPU and GPUs."""
    return [platform.platform(), platform.machine(), str(cores()), *sorted(cpu_flags()), *gpu_devices()]
