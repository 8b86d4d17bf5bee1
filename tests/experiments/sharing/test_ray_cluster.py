"""Studies on a Ray cluster of several nodes on this machine, with real raylets."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Run

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray")
STORE = 80 * 2**20
SEEDS = "3"


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_message_names_the_extra(command: Run, toy_csv: Callable[..., Path]) -> None:
    code, _, errors = command("compare", toy_csv(60, 0), "--student", "svm", "--cluster", "local")
    assert code == 2
    assert "pip install 'randout[cluster]'" in errors


@needs_ray
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--cluster", "ray://head:10001"), "expected HOST:PORT, auto or local"),
        (("--cluster", "auto", "--jobs", "2"), "leave --jobs out"),
        (("--cluster", "127.0.0.1:1"), "no connection to a Ray cluster (["),
        (("--cluster", "head"), "expected HOST:PORT, auto or local"),
        (("--job-gpus", "0.5"), "only --cluster assigns GPUs"),
        (("--cluster", "auto", "--job-gpus", "1.5"), "expected a share of a GPU"),
    ],
)
def test_options_that_cannot_be(
    command: Run,
    toy_csv: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: Any,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("compare", toy_csv(60, 0), "--student", "svm", "--arms", "plain", *more)
    assert code == 2
    assert words in errors
    assert not (tmp_path / "studies").exists(), "a study that cannot start is not created"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head that takes no runs, and two nodes with one CPU each and names of their own, as two machines."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RANDOUT_LOCK_EXPIRY"] = "3"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for number in (1, 2):
        made.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"RANDOUT_HOST": f"node-{number}"})
    yield made
    made.shutdown()
    del os.environ["RANDOUT_LOCK_EXPIRY"]


def start(folder: Path, data: Path, *words: str) -> subprocess.Popen[str]:
    """Start `randout compare` of two baselines in `folder`."""
    command = [
        sys.executable,
        "-m",
        "randout",
        "compare",
        str(data),
        "--arms",
        "plain",
        "--seeds",
        SEEDS,
        "-o",
        "study",
    ]
    return subprocess.Popen(
        [*command, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def scores(folder: Path) -> dict[str, Any]:
    """What the runs below a folder predict, by run."""
    return {path.parts[-3]: path.read_bytes() for path in folder.glob("runs/*/predictions/test.parquet")}


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_study_that_is_stopped_and_resumed_on_a_cluster_is_that_of_one_process(
    cluster: Any, tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path], tmp_path: Path
) -> None:
    data = toy_csv(90, 0)
    words = [
        "--student",
        str(tiny_model("bert")),
        "--teacher",
        "none",
        "--set",
        "epochs=4",
        "--set",
        "save_minutes=1e-9",
    ]
    words += ["--set", "precision=float32", "--job-threads", "1"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    out, errors = start(alone, data, *words).communicate()
    assert "3 seeds" in out, errors

    process, until = start(shared, data, *words, "--cluster", cluster.address), time.monotonic() + 120
    while not list(shared.glob("runs/*/checkpoint/position.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Interrupted; progress saved in study. Run the same command again to resume" in errors
    record = json.loads((shared / "study" / "study.json").read_text())
    assert not record["finished"]
    assert list(shared.glob("runs/*/checkpoint/position.json")), "a checkpoint is kept"
    assert not list(shared.glob("runs/*/.lease")), "no run is held any more"

    process = start(shared, data, *words, "--cluster", cluster.address, "--json")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(out)["finished"], "standard output holds the result and nothing of Ray's"
    assert "usage" not in errors.lower()
    assert len(scores(alone)) == 3
    assert scores(shared) == scores(alone)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_the_nodes_do_not_share_is_named(
    cluster: Any, tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path], tmp_path: Path
) -> None:
    """A node whose processes see another version of the same path: here, through a variable that changes the version."""
    cluster.add_node(
        num_cpus=1, object_store_memory=STORE, env_vars={"RANDOUT_HOST": "node-3", "PYTHONPATH": other(tmp_path)}
    )
    process = start(tmp_path, toy_csv(60, 0), "--student", "svm", "--cluster", cluster.address)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "randout is 9.9.9 there and" in errors


def other(folder: Path) -> str:
    """A PYTHONPATH with which randout has another version."""
    place = folder / "other"
    place.mkdir()
    (place / "sitecustomize.py").write_text("import randout\nrandout.__version__ = '9.9.9'\n", encoding="utf-8")
    return os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
