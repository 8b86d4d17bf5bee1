"""Speed and agreement of an exported classifier compared with a `transformers` pipeline on the same saved folder.

    python benchmarks/export.py --run RUN                           # a finished run of an encoder
    python benchmarks/export.py --model FOLDER --data rhmd:FILE     # trains one for an epoch first
    python benchmarks/export.py --smoke    # tiny random model, synthetic texts: takes a minute, numbers are meaningless

The run is exported in both forms, which also compares them with the model on the validation and test texts. Then, on texts of the
run's validation split, on the CPU and with the same number of threads for all sides:

- many texts: `pipeline("text-classification", FOLDER, batch_size=32)(texts, truncation=True)`, loaded beforehand, and the
  export's `Classifier.predict`, in turn; tokenization is counted for all;
- one text at a time, the same calls: the median over texts;
- cold start: the whole process `python predict.py TEXT`, from its start to its end.

--write replaces the numbers in benchmarks/README.md; the load of the machine before the timing is noted there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import randout
from common import tiny_data, tiny_model
from randout.core.wording import plural
from randout.experiments.run.reload import reload_plan
from randout.exports.runtime import Classifier
from randout.storage.run_folder import RunFolder

import torch  # isort: skip  (randout sets torch's environment first)

README = Path(__file__).parent / "README.md"
START, END = "<!-- numbers of export.py -->", "<!-- end of the numbers of export.py -->"
FORMS = ("float32", "int8")
TARGETS = {"many texts": 10.0, "one text": 4.0}  # times the pipeline, int8


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.smoke:
            arguments.model, arguments.data = tiny_model(folder), tiny_data(folder)
            arguments.texts, arguments.rounds, arguments.singles = 40, 1, 5
        run = arguments.run or trained(arguments.model, arguments.data, folder)
        found = measure(run, folder, arguments)
    if arguments.write:
        write(README, as_text(found))
    print(json.dumps(found) if arguments.json else as_text(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run of an encoder")
    parser.add_argument("--model", help="an encoder to train for an epoch, without --run")
    parser.add_argument("--data", help="labelled table, with --model")
    parser.add_argument("--texts", type=int, default=1000, help="texts timed per round")
    parser.add_argument("--singles", type=int, default=100, help="texts timed one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="replace the numbers in benchmarks/README.md")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.run or arguments.smoke or (arguments.model and arguments.data)):
        parser.error("give --run, or --model and --data")
    return arguments


def trained(model: str, data: str, folder: Path) -> Path:
    """Train an encoder for one epoch; returns the run."""
    settings = {"epochs": 1, "output.test": False, "student.pooling": "first"}  # a head that a pipeline can load
    randout.train(data, student=model, teacher="none", settings=settings, out=folder / "run", runs=folder, quiet=False)
    return folder / "run"


def measure(run: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Export the run and time all sides."""
    from transformers import pipeline

    made = randout.export(run, folder / "export", forms=FORMS)
    plan = reload_plan(RunFolder(run))
    texts = [plan.dataset.texts[row] for row in plan.dataset.split["validation"]][: arguments.texts]
    torch.set_num_threads(arguments.threads)
    stock = pipeline("text-classification", model=str(run / "model"), batch_size=32, device="cpu")
    models = {form: Classifier(folder / "export", form, arguments.threads) for form in FORMS}
    sides: dict[str, Callable[[list[str]], Any]] = {"pipeline": lambda given: stock(given, truncation=True)}
    sides |= {form: model.predict for form, model in models.items()}
    load = os.getloadavg()[0]
    many: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}  # CPU seconds of all threads
    for _ in range(arguments.rounds):
        for name, call in sides.items():
            before = time.process_time()
            many[name].append(len(texts) / seconds(call, texts))
            busy[name].append((time.process_time() - before) / len(texts))
    singles = texts[: arguments.singles]
    one = {name: statistics.median(seconds(call, [text]) for text in singles) for name, call in sides.items()}
    cold = [seconds(cold_start, [str(folder / "export"), texts[0]]) for _ in range(5)]
    return {
        "machine": f"{platform.processor() or platform.machine()}, {plural(arguments.threads, 'thread')}",
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime")},
        "load": load,
        "texts": len(texts),
        "many": many,
        "busy": busy,
        "one": one,
        "cold": cold,
        "checks": {check.form: check.record() for check in made.checks},
        "megabytes": {
            form: (folder / "export" / path).stat().st_size / 1e6 for form, path in made.record["files"].items()
        },
    }


def cold_start(words: list[str]) -> None:
    """Classify one text in a new process."""
    folder, text = words
    subprocess.run(
        [sys.executable, f"{folder}/predict.py", "--form", "int8", text], check=True, stdout=subprocess.DEVNULL
    )


def seconds(call: Callable[[list[str]], Any], texts: list[str]) -> float:
    began = time.perf_counter()
    call(texts)
    return time.perf_counter() - began


def as_text(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    base = statistics.median(found["many"]["pipeline"])
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {found['machine']}, {versions}. Load average before the timing: {found['load']:.1f}. "
        f"{found['texts']:,} texts, {len(found['many']['pipeline'])} rounds; medians.",
        "",
        "| side | texts/s | range | times the pipeline | CPU ms per text | one text, ms | times the pipeline |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, speeds in found["many"].items():
        middle, one = statistics.median(speeds), found["one"][name]
        cells = [name, f"{middle:.1f}", f"{min(speeds):.1f} to {max(speeds):.1f}", f"{middle / base:.1f}"]
        cells.append(f"{1000 * statistics.median(found['busy'][name]):.1f}")
        lines.append("| " + " | ".join([*cells, f"{1000 * one:.1f}", f"{found['one']['pipeline'] / one:.1f}"]) + " |")
    lines += ["", "| form | MB | same label | largest difference | accuracy | model | difference, 90 % interval |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for form, check in found["checks"].items():
        apart = "{estimate:+.2%} ({low:+.2%} to {high:+.2%})".format(**check["difference"])
        lines.append(
            f"| {form} | {found['megabytes'][form]:.0f} | {check['agreement']:.2%} of {check['rows']:,} | "
            f"{check['largest_difference']:.1e} | {check['score']:.2%} | {check['reference_score']:.2%} | {apart} |"
        )
    speeds = statistics.median(found["many"]["int8"]) / base, found["one"]["pipeline"] / found["one"]["int8"]
    small = found["checks"]["int8"]
    rows = [
        (
            "int8, many texts",
            f"{speeds[0]:.1f} times",
            f"{TARGETS['many texts']:.0f} times",
            speeds[0] >= TARGETS["many texts"],
        ),
        (
            "int8, one text",
            f"{speeds[1]:.1f} times",
            f"{TARGETS['one text']:.0f} times",
            speeds[1] >= TARGETS["one text"],
        ),
        ("int8, same label", f"{small['agreement']:.2%}", "98 %", small["agreement"] >= 0.98),
        (
            "int8, accuracy within 1 point",
            "yes" if small["equivalent"] else "not shown",
            "yes",
            bool(small["equivalent"]),
        ),
        ("cold start", f"{statistics.median(found['cold']):.2f} s", "1 s", statistics.median(found["cold"]) < 1),
    ]
    lines += ["", "| | measured | target | |", "|---|---|---|---|"]
    lines += [f"| {what} | {got} | {target} | {'reached' if well else 'missed'} |" for what, got, target, well in rows]
    return "\n".join(lines)


def write(page: Path, numbers: str) -> None:
    """Replace what is between the marks of `page`."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n\n{numbers}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
