"""`randout doctor`: what this machine can do for randout, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlparse

from randout.core import hardware

Row = tuple[str, str, str]  # what, finding, what to do

HUB_TIMEOUT = 2  # seconds
LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables that limit PyTorch's threads
BFLOAT16 = {"avx512_bf16", "amx_tile"}  # flags of CPUs that multiply in bfloat16
EXTRAS = {"datasets": "Hugging Face datasets by name", "hypothesis": "the project's own tests"}


def examine() -> list[Row]:
    """Rows of (what, finding, what to do); the last is empty where nothing is wrong.

    PyTorch is loaded only where it has to be asked for a GPU; transformers never.
    """
    from randout.data.named_datasets import cache_folder
    from randout.models.sources import Source, local_encoders

    with ThreadPoolExecutor(1) as beside:  # the hub may take its time to answer
        hub = beside.submit(_hub)
        rows: list[Row] = [("Python", platform.python_version(), "")]
        rows += [_package("torch"), _package("transformers")]
        rows += [("CPU", f"{_threads()}, {_memory()}", "")]
        rows += [("bfloat16 on the CPU", "native, used" if _bfloat16() else "emulated, so float32 is used", "")]
        rows += [_gpu()]
        found = local_encoders()
        names = ", ".join(
            f"{Source(str(f), f).label} ({(f / 'model.safetensors').stat().st_size / 2**20:.0f} MiB)" for f in found
        )
        todo = "" if found else "randout demo brings one; or name one with --student"
        rows += [("encoders found locally", names or "none", todo)]
        cache = cache_folder()
        rows += [("cache", f"{cache}, {shutil.disk_usage(cache).free / 2**30:.0f} GiB free", "")]
        rows += [("model hub", *hub.result())]
    for name, use in EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        rows += [(f"extra: {name}", "installed" if there else "not installed", "" if there else f"needed for {use}")]
    return rows


def _package(name: str) -> Row:
    try:
        return (name, version(name), "")
    except PackageNotFoundError:
        return (name, "not installed", f"install {name}, which randout needs")


def _threads() -> str:
    """The cores of the machine, and what limits the threads that use them."""
    cores = hardware.cores()
    found = f"{cores} core{'s' * (cores != 1)}"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return found + (f" (threads limited by {' and '.join(limits)})" if limits else "")


def _bfloat16() -> bool:
    """As `prepare.native_bfloat16` for the CPU: from what Linux says of it, elsewhere from PyTorch."""
    if flags := hardware.cpu_flags():
        return not flags.isdisjoint(BFLOAT16)
    from randout.experiments.run.planning import native_bfloat16

    return native_bfloat16("cpu")


def _gpu() -> Row:
    if not hardware.may_have_gpu():
        return ("GPU", "none", "")
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return ("GPU", f"{name}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB", "")
    if torch.backends.mps.is_available():
        return ("GPU", "Apple (mps)", "")
    if hardware.gpu_devices():
        hint = "install a torch build for its driver, as in `make install TORCH=torch`"
        return ("GPU", f"there is one, but torch {torch.__version__} cannot use it", hint)
    return ("GPU", "none", "")


def _hub() -> tuple[str, str]:
    """Whether the hub answers, asked once with a short limit."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "switched off by HF_HUB_OFFLINE", ""
    host = urlparse(constants.ENDPOINT).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=HUB_TIMEOUT).close()
    except OSError as error:
        return f"not reachable ({error.__class__.__name__})", "models must be local folders"
    return "reachable", ""


def _memory() -> str:
    found = hardware.memory()
    return "memory unknown" if found is None else f"{found / 2**30:.0f} GiB"
