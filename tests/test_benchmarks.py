"""Benchmarks run: a few steps each, nothing asserted about time; pages that commands make are what they make."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]


def test_throughput_smoke() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"]


def test_the_page_of_claims_is_what_its_command_makes() -> None:
    claims = runpy.run_path(str(ROOT / "benchmarks" / "claims.py"))
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == claims["page"]()


def test_claims_of_the_paper() -> None:
    claims = runpy.run_path(str(ROOT / "benchmarks" / "claims.py"))
    assert claims["gain"]("rhmd") == (1503, 1175, 1193)
    total, plain, ours = claims["gain"]("coda19")
    assert (total, ours - plain) == (15475, 85)
    for net, rows, percent, uncorrected in ((18, 1503, 4.9, 5.6), (85, 15475, 11.9, 12.1)):
        most = claims["most_discordant"](net, exact=True)
        assert round(100 * most / rows, 1) == percent
        assert round(100 * claims["most_discordant"](net, exact=False) / rows, 1) == uncorrected
        assert binomtest((most - net) // 2, most).pvalue < 0.05 <= binomtest((most + 2 - net) // 2, most + 2).pvalue
