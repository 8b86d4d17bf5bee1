"""Benchmarks run: a few steps each, nothing asserted about time; pages that commands make are what they make."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from randout import shelf

ROOT = Path(__file__).parents[1]


def test_throughput_smoke() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"]


def test_methods_smoke() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "methods.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["name"] for row in json.loads(done.stdout)["methods"]} == set(shelf.entries()) - {shelf.GOLD}


def smoke(name: str, *more: str) -> Any:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--smoke", "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_predict_smoke() -> None:
    """The pipeline and randout give the same labels, by function and by command."""
    found = smoke("predict")
    assert found["same"]["differ"] == 0
    assert found["same"]["score"] < 1e-5
    assert set(found["commands"]) == {"randout predict", "randout evaluate", "pipeline"}
    assert set(found["budgets"]) == {"64", "256"}


def test_rows_smoke(tmp_path: Path) -> None:
    found = smoke("rows", "--plot", str(tmp_path / "rows.png"))
    assert [size["rows"] for size in found["sizes"]] == [400, 800]
    assert {part["part"] for part in found["sizes"][0]["parts"]} >= {"tokenise", "training steps", "score"}
    assert (tmp_path / "rows.png").stat().st_size > 0


def test_startup_smoke() -> None:
    assert set(smoke("startup")) == {"python -c pass", "import randout", "randout --help"}


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


def test_simulation_smoke(tmp_path: Path) -> None:
    """A few simulations end in a page whose text around the tables is untouched, twice the same."""
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{simulate['START']}\nold\n{simulate['END']}\nafter\n", encoding="utf-8")
    texts = []
    for _ in range(2):
        simulate["main"](["--simulations", "3", "--macro-f1", "1", "--page", str(page)])
        texts.append(page.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].startswith("before\n")
    assert texts[0].endswith("\nafter\n")
    assert "old" not in texts[0].split()
    assert texts[0].count("| groups |") == 1 + 3 + 2


def test_simulated_arms_have_the_accuracy_they_claim() -> None:
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    generator = np.random.default_rng(0)
    for mix in simulate["MIXES"]:
        means, spreads = [], []
        for _ in range(150):
            latent, groups = simulate["sample"](mix, 4, generator)
            assert groups.shape == (simulate["ROWS"],)
            right = latent > -ndtri(simulate["ACCURACY"])
            means.append(right.mean())
            spreads.append(right.mean(-1).var(axis=1, ddof=1).mean())
        assert np.mean(means) == pytest.approx(0.80, abs=0.006), mix.name
        noise = 0.16 / simulate["ROWS"]  # at most, of a run's accuracy on fixed rows
        assert mix.seed_points**2 / 1e4 * 0.8 < np.mean(spreads) < mix.seed_points**2 / 1e4 * 1.2 + noise, mix.name


def test_the_committed_simulation_is_the_whole_one() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    made = page.partition(simulate["START"])[2].partition(simulate["END"])[0]
    assert "--simulations 2000" in made
    assert all(made.count(f"\n| {mix.name} |") == 1 + 3 + 2 for mix in simulate["MIXES"])


def test_missed_targets_are_said() -> None:
    missed = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))["missed"]
    good = ["rows", "5", "94.0", "93.0", "90.0", "7.5", "50.0", "1.00", "80.0"]
    assert missed([good, ["rows", "3", "80.0", "80.0", "90.0", "20.0", "1.0", "1.00", "80.0"]]) == []
    assert len(missed([["rows", "10", *good[2:]]])) == 1
    assert "92.9" in missed([["rows", "5", "92.9", "93.0", "90.0", "7.6", "50.0", "1.00", "80.0"]])[0]
