"""Seconds until `import randout` and `randout --help` finish, compared with an empty Python process.

    python benchmarks/startup.py
    python benchmarks/startup.py --smoke    # one run of each

Each run is its own process; the three commands take turns. `PYTHONPATH` and compiled files are used as they are, so the
first run of a fresh checkout also compiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import randout": ["-c", "import randout"],
    "randout --help": ["-m", "randout.cli", "--help"],
}
TARGET = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    found = measure(1 if arguments.smoke else arguments.runs)
    print(json.dumps(found) if arguments.json else as_text(found))


def measure(runs: int) -> dict[str, list[float]]:
    """Measure the seconds of each run of each command."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            found[name].append(time.perf_counter() - began)
    return found


def as_text(found: dict[str, list[float]]) -> str:
    lines = [f"| command | median, s (target: {TARGET}) | range |", "|---|---|---|"]
    for name, took in found.items():
        lines.append(f"| `{name}` | {statistics.median(took):.2f} | {min(took):.2f} to {max(took):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
