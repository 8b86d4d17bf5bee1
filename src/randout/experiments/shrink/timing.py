"""Measures forms of models in processes of their own, in interleaved rounds, so that other work disturbs all alike."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.console import Show
from randout.core.errors import Failure
from randout.core.hardware import cores
from randout.core.wording import plural
from randout.data.composed_text import parts_of
from randout.storage.run_folder import now
from randout.storage.study_record import Cost, LadderForm, Machine, ShrinkRecord

TEXTS, SECONDS = 60, 1.0  # texts that are timed, and seconds of a process in which single texts are
PACKAGES = ("torch", "transformers", "onnxruntime", "tokenizers", "numpy")
PROCESS = "randout.experiments.shrink.timed_process"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(
    forms: Sequence[LadderForm], study: Path, texts: Sequence[str], threads: int, rounds: int, show: Show
) -> dict[str, Cost]:
    """Return the cost of each form by name. texts: at most `TEXTS` of them are used, evenly spaced.

    Each round starts one process for each form, every other round in reverse order. Raises Failure if a process fails.
    """
    used = [texts[at] for at in np.unique(np.linspace(0, len(texts) - 1, min(TEXTS, len(texts))).astype(int))]
    found: dict[str, list[dict[str, Any]]] = {form.name: [] for form in forms}
    with show.bar("measuring", rounds * len(forms), unit="processes") as advance:
        for at in range(rounds):
            for form in forms if at % 2 == 0 else reversed(forms):
                found[form.name].append(_measured(form, study / form.folder, used, threads))
                advance(1, form.name)
    return {name: summary(each) for name, each in found.items()}


def _measured(form: LadderForm, folder: Path, texts: Sequence[str], threads: int) -> dict[str, Any]:
    asked: dict[str, Any] = {"folder": os.path.normpath(folder), "form": form.form, "threads": threads}
    asked["texts"] = [parts if len(parts := parts_of(text)) > 1 else parts[0] for text in texts]
    path = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", PROCESS],
        input=json.dumps(asked | {"seconds": SECONDS}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    try:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failure(f"{folder}: measuring {form.name} failed: {last:.300}") from None
    return result


def summary(rounds: Sequence[Mapping[str, Any]]) -> Cost:
    """Return the cost over the rounds of a form.

    Latencies are those of the round with the lowest median, and throughput is that of the fastest round: other work on the
    machine can only slow a round down. Memory is the median over rounds.
    """
    singles = min((one["singles"] for one in rounds), key=np.median)
    used = [one["peak"] - one["base"] for one in rounds if one["peak"] is not None and one["base"] is not None]
    whole = [one["peak"] for one in rounds if one["peak"] is not None]
    return Cost(
        latency=float(np.median(singles)),
        latency95=float(np.percentile(singles, 95)),
        throughput=float(max(one["throughput"] for one in rounds)),
        memory=int(np.median(used)) if used else None,
        process=int(np.median(whole)) if whole else None,
        texts=len(singles),
        rounds=len(rounds),
    )


def machine(threads: int) -> Machine:
    """Describe this machine as the place of a measurement."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=cores(),
        threads=threads,
        packages=packages,
        at=now(),
        load=load,
    )


def _processor() -> str:
    """Return the name of the CPU, or its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measured_otherwise(record: ShrinkRecord, threads: int, rounds: int) -> str:
    """Return a note if the costs of a ladder were measured with other threads or rounds than asked for; else ""."""
    costs = [form.cost for form in record.forms if form.cost is not None]
    if record.machine is None or not costs or (record.machine.threads, costs[0].rounds) == (threads, rounds):
        return ""
    return (
        f"the costs were measured with {plural(record.machine.threads, 'thread')} and {plural(costs[0].rounds, 'round')}. To "
        "measure again with other numbers, add --measure-again"
    )


def disturbed(machine: Machine) -> str:
    """Return a note if other processes were running before the measurement; else an empty string."""
    if machine.load is None or machine.load + machine.threads <= machine.cores + 0.5:
        return ""
    return (
        f"the machine was busy when the costs were measured (load {machine.load:.1f} on {machine.cores} cores): measure "
        "again on a quiet one with --measure-again"
    )
