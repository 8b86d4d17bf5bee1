"""Benchmarks run: a few steps each, nothing asserted about time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_throughput_smoke() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"]
