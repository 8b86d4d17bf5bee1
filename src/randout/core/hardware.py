"""What this machine has, read from the operating system: no library that takes seconds to load is needed."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # NVIDIA, AMD, and Windows' GPUs under WSL


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU as Linux names them (`avx512_bf16`); empty where they are not known."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def memory() -> int | None:
    """Bytes of main memory; None where it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def gpu_devices() -> list[str]:
    """Devices of GPUs that Linux shows; whether PyTorch can use them is another question."""
    return sorted(path.name for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))


def may_have_gpu() -> bool:
    """Whether PyTorch has to be asked for a GPU: False only on Linux without the device of one."""
    return sys.platform != "linux" or bool(gpu_devices())


def described() -> list[str]:
    """What choices left to the machine depend on: system, CPU and GPUs."""
    return [platform.platform(), platform.machine(), str(cores()), *sorted(cpu_flags()), *gpu_devices()]
