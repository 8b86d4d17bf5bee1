"""Analyse the paper's published numbers and write the result as a Markdown page.

    python benchmarks/claims.py [--page docs/explanation/published-numbers.md]

Reads only `randout.paper.published`; needs no model and no data.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from randout.paper.published import Number, paper
from randout.stats.paired import detectable_difference, mcnemar_exact

DATASETS = {"rhmd": ("RHMD", "posts", "Table 5"), "coda19": ("CODA-19", "segments", "Table 4")}
ARMS = ("plain", "randout-kd")
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "published-numbers.md"


def interval(number: Number, how: str) -> tuple[float, float]:
    """Range [low, high) of fractions that print as this number if digits are cut off, or rounded."""
    shift = 0.0 if how == "cut off" else -number.step / 2
    return (number.value + shift) / 100, (number.value + shift + number.step) / 100


def counts(number: Number, rows: int, how: str) -> list[int]:
    """Possible numbers of correct rows among `rows` for a printed share."""
    low, high = interval(number, how)
    first = math.ceil(round(low * rows, 6))
    return list(range(first, math.ceil(round(high * rows, 6))))


def right_by_class(dataset: str, model: str, how: str = "cut off") -> dict[str, list[int]]:
    """Possible numbers of correct rows of each class, from its printed recall."""
    place = DATASETS[dataset][2]
    supports = paper().datasets[dataset]["test_rows"]
    return {
        label: counts(paper().number(place, dataset, model, "recall", label), rows, how)
        for label, rows in supports.items()
    }


def gain(dataset: str) -> tuple[int, int, int]:
    """Number of test rows, and of rows that the baseline and Randout-KD classify correctly, summed over classes."""
    found = [right_by_class(dataset, model) for model in ARMS]
    plain, ours = (sum(one[label][0] for label in one) for one in found)
    return sum(paper().datasets[dataset]["test_rows"].values()), plain, ours


def most_discordant(net: int, exact: bool) -> int:
    """Largest number of discordant rows (exactly one model correct) for which a net gain is significant at .05."""
    if not exact:
        return max(n for n in range(net, net * net) if net**2 / n > 1.959964**2)
    discordant = net
    while significance(net, discordant + 2) < 0.05:
        discordant += 2
    return discordant


def significance(net: int, discordant: int) -> float:
    """p value of the exact McNemar test with c - b = net and b + c = discordant."""
    sides = np.repeat([True, False], [(discordant - net) // 2, (discordant + net) // 2])
    return mcnemar_exact(sides, ~sides, range(discordant)).p_value


def consistent(dataset: str, model: str, metric: str, how: str) -> bool:
    """Whether the macro average of Table 3 is consistent with the printed values of the classes."""
    each = [interval(number, how) for number in paper().find(DATASETS[dataset][2], dataset, model, metric)]
    low, high = np.mean(each, axis=0)
    printed = interval(paper().number("Table 3", dataset, model, f"macro_{metric}"), how)
    return bool(low < printed[1] and printed[0] < high)


def f1_consistent(dataset: str, model: str, label: str, how: str) -> bool:
    """Whether a class's F1 is consistent with its printed precision and recall: 2 P R / (P + R)."""
    place = DATASETS[dataset][2]
    ends = [interval(paper().number(place, dataset, model, rate, label), how) for rate in ("precision", "recall")]
    low, high = (2 * p * r / (p + r) for p, r in zip(*ends, strict=True))
    printed = interval(paper().number(place, dataset, model, "f1", label), how)
    return low < printed[1] and printed[0] < high


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def count_lines() -> Iterator[str]:
    yield "## Correct rows"
    yield ""
    yield "From the recall of each class (Tables 4 and 5) and the rows of the class in the test split, and from the"
    yield "accuracy of Table 3 and all test rows. Each recall leaves exactly one whole number of rows, and their sum is"
    yield "consistent with the accuracy."
    yield ""
    rows = []
    for dataset, (title, _, _) in DATASETS.items():
        total = sum(paper().datasets[dataset]["test_rows"].values())
        for model in ARMS:
            found = right_by_class(dataset, model)
            if any(len(one) != 1 for one in found.values()):
                raise SystemExit(f"{title}, {model}: the recalls do not determine the counts: {found}")
            accuracy = paper().number("Table 3", dataset, model, "accuracy")
            allowed = counts(accuracy, total, "cut off")
            right = sum(one[0] for one in found.values())
            cells = [title, paper().names[model], ", ".join(f"{label} {one[0]:,}" for label, one in found.items())]
            cells += [f"{right:,} of {total:,}", f"{accuracy.printed} %: {', '.join(f'{one:,}' for one in allowed)}"]
            rows.append([*cells, "yes" if right in allowed else "no"])
    yield from table(["data set", "model", "right by class", "sum", "from the accuracy", "agree"], rows)
    for dataset, (title, unit, _) in DATASETS.items():
        total, plain, ours = gain(dataset)
        yield f"- {title}: {plain:,} -> {ours:,}, a gain of **{ours - plain} {unit}**, {100 * (ours - plain) / total:.2f} points."
    yield ""


def error_lines() -> Iterator[str]:
    yield "## What such a gain shows"
    yield ""
    yield "Each number is one run on one test split. The standard error is that of one accuracy, sqrt(p (1 - p) / n). Whether"
    yield "a gain of one model over another is significant depends on the discordance, the share of test rows on which"
    yield "exactly one of the two is right, which the paper does not print: the fewer, the stronger a net gain. The limits"
    yield "are the largest discordance with two-sided p < .05 by the exact McNemar test, and without any correction"
    yield "(net^2 / discordant > 1.96^2)."
    yield ""
    rows = []
    for dataset, (title, _, _) in DATASETS.items():
        total, plain, ours = gain(dataset)
        p, net = plain / total, ours - plain
        limits = [most_discordant(net, exact) for exact in (True, False)]
        at_ten = round(0.10 * total) // 2 * 2 + net % 2
        cells = [title, f"{net}", f"{100 * net / total:.2f}", f"{100 * math.sqrt(p * (1 - p) / total):.2f}"]
        cells += [f"{100 * limit / total:.1f} % ({limit:,})" for limit in limits]
        rows.append([*cells, f"{significance(net, at_ten):.3f}"])
    header = ["data set", "gain, rows", "gain, points", "standard error, points", "exact limit", "uncorrected limit"]
    yield from table([*header, "exact p at 10 % discordance"], rows)
    training = paper().training
    size = math.prod(len(training[name]) for name in ("lambda", "temperature", "tokens", "units", "batch_size"))
    yield "None of this includes other seeds (it covers two saved models) or the choice of settings: the paper searches"
    yield f"{size:,} configurations for Randout-KD and {len(training['batch_size'])} for the baseline."
    yield ""


def detectable_lines() -> Iterator[str]:
    yield "## Smallest detectable differences"
    yield ""
    yield "80 % power, two-sided .05, one pair of models, 10 % discordance:"
    yield ""
    sizes = {f"{title} test": gain(dataset)[0] for dataset, (title, _, _) in DATASETS.items()}
    sizes["RHMD, all ten test folds"] = paper().datasets["rhmd"]["rows"]
    rows = [[name, f"{n:,}", f"{100 * detectable_difference(n, 0.10):.2f}"] for name, n in sizes.items()]
    yield from table(["rows", "n", "points"], rows)


def digit_lines() -> Iterator[str]:
    yield "## Truncated or rounded"
    yield ""
    yield "How many printed values are consistent if decimals were cut off, and if they were rounded:"
    yield "recalls that are some whole number of the class's rows; F1 values that follow from precision and recall; macro"
    yield "averages of Table 3 that follow from the classes' values."
    yield ""
    rows = []
    for dataset, (title, _, _) in DATASETS.items():
        labels = list(paper().datasets[dataset]["test_rows"])
        for how in ("cut off", "rounded"):
            whole = [bool(one) for model in ARMS for one in right_by_class(dataset, model, how).values()]
            f1 = [f1_consistent(dataset, model, label, how) for model in ARMS for label in labels]
            macro = [consistent(dataset, model, rate, how) for model in ARMS for rate in ("precision", "recall", "f1")]
            rows.append([title, how, *(f"{sum(found)} of {len(found)}" for found in (whole, f1, macro))])
    yield from table(["data set", "decimals", "recalls", "F1 of a class", "macro averages"], rows)


def other_system_lines() -> Iterator[str]:
    yield "## Other systems on RHMD"
    yield ""
    yield "In percent. The release has three classes; a number on four classes is comparable with no run on it."
    yield ""
    rows = []
    for number in paper().find("Section 5, ten folds", "rhmd"):
        if number.model != "randout-kd":
            cells = [paper().names[number.model], "3", number.metric.removeprefix("macro_"), number.printed]
            rows.append([*cells, "quoted by the paper, section 5"])
    notes = []
    for one in paper().elsewhere:
        name = f"{paper().names[one.model]}, {one.system}"
        rows.append([name, f"{one.classes}", one.metric, f"{100 * float(one.printed):.0f}", one.source])
        notes.append(f"{one.system} with {one.classes} classes: {one.about}.")
    yield from table(["system", "classes", "metric", "value", "source"], rows)
    yield from (f"- {note}" for note in notes)
    yield "- Naseem et al. 2022a (doi 10.1109/TCSS.2022.3186883) evaluate baselines with four classes. The abstract prints no"
    yield "  number, and the text was not available for this page, so none of them is listed."
    yield ""


def slip_lines() -> Iterator[str]:
    yield "## Footnotes"
    yield ""
    yield from (f"- {text}" for text in paper().notes.values())


def page() -> str:
    lines = ["# The published numbers", ""]
    lines += [
        "Generated by `python benchmarks/claims.py` from `src/randout/paper/published.toml`; do not edit this page.",
        "",
    ]
    for part in (count_lines, error_lines, detectable_lines, digit_lines, other_system_lines, slip_lines):
        lines += part()
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    path = parser.parse_args().page
    path.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
