"""Does the primary interval hold its level? Simulated comparisons of two methods with a known true difference.

    python benchmarks/simulate.py [--simulations 2000] [--macro-f1 600] [--seed 0] [--page docs/statistics.md]

Rows are right or wrong by a probit: row i, of group g, is right in arm a at seed s where

    m_a + seed[a, s] + group[g] + row[i] + group[a, g] + row[a, i] + noise[a, s, i] > 0,

all normal and independent, their variances adding up to 1, so that an arm's true accuracy over new seeds and texts is
Phi(m_a) whatever the mix. What has an index a is what makes the difference of two arms vary. The tables go into the
page between its markers; the text around them is left alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri, stdtrit

from randout.crossed import Difference, bootstrap_difference, crossed_bootstrap, crossed_difference

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
START, END = "<!-- simulated: from here to the end mark, written by benchmarks/simulate.py -->", "<!-- end mark -->"
SEEDS = (3, 5, 10)
ACCURACY, GAIN = 0.80, 0.02  # of the baseline; of the better method where there is one
ROWS, CLASSES = 1500, 3


@dataclass(frozen=True)
class Mix:
    """Standard deviation of an arm's accuracy over seeds (points); shares of the latent variance; rows a group."""

    name: str
    seed_points: float
    group: float = 0.0  # both arms alike
    group_arm: float = 0.0  # apart, so that a group favours one arm
    row: float = 0.4
    row_arm: float = 0.1
    largest_group: int = 1  # sizes 1 to this, all equally likely


MIXES = (
    Mix("rows", 0.0),
    Mix("seeds", 1.5, largest_group=2, group=0.1),
    Mix("groups", 0.2, group=0.2, group_arm=0.1, row=0.3, row_arm=0.05, largest_group=25),
    Mix("all three", 0.8, group=0.15, group_arm=0.05, row=0.3, row_arm=0.1, largest_group=12),
)


def sample(mix: Mix, seeds: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Latent values without the arms' means `(2, seeds, ROWS)`, of variance 1, and groups `(ROWS,)`."""
    sizes = generator.integers(1, mix.largest_group + 1, ROWS)
    groups = np.repeat(np.arange(ROWS), sizes)[:ROWS]
    density = np.exp(-(ndtri(ACCURACY) ** 2) / 2) / np.sqrt(2 * np.pi)  # points of accuracy per unit of the latent
    seed = (mix.seed_points / 100 / density) ** 2
    shared = np.sqrt(mix.group) * generator.normal(size=ROWS)[groups] + np.sqrt(mix.row) * generator.normal(size=ROWS)
    arm = np.sqrt(mix.group_arm) * generator.normal(size=(2, ROWS))[:, groups]
    arm += np.sqrt(mix.row_arm) * generator.normal(size=(2, ROWS))
    noise = 1 - seed - mix.group - mix.group_arm - mix.row - mix.row_arm
    latent = np.sqrt(noise) * generator.standard_normal((2, seeds, ROWS))
    latent += np.sqrt(seed) * generator.normal(size=(2, seeds, 1))
    return latent + (shared + arm)[:, None], groups


def covers(found: Difference, truth: float) -> bool:
    return found.low <= truth <= found.high


def paired_t_covers(by_seed: np.ndarray, truth: float) -> bool:
    half = float(stdtrit(len(by_seed) - 1, 0.975)) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
    return bool(abs(by_seed.mean() - truth) <= half)


def accuracy_rows(mix: Mix, simulations: int, seed: int) -> Iterator[list[str]]:
    """One row for each number of seeds; fewer seeds are the first of the same ten."""
    generator = np.random.default_rng([seed, MIXES.index(mix)])
    seen = {count: np.zeros((simulations, 7)) for count in SEEDS}
    plain, better = ndtri(ACCURACY), ndtri(ACCURACY + GAIN)
    for at in range(simulations):
        latent, groups = sample(mix, max(SEEDS), generator)
        right = (latent > -plain).astype(np.int8)
        gained = (latent[1] > -better).astype(np.int8)
        for count in SEEDS:
            none = crossed_difference(right[1, :count] - right[0, :count], groups)
            some = crossed_difference(gained[:count] - right[0, :count], groups)
            own = crossed_difference(right[0, :count], groups)
            by_seed = (right[1, :count] - right[0, :count]).mean(1)
            seen[count][at] = (
                covers(none, 0.0),
                none.p_value <= 0.05,
                covers(some, GAIN),
                some.p_value <= 0.05 and some.estimate > 0,
                covers(own, ACCURACY),
                100 * (none.high - none.low) / 2,
                paired_t_covers(by_seed, 0.0),
            )
    for count in SEEDS:
        coverage, false, with_gain, power, own, half, paired = seen[count].mean(0)
        cells = [f"{100 * coverage:.1f}", f"{100 * with_gain:.1f}", f"{100 * own:.1f}", f"{100 * false:.1f}"]
        yield [mix.name, str(count), *cells, f"{100 * power:.1f}", f"{half:.2f}", f"{100 * paired:.1f}"]


def macro_rows(mix: Mix, simulations: int, seed: int, resamples: int = 500) -> Iterator[list[str]]:
    """Macro-F1 with no true difference: the wrong rows fall on the other classes at random."""
    generator = np.random.default_rng([seed, MIXES.index(mix), 1])
    for count in (5, 10):
        seen = np.zeros((simulations, 2))
        for at in range(simulations):
            latent, groups = sample(mix, count, generator)
            labels = generator.choice(CLASSES, ROWS, p=[0.6, 0.3, 0.1])
            wrong = (labels + generator.integers(1, CLASSES, latent.shape)) % CLASSES
            made = np.where(latent > -ndtri(ACCURACY), labels, wrong)
            values, draws = crossed_bootstrap(labels, made, groups, CLASSES, "macro_f1", resamples, at)
            found = bootstrap_difference(values[1] - values[0], draws[1] - draws[0], int(groups.max()) + 1)
            seen[at] = covers(found, 0.0), found.p_value <= 0.05
        yield [mix.name, str(count), *(f"{100 * share:.1f}" for share in seen.mean(0))]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def missed(rows: list[list[str]]) -> list[str]:
    """The targets that these rows of `accuracy_rows` miss, in words."""
    found = []
    for name, count, *cells in rows:
        most = {"5": 7.5, "10": 6.5}.get(count)
        if most is None:
            continue
        coverage, with_gain, _, false = (float(cell) for cell in cells[:4])
        if min(coverage, with_gain) < 93:
            found.append(f"- {name}, {count} seeds: coverage {min(coverage, with_gain):.1f} %, below 93 %")
        if false > most:
            found.append(f"- {name}, {count} seeds: {false:.1f} % false verdicts, above {most} %")
    return found


def standard_error(simulations: int) -> float:
    """Of a share of 95 %, in percent."""
    return 100 * float(np.sqrt(0.05 * 0.95 / simulations))


def mix_lines() -> list[str]:
    rows = []
    for mix in MIXES:
        shares = (mix.seed_points, mix.group, mix.group_arm, mix.row, mix.row_arm)
        sizes = f"1 to {mix.largest_group}" if mix.largest_group > 1 else "1"
        rows.append([mix.name, *(f"{one:g}" for one in shares), sizes])
    better = f"{100 * (ACCURACY + GAIN):g} % in one of them for the columns of a true difference"
    return [
        f"{ROWS:,} rows; true accuracy {100 * ACCURACY:g} % in both arms, {better}.",
        "The four mixes, as shares of the latent variance (what is left is noise of each run and row):",
        "",
        *table(["mix", "sd over seeds, points", "group", "group by arm", "row", "row by arm", "rows a group"], rows),
    ]


def accuracy_lines(simulations: int, seed: int) -> list[str]:
    rows = [row for mix in MIXES for row in accuracy_rows(mix, simulations, seed)]
    gain, error = f"{100 * GAIN:g} points", standard_error(simulations)
    header = ["mix", "seeds", "coverage, no difference", f"coverage, {gain}", "coverage, a value"]
    header += ["false better or worse", f"power, {gain}", "half width, points", "paired t: coverage"]
    targets = "coverage at least 93 % from five seeds on, false verdicts at most 7.5 % at five seeds and 6.5 % at ten"
    found = missed(rows)
    wide = [f"{row[0]} with {row[1]} seeds ({row[2]} %)" for row in rows if float(row[2]) > 95 + 2 * error]
    return [
        f"Accuracy, {simulations:,} simulations of each mix, percent (standard error at 95 %: {error:.1f}):",
        "",
        *table(header, rows),
        "",
        f"Targets missed ({targets}):" if found else f"Targets met: {targets}.",
        *(["", *found] if found else []),
        "",
        f"Wider than need be (coverage over 95 % by two standard errors): {', '.join(wide) or 'none'}.",
        "With three seeds no verdict is given; the column shows how often p <= .05 would have come up.",
        "The last column is a paired t interval over seeds, for contrast: it knows nothing of new texts.",
    ]


def macro_lines(simulations: int, seed: int) -> list[str]:
    rows = [row for mix in MIXES for row in macro_rows(mix, simulations, seed)]
    error = standard_error(simulations)
    return [
        f"Macro-F1 by the crossed bootstrap, no true difference, {simulations:,} simulations of each mix, percent "
        f"(standard error at 95 %: {error:.1f}):",
        "",
        *table(["mix", "seeds", "coverage", "false better or worse"], rows),
    ]


def report(simulations: int, macro: int, seed: int) -> list[str]:
    """The tables as lines of Markdown."""
    command = f"`python benchmarks/simulate.py --simulations {simulations} --macro-f1 {macro} --seed {seed}`"
    parts = [mix_lines(), accuracy_lines(simulations, seed), *([macro_lines(macro, seed)] if macro else [])]
    return [command, *(line for part in parts for line in ("", *part))]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--macro-f1", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(words)
    before, found, rest = arguments.page.read_text(encoding="utf-8").partition(START)
    if not found or END not in rest:
        raise SystemExit(f"{arguments.page} lacks the marks between which the tables go:\n{START}\n{END}")
    began = time.perf_counter()
    lines = report(arguments.simulations, arguments.macro_f1, arguments.seed)
    after = rest.partition(END)[2]
    arguments.page.write_text("\n".join([before + START, "", *lines, "", END + after]), encoding="utf-8")
    print("\n".join(lines))
    print(f"\nwrote {arguments.page} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
