"""Tiny models of every family and a small separable dataset, built here: no test needs a network.

`tiny_model(family)` is the folder of a bare encoder (2 or 3 blocks, hidden 32, 4 heads) with its tokenizer, made once a
session: treat it as read-only. `toy_csv(n, seed)` is a table `text,label` whose three classes a tiny model can learn.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's library
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands too: threads of tiny products wait for one another

import numpy as np
import pytest
import torch

from randout.core.console import print_always
from randout.testing.models import LABELS, build, loaded, toy_texts
from support.coda19 import coda19_folder as coda19_folder  # a fixture
from support.hub_server import HubServer

Run = Callable[..., tuple[int, str, str]]

LONGEST_FIRST = (
    "contract",
    "exports",
    "search",
    "docs",
    "comparison",
    "commands",
    "start_up",
    "misuse",
    "step_parts",
    "benchmarks",
    "imported_teacher",
    "launched",
    "kill",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker is left with one of them at the end."""
    rank = {f"test_{name}": at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def quiet_and_small() -> Iterator[None]:
    """One thread (tiny products gain nothing from more, and wait for one another) and no progress bars."""
    from transformers import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    with without_fixed_costs():
        yield


@contextmanager
def without_fixed_costs() -> Iterator[None]:
    """Skips what takes longer than a tiny training: the search of the libraries' million objects for garbage before each one,
    the commands' options built anew for each call, writes that wait for the disk, and seeds of absent accelerators, for
    each of which PyTorch formats a stack trace.
    """
    from typer import main as typer_main

    from randout.models.kernels import buffers
    from randout.training import loop

    with buffers.frozen_garbage_collector(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "frozen_garbage_collector", nullcontext)
        patch.setattr(typer_main, "get_command", cache(typer_main.get_command))
        patch.setattr(os, "fsync", lambda descriptor: None)
        for accelerator in (torch.cuda, torch.mtia, torch.xpu):
            if not accelerator.is_available():
                patch.setattr(accelerator, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def printed_messages() -> None:
    """Messages go to standard error as in a command, although pytest has log handlers."""
    print_always()


@pytest.fixture(scope="session", autouse=True)
def no_refit() -> Iterator[None]:
    """Small tables are not trained a second time unless a test asks for it with `train.refit`."""
    from randout.experiments.run import defaults

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "REFIT_BELOW", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_pictures() -> Iterator[Callable[..., Path]]:
    """The pictures of a run are no more than the head of a PNG: drawing them takes longer than a tiny training.

    Gives the function that draws a confusion matrix; `real_pictures` puts it back for one test.
    """
    from randout.reporting import run_pictures

    def instead(matrix: Any, id2label: dict[Any, str], path_png: Path, title: str) -> Path:
        assert np.shape(matrix) == (len(id2label), len(id2label))
        Path(path_png).write_bytes(b"\x89PNG\r\n\x1a\n")
        return Path(path_png)

    def no_curve(points: Any, path_png: str | os.PathLike[str], title: str, **more: Any) -> Path:
        Path(path_png).write_bytes(b"\x89PNG\r\n\x1a\n")
        return Path(path_png)

    real = run_pictures.confusion_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pictures, "confusion_picture", instead)
        patch.setattr(run_pictures, "coverage_picture", no_curve)
        yield real


@pytest.fixture
def real_pictures(quick_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their confusion matrices."""
    from randout.reporting import run_pictures

    monkeypatch.setattr(run_pictures, "confusion_picture", quick_pictures)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family -> folder of its tiny bare encoder, built once; `FAMILIES` lists them."""
    root = tmp_path_factory.mktemp("tiny")
    return cache(lambda family: build(family, root / family))


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(n, seed) -> a csv file of `toy_texts` with the columns text and label, written once."""
    root = tmp_path_factory.mktemp("toy")

    @cache
    def write(n: int = 120, seed: int = 0) -> Path:
        path = root / f"toy-{n}-{seed}.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            writer.writerows(zip(*toy_texts(n, seed), strict=True))
        return path

    return write


@pytest.fixture
def load(tiny_model):
    """(family, double, **options of `models.load`) -> a classifier of three labels, as an `Encoder`."""

    def of(family, double=False, **options):
        found = loaded(tiny_model(family), id2label=LABELS, **options)
        if double:
            found.model.double()
        return found

    return of


@pytest.fixture
def source(tiny_model):
    """family -> its tiny encoder as a `models.Source`."""
    from randout.models import loading

    return lambda family: loading.find(str(tiny_model(family)))


@pytest.fixture
def own_copy(tiny_model, tmp_path):
    """A copy of a tiny model that a test may spoil."""
    return lambda family="bert", name="copy": Path(shutil.copytree(tiny_model(family), tmp_path / name))


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """Empty caches, this tool's (tmp_path/cache) and the hub's (tmp_path/hub), and no hub."""
    import huggingface_hub as hub

    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def model_hub(empty_caches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A model hub on this machine, which the hub's library asks in place of the real one, with empty caches.

    The user ada has written her token into HF_TOKEN. The library waits for nothing: neither for rate limits nor before
    it asks again.
    """
    import time

    import huggingface_hub as hub
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with HubServer() as server:
        server.add_user("ada", "hf_ada")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub.close_session()
        yield server
    hub.close_session()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`command("train", ...)` as on the command line, in this process: exit code, standard output, standard error."""
    from randout.cli import app

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["randout", *map(str, words)])
        code: Any = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        return int(code), *capsys.readouterr()

    return call


@pytest.fixture
def run(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`command` in an empty folder, tmp_path, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    return command


@pytest.fixture
def registry_restored() -> Iterator[None]:
    """After the test, the registry has the methods from before it and no plugin is loaded."""
    from randout.methods import plugins
    from randout.methods.builtin import METHODS

    before = METHODS.added
    yield
    plugins.unload_plugins()
    for name in METHODS.added.keys() - before.keys():
        METHODS.remove(name)
    METHODS.refresh()
