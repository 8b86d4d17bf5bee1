"""The command `doctor`: checks what this machine supports and what is missing."""

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

Row = tuple[str, str, str]  # (what, finding, what to do)

HUB_TIMEOUT = 2  # seconds
LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables that limit PyTorch's threads
BFLOAT16 = {"avx512_bf16", "amx_tile"}  # flags of CPUs that multiply in bfloat16
EXTRAS = {  # of the package: what it installs, and its use
    "cluster": (("ray",), "`--cluster`"),
    "datasets": (("datasets",), "Hugging Face datasets by name"),
    "export": (("onnx", "onnxscript", "onnxruntime", "tokenizers"), "`randout export`"),
    "remote": (("fsspec", "s3fs", "gcsfs"), "shards at `s3://` and `gs://`"),
    "search": (("optuna",), "`randout search --sampler tpe`"),
    "tensorboard": (("tensorboard",), "`--report-to tensorboard`"),
}


def examine() -> list[Row]:
    """Examine the machine; returns rows of (what, finding, what to do), the last empty if nothing is wrong.

    Imports PyTorch only to ask it for a GPU, and never transformers.
    """
    from randout.data.named_datasets import cache_folder
    from randout.models.folder_checks import DECODERS
    from randout.models.sources import Source, local_encoders

    with ThreadPoolExecutor(1) as executor:  # the hub may answer slowly
        hub = executor.submit(_hub)
        rows: list[Row] = [("Python", platform.python_version(), "")]
        rows += [_package("torch"), _package("transformers")]
        rows += [("CPU", f"{_threads()}, {_memory()}", "")]
        rows += [("bfloat16 on the CPU", "native, used" if _bfloat16() else "emulated; float32 is used instead", "")]
        rows += [_gpu()]
        found = local_encoders()
        names = ", ".join(
            f"{Source(str(f), f).label} ({(f / 'model.safetensors').stat().st_size / 2**20:.0f} MiB)" for f in found
        )
        todo = (
            ""
            if found
            else "`randout demo --data-only` downloads one; --student FOLDER uses another; --student svm needs none"
        )
        rows += [("encoders found locally", names or "none", todo)]
        rows += [("decoder classifiers", f"as teachers only ({DECODERS})", ""), _annotate()]
        cache = cache_folder()
        rows += [("cache", f"{cache}, {shutil.disk_usage(cache).free / 2**30:.0f} GiB free", "")]
        rows += [("model hub", *hub.result())]
    rows += _other_methods()
    for name, (packages, use) in EXTRAS.items():
        there = all(importlib.util.find_spec(package) is not None for package in packages)
        todo = "" if there else f"for {use}: pip install 'randout[{name}]'"
        rows += [(f"extra: {name}", "installed" if there else "not installed", todo)]
    return rows


def _other_methods() -> list[Row]:
    """Methods from entry points of installed packages and from `--plugin`, each with where it comes from."""
    from randout.core.errors import UserError
    from randout.methods.builtin import METHODS

    rows: list[Row] = []
    for name in METHODS:
        if name in METHODS.built_in:
            continue
        try:
            rows.append((f"method: {name}", f"not built in; from the {METHODS.origin(name)}", ""))
        except UserError as error:
            rows.append((f"method: {name}", "cannot be loaded", str(error)))
    return rows or [("other methods", "none", "")]


def _package(name: str) -> Row:
    try:
        return (name, version(name), "")
    except PackageNotFoundError:
        return (name, "not installed", f"install {name}; randout requires it")


def _annotate() -> Row:
    """Ways in which `randout annotate` can ask a language model."""
    from randout.models.label_prompts import has_decision_pipeline

    if has_decision_pipeline():
        return ("randout annotate", "answers by letter and by name", "")
    return ("randout annotate", "answers by name only", "for --answer letter: pip install -U transformers")


def _threads() -> str:
    """Number of cores, and the environment variables that limit threads."""
    cores = hardware.cores()
    found = f"{cores} core{'s' * (cores != 1)}"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return found + (f" (threads limited by {' and '.join(limits)})" if limits else "")


def _bfloat16() -> bool:
    """Like `planning.native_bfloat16` for the CPU, but from Linux's CPU flags where there are any, without PyTorch."""
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
        hint = "install a torch build for its driver, for example with `make install TORCH=torch`"
        return ("GPU", f"present, but torch {torch.__version__} cannot use it", hint)
    return ("GPU", "none", "")


def _hub() -> tuple[str, str]:
    """Check whether the hub answers within `HUB_TIMEOUT`."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "disabled by HF_HUB_OFFLINE", ""
    address = urlparse(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=HUB_TIMEOUT).close()
    except OSError as error:
        return f"not reachable ({error.__class__.__name__})", "use local model folders"
    return "reachable", ""


def _memory() -> str:
    found = hardware.memory()
    return "memory unknown" if found is None else f"{found / 2**30:.0f} GiB"
