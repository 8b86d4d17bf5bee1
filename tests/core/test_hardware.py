"""What is read of the machine, and what is set for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from randout.core import hardware


def test_the_kernel_cache_is_limited_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", hardware.KERNELS)
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    hardware.limit_kernel_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == os.environ["LRU_CACHE_CAPACITY"] == hardware.FEW_KERNELS
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "500")
    hardware.limit_kernel_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "500"


@pytest.mark.parametrize(
    ("load", "own", "spins"),
    [
        ("0.00 0.01 0.05 1/97 18215", {}, None),  # this process alone
        ("1.61 2.12 3.29 4/97 18215", {}, hardware.SPINS),
        ("1.61 2.12 3.29 4/97 18215", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("1.61 2.12 3.29 4/97 18215", {"OMP_WAIT_POLICY": "active"}, None),
        ("of another system", {}, None),
        (None, {}, None),
    ],
)
def test_threads_spin_less_beside_other_processes(
    load: str | None, own: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware, "LOAD", tmp_path / "loadavg")
    if load is not None:
        hardware.LOAD.write_text(load)
    hardware.share_busy_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
