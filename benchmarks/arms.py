"""The four arms of the paper's Table 6 on a dataset, by the ordinary commands, and a Markdown page of what came out.

    python benchmarks/arms.py --data rhmd --student FOLDER --teacher FOLDER --page docs/results/rhmd-auto.md [-- OPTIONS]

OPTIONS go to every `randout train`. Started again, it finds what is done and goes on with the rest.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from randout import figures
from randout.runs import RunFolder
from randout.scoring import compare_runs

ARMS = ("plain", "randout", "kd", "randout-kd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "student", "teacher", "page"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--title", default="Four arms")
    arguments, options = parser.parse_known_args()
    options = [word for word in options if word != "--"]
    runs, commands, shown = {}, [], []
    for arm in ARMS:
        folder = Path(arguments.runs) / arm
        command = [
            "randout",
            "train",
            arguments.data,
            "--preset",
            arm,
            "-o",
            str(folder),
            "--student",
            arguments.student,
        ]
        command += ["--runs", arguments.runs, *(["--teacher", arguments.teacher] if "kd" in arm else []), *options]
        print("$", shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", "randout.cli", *command[1:]], check=True)
        runs[arm], commands = RunFolder(folder), [*commands, command]
    for command in commands:
        names = [
            Path(word.rpartition(":")[2]).name if Path(word.rpartition(":")[2]).is_absolute() else word
            for word in command
        ]
        shown.append(shlex.join(names))
    Path(arguments.page).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.page).write_text(page(arguments.title, runs, shown), encoding="utf-8")
    print(f"written: {arguments.page}")


def page(title: str, runs: dict[str, RunFolder], commands: list[str]) -> str:
    """Markdown: commands, validation, the comparison on the test split, each arm's table."""
    some = next(iter(runs.values())).record
    labels = dict(enumerate(some["identity"]["data"]["labels"]))
    where = ", ".join(f"{name} {value}" for name, value in some["environment"].items())
    lines = [
        f"# {title}",
        "",
        f"Machine: {where}. One seed; the intervals speak of these saved models and new texts.",
        "",
    ]
    lines += ["```sh", *commands, "```", "", "| arm | validation accuracy | best epoch |", "|---|---|---|"]
    for name, run in runs.items():
        history = run.read("history.json")
        score = run.read("metrics.json")["validation"]["accuracy"]
        lines.append(f"| {name} | {score:.2%} | {history['best_epoch']} of {len(history['epochs'])} |")
    teacher = runs["kd"].record.get("teacher", {})
    lines += [
        "",
        f"Teacher ({teacher.get('name')}): validation accuracy {teacher.get('validation_accuracy', 0):.2%}.",
        "",
    ]
    lines += ["Test split, each arm against plain:", "", "```"]
    lines += [*figures.comparison_lines(compare_runs(runs, "plain")), "```", ""]
    for name, run in runs.items():
        metrics = run.read("metrics.json")["test"]
        lines += [f"## {name}", "", "```", *figures.score_lines(metrics, labels), "```", ""]
        if "without_copies" in metrics:
            rest = metrics["without_copies"]
            copies = metrics["rows"] - rest["rows"]
            lines += [f"Without the {copies} test rows that have a copy in train: accuracy {rest['accuracy']:.2%}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
