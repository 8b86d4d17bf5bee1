"""What is read of the machine, and what is set for it."""

from __future__ import annotations

import os

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
