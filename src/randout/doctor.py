"""What this machine can do for randout, and what is missing."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from typing import Any

Row = tuple[str, str, str]  # what, finding, what to do

EXTRAS = {"datasets": "Hugging Face datasets by name", "hypothesis": "the project's own tests"}


def examine() -> list[Row]:
    """Rows of (what, finding, what to do); the last is empty where nothing is wrong."""
    import torch
    import transformers

    from . import models, prepare
    from .datasets import cache_folder

    rows: list[Row] = [("Python", platform.python_version(), "")]
    rows += [("torch", torch.__version__, ""), ("transformers", transformers.__version__, "")]
    rows += [("CPU", f"{torch.get_num_threads()} threads, {_memory()}", "")]
    bfloat = prepare.native_bfloat16("cpu")
    rows += [("bfloat16 on the CPU", "native, used" if bfloat else "emulated, so float32 is used", "")]
    rows += [_gpu(torch)]
    found = models.at_hand()
    names = ", ".join(
        f"{models.Source(str(f), f).label} ({(f / 'model.safetensors').stat().st_size / 2**20:.0f} MiB)" for f in found
    )
    rows += [
        ("encoders at hand", names or "none", "" if found else "randout demo brings one; or name one with --student")
    ]
    cache = cache_folder()
    rows += [("cache", f"{cache}, {shutil.disk_usage(cache).free / 2**30:.0f} GiB free", "")]
    rows += [("model hub", *_hub())]
    for name, use in EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        rows += [(f"extra: {name}", "installed" if there else "not installed", "" if there else f"needed for {use}")]
    return rows


def _gpu(torch: Any) -> Row:
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return ("GPU", f"{name}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB", "")
    if torch.backends.mps.is_available():
        return ("GPU", "Apple (mps)", "")
    if shutil.which("nvidia-smi"):
        hint = "install a torch build for its driver, as in `make install TORCH=torch`"
        return ("GPU", f"there is one, but torch {torch.__version__} cannot use it", hint)
    return ("GPU", "none", "")


def _hub() -> tuple[str, str]:
    """Whether the hub answers, asked once with a short limit."""
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "switched off by HF_HUB_OFFLINE", ""
    host = urlparse(constants.ENDPOINT).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        return f"not reachable ({error.__class__.__name__})", "models must be local folders"
    return "reachable", ""


def _memory() -> str:
    if sys.platform == "linux":
        with open("/proc/meminfo", encoding="ascii") as stream:
            total = next((int(line.split()[1]) for line in stream if line.startswith("MemTotal")), 0)
        return f"{total / 2**20:.0f} GiB"
    return "memory unknown"
