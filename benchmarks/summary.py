"""Summary of the measurements of `throughput.py`: rates, ratios, shares of the floor, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from randout.experiments.run import defaults

PAPER_EPOCHS = 15
FIRST = ("trainer", "randout_first")  # sides that are timed over the first batches of a round


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Rates of every side, and ratios to the peers on the same texts: median, minimum and maximum over rounds."""
    rounds = found["rounds"]
    made: dict[str, Any] = {"rates": {}, "ratio": {}}
    for side in rounds[0]["seconds"]:
        start = "first_" if side in FIRST else ""
        made["rates"][side] = {
            what: spread([one[start + what] / one["seconds"][side] for one in rounds]) for what in ("texts", "tokens")
        }
    for side, ours in (("trainer", "randout_first"), ("best", "randout"), ("slow", "randout")):
        if side in rounds[0]["seconds"]:
            made["ratio"][side] = spread([one["seconds"][side] / one["seconds"][ours] for one in rounds])
    if "floor" in rounds[0]:
        made["share_of_floor"] = {
            name: spread([one["floor"][name]["seconds"] / step_seconds(one) for one in rounds])
            for name in ("needed", "whole")
        }
    if "labels" in found:
        made["with_labels"] = with_labels(found["labels"], made)
    return made


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def step_seconds(one: dict[str, Any]) -> float:
    """Seconds per step of randout over the first batches of a round."""
    return one["seconds"]["randout_first"] / one["first_steps"]


def with_labels(labels: dict[str, Any], made: dict[str, Any]) -> dict[str, dict[str, float]]:
    """randout's texts per second including the teacher's single pass over training and validation texts."""
    texts = labels["texts"]
    once = labels["seconds_a_text"] * (texts["train"] + texts["validation"]) / texts["train"]
    rate = made["rates"]["randout"]["texts"]["median"]
    runs = {"default": defaults.LEAST_EPOCHS, "paper": PAPER_EPOCHS}
    return {name: {"epochs": n, "texts": 1 / (1 / rate + once / n)} for name, n in runs.items()}


def as_text(found: dict[str, Any]) -> str:
    """Format the results as tables."""
    lines = [" ".join(f"{name}={value}" for name, value in found["setting"].items()), ""]
    lines += [
        "| side | texts/s | range | tokens/s | speedup of randout | range |",
        "|---|---|---|---|---|---|",
    ]
    for side, rate in found["rates"].items():
        ratio = found["ratio"].get(side)
        against = f"{ratio['median']:.2f} | {ratio['least']:.2f} to {ratio['most']:.2f}" if ratio else "|"
        texts = rate["texts"]
        lines += [
            f"| {side.replace('_first', ', first batches')} | {texts['median']:.1f} | {texts['least']:.1f} to "
            f"{texts['most']:.1f} | {rate['tokens']['median']:.0f} | {against} |"
        ]
    rounds = found["rounds"]
    each = ", ".join(f"{one['texts']} texts of {one['tokens'] / one['texts']:.1f} tokens" for one in rounds)
    lines += ["", f"{len(rounds)} rounds: {each}; the first {rounds[0]['first_steps']} batches of each: trainer, floor"]
    if "share_of_floor" in found:
        lines += ["", *floor_lines(found)]
    return "\n".join([*lines, "", *other_lines(found)])


def floor_lines(found: dict[str, Any]) -> list[str]:
    """Lines on the floor by part: medians over rounds of the mean per step."""
    rounds = found["rounds"]

    def middle(*path: str) -> float:
        values = []
        for one in rounds:
            value = one["floor"]
            for name in path:
                value = value[name]
            values.append(value)
        return statistics.median(values)

    step, rate = statistics.median(step_seconds(one) for one in rounds), middle("bytes_a_second")
    lines = [f"floor of a step ({1000 * step:.1f} ms measured), copies at {rate / 1e9:.1f} GB/s:"]
    moved = {part: middle("bytes", part) for part in rounds[0]["floor"]["bytes"]}
    lines += [f"bytes: {', '.join(f'{part} {size / 1e6:.1f} MB' for part, size in moved.items())}"]
    for name, what in (("needed", "last block for first tokens only"), ("whole", "all of the last block")):
        parts = ", ".join(
            f"{part} {1000 * middle(name, 'parts', part):.1f}" for part in rounds[0]["floor"][name]["parts"]
        )
        share = found["share_of_floor"][name]
        lines += [
            f"{what}: {middle(name, 'flop') / 1e9:.2f} GFLOP, {1000 * middle(name, 'seconds'):.1f} ms ({parts}); "
            f"share of the floor {share['median']:.1%} ({share['least']:.1%} to {share['most']:.1%})"
        ]
    return lines


def other_lines(found: dict[str, Any]) -> list[str]:
    """Lines on soft labels, batching and memory."""
    lines = []
    if "labels" in found:
        lines += [f"soft labels: once, {1 / found['labels']['seconds_a_text']:.0f} texts/s"]
        for name, run in found["with_labels"].items():
            lines += [f"randout with them, over {run['epochs']} epochs ({name}): {run['texts']:.1f} texts/s"]
    if "batching" in found:
        share = found["batching"]
        lines += [f"batching {share['batching_share']:.2%} of a step, tokenization {share['tokenising_share']:.2%}"]
    if "memory_mib" in found:
        lines += [f"peak memory: {', '.join(f'{side} {mib:.0f} MiB' for side, mib in found['memory_mib'].items())}"]
    return lines
