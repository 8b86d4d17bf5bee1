"""Coverage, false verdicts and power of the primary interval, from simulated comparisons with a known true difference.

    python benchmarks/simulate.py [--simulations 2000] [--macro-f1 600] [--groups 1000] [--seed 0]
        [--page docs/explanation/statistics.md]

Whether a row is correct follows a probit model: row i of group g is correct in arm a at seed s if

    m_a + seed[a, s] + group[g] + row[i] + group[a, g] + row[a, i] + noise[a, s, i] > 0,

all normal and independent with variances that sum to 1, so that an arm's true accuracy over new seeds and texts is
Phi(m_a) for any mix. Terms with an index a make the difference of two arms vary. Two tables vary the mix over many rows;
the others vary the number of groups, down to few, for one saved pair, several seeds and folds. The tables are written
between the markers of the page; the text around them is not changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from randout.stats.crossed import bootstrap_difference, crossed_bootstrap, crossed_difference
from randout.stats.intervals import score_interval
from randout.stats.multiplicity import GROUPS_NEEDED
from randout.stats.verdicts import compare_folds, compare_methods

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "statistics.md"
START, END = "<!-- simulated: from here to the end mark, written by benchmarks/simulate.py -->", "<!-- end mark -->"
SEEDS = (3, 5, 10)
ACCURACY, GAIN = 0.80, 0.02  # accuracy of the baseline; gain of a better method
ROWS, CLASSES = 1500, 3
GROUPS = (5, 6, 8, 10, 15, 20, 30, 50, 100, 150)
LARGEST = 20  # largest group size; sizes 1 to this are equally likely
WORTH = (
    3 * (LARGEST + 1) / (2 * (2 * LARGEST + 1))
)  # effective number of equal groups per such group: mean^2 / mean square
FOLDS = (5, 10)
COVERAGE, FALSE = 93.0, 7.0  # percent: required minimum and maximum of designs with verdicts


@dataclass(frozen=True)
class Mix:
    """Standard deviation of an arm's accuracy over seeds (points); shares of the latent variance; rows a group."""

    name: str
    seed_points: float
    group: float = 0.0  # same effect in both arms
    group_arm: float = 0.0  # different effects, so that a group favours one arm
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
    latent, shifts = drawn(mix, groups, (2, seeds), generator)
    return latent + shifts, groups


def drawn(
    mix: Mix, groups: np.ndarray, runs: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Latent values `(arms, seeds, N)` without means and seeds, and what the seeds add to them `(arms, seeds, 1)`."""
    arms, seeds = runs
    rows, count = len(groups), int(groups.max()) + 1
    seed = seed_variance(mix)
    shared = np.sqrt(mix.group) * generator.normal(size=count)[groups] + np.sqrt(mix.row) * generator.normal(size=rows)
    arm = np.sqrt(mix.group_arm) * generator.normal(size=(arms, count))[:, groups]
    arm += np.sqrt(mix.row_arm) * generator.normal(size=(arms, rows))
    noise = 1 - seed - mix.group - mix.group_arm - mix.row - mix.row_arm
    latent = np.sqrt(noise) * generator.standard_normal((arms, seeds, rows)) + (shared + arm)[:, None]
    return latent, np.sqrt(seed) * generator.normal(size=(arms, seeds, 1))


def seed_variance(mix: Mix) -> float:
    """Latent variance that gives accuracy the mix's standard deviation over seeds."""
    density = np.exp(-(ndtri(ACCURACY) ** 2) / 2) / np.sqrt(2 * np.pi)  # accuracy per unit of the latent value
    return float((mix.seed_points / 100 / density) ** 2)


def covers(found: Any, truth: float) -> bool:
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
            alone = crossed_difference(right[0, :count], groups, floor=False)
            low, high = score_interval(alone.estimate, alone.standard_error, alone.df)
            by_seed = (right[1, :count] - right[0, :count]).mean(1)
            seen[count][at] = (
                covers(none, 0.0),
                none.p_value <= 0.05,
                covers(some, GAIN),
                some.p_value <= 0.05 and some.estimate > 0,
                low <= ACCURACY <= high,
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
            sizes = np.bincount(groups)
            found = bootstrap_difference(values[1] - values[0], draws[1] - draws[0], len(sizes), sizes=sizes)
            seen[at] = covers(found, 0.0), found.p_value <= 0.05
        yield [mix.name, str(count), *(f"{100 * share:.1f}" for share in seen.mean(0))]


def few_groups(count: int, generator: np.random.Generator) -> np.ndarray:
    """Groups `(N,)` of 1 to `LARGEST` rows."""
    return np.repeat(np.arange(count), generator.integers(1, LARGEST + 1, count))


def group_rows(mix: Mix, simulations: int, seed: int) -> Iterator[list[str]]:
    """Accuracy by the number of groups: one saved pair, and the method over 5 and 10 seeds.

    Each design: coverage of the difference, of one arm's value; p <= .05 without a difference, and "not worse by 2
    points" of an arm that is worse by just that.
    """
    level, below = ndtri(ACCURACY), ndtri(ACCURACY - GAIN)
    fixed = float(np.sqrt(1 - seed_variance(mix)))  # of a saved pair the seeds are given: both are worth the same
    for count in GROUPS:
        generator = np.random.default_rng([seed, 2, MIXES.index(mix), count])
        seen = np.zeros((simulations, 3, 4))
        for at in range(simulations):
            groups = few_groups(count, generator)
            latent, shifts = drawn(mix, groups, (2, max(SEEDS)), generator)
            for place, seeds in enumerate((1, *SEEDS[1:])):
                values = latent[:, :1] / fixed if seeds == 1 else latent[:, :seeds] + shifts[:, :seeds]
                made = {"base": values[0] > -level, "same": values[1] > -level, "worse": values[1] > -below}
                seen[at, place] = judged({name: one.astype(int) for name, one in made.items()}, groups, at)
        yield [mix.name, str(count), *(f"{100 * share:.1f}" for share in seen.mean(0).ravel())]


def judged(right: dict[str, np.ndarray], groups: np.ndarray, seed: int) -> tuple[bool, bool, bool, bool]:
    """What `group_rows` counts, of arms right `(S, N)` named base, same and worse."""
    ones = np.ones(len(groups), int)
    base, same, worse = compare_methods(right, ones, groups, "base", 2, resamples=500, seed=seed, secondary=False)
    assert same.difference is not None
    assert worse.difference is not None
    return (
        covers(same.difference, 0.0),
        same.difference.p_value <= 0.05,
        base.low <= ACCURACY <= base.high,
        worse.difference.low90 > -GAIN,
    )


def group_macro_rows(mix: Mix, simulations: int, seed: int) -> Iterator[list[str]]:
    """Macro-F1 without a difference, by the number of groups: one saved pair and five seeds."""
    scale = float(np.sqrt(1 - seed_variance(mix)))
    for count in GROUPS:
        generator = np.random.default_rng([seed, 3, MIXES.index(mix), count])
        seen = np.zeros((simulations, 2, 2))
        for at in range(simulations):
            groups = few_groups(count, generator)
            latent, shifts = drawn(mix, groups, (2, 5), generator)
            labels = generator.choice(CLASSES, len(groups), p=[0.6, 0.3, 0.1])
            wrong = (labels + generator.integers(1, CLASSES, latent.shape)) % CLASSES
            for place, values in enumerate((latent[:, :1] / scale, latent + shifts)):
                made = np.where(values > -ndtri(ACCURACY), labels, wrong[:, : values.shape[1]])
                arms = {"base": made[0], "same": made[1]}
                found = compare_methods(
                    arms, labels, groups, "base", CLASSES, "macro_f1", resamples=500, seed=at, secondary=False
                )[1].difference
                assert found is not None
                seen[at, place] = covers(found, 0.0), found.p_value <= 0.05
        yield [str(count), *(f"{100 * share:.1f}" for share in seen.mean(0).ravel())]


def fold_rows(mix: Mix, simulations: int, seed: int) -> Iterator[list[str]]:
    """Accuracy over folds by the number of groups: every fold has its own training set, tested on its own groups.

    What a training set adds to an arm takes the place of the seeds. Training sets of k folds overlap: a share 1 / k of
    its variance is common to all, the correlation for which Nadeau and Bengio's variance is made.
    """
    for count in GROUPS:
        generator = np.random.default_rng([seed, 4, MIXES.index(mix), count])
        seen = np.zeros((simulations, len(FOLDS), 3))
        for at in range(simulations):
            groups = few_groups(count, generator)
            dealt = generator.permutation(count)[groups]
            for place, folds in enumerate(FOLDS):
                if count < folds:
                    continue
                fold = dealt % folds
                latent, own = drawn(mix, groups, (2, folds), generator)
                common = np.sqrt(seed_variance(mix)) * generator.normal(size=(2, 1))
                trained = np.sqrt(1 - 1 / folds) * own[..., 0] + np.sqrt(1 / folds) * common  # (2, folds)
                each = latent[:, 0] + trained[:, fold]  # a row is tested by its fold's model alone
                test = np.bincount(fold, minlength=folds)
                base, same, worse = (
                    np.bincount(fold, one > -ndtri(value), folds) / test
                    for one, value in zip(
                        (each[0], each[1], each[1]), (ACCURACY, ACCURACY, ACCURACY - GAIN), strict=True
                    )
                )
                found = [
                    compare_folds(
                        {"base": base, "other": other},
                        len(groups) - test,
                        test,
                        "base",
                        group_sizes=np.bincount(groups),
                    )[1].difference
                    for other in (same, worse)
                ]
                assert found[0] is not None
                assert found[1] is not None
                seen[at, place] = covers(found[0], 0.0), found[0].p_value <= 0.05, found[1].low90 > -GAIN
        cells = [[f"{100 * share:.1f}" for share in one] for one in seen.mean(0)]
        shown = [one if count >= folds else ["", "", ""] for one, folds in zip(cells, FOLDS, strict=True)]
        yield [mix.name, str(count), *(cell for one in shown for cell in one)]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def missed(rows: list[list[str]]) -> list[str]:
    """Describe the targets that these rows of `accuracy_rows` miss."""
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
    """Standard error of a simulated share of 95 %, in percent."""
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


def group_table(header: list[str], rows: list[list[str]], kinds: dict[str, str]) -> list[str]:
    """A table by number of groups, and after it which cells miss their target from `GROUPS_NEEDED` groups on."""
    misses = []
    for row in rows:
        named = dict(zip(header, row, strict=True))
        if int(named["groups"]) * WORTH < GROUPS_NEEDED:
            continue
        where = f"{named['mix']}, {named['groups']} groups" if "mix" in named else f"{named['groups']} groups"
        for title, cell in named.items():
            kind = next((kind for word, kind in kinds.items() if word in title), None)
            if cell and kind == "coverage" and float(cell) < COVERAGE:
                misses.append(f"- {where}, {title}: {cell} %, below {COVERAGE:g} %")
            if cell and kind == "false" and float(cell) > FALSE:
                misses.append(f"- {where}, {title}: {cell} %, above {FALSE:g} %")
    least = min(count for count in GROUPS if count * WORTH >= GROUPS_NEEDED)
    targets = f"from {least} groups on coverage at least {COVERAGE:g} %, false verdicts at most {FALSE:g} %"
    verdict = f"Targets missed ({targets}):" if misses else f"Targets met: {targets}."
    return [*table(header, rows), "", verdict, *(["", *misses] if misses else [])]


def group_lines(simulations: int, macro: int, seed: int) -> list[str]:
    """The tables by the number of groups."""
    kinds = {"coverage": "coverage", "value": "coverage", "false": "false"}
    designs = ["1 seed", *(f"{count} seeds" for count in SEEDS[1:])]
    each = ("coverage", "false", "value", "false not worse")
    mixes = [mix for mix in MIXES if mix.group_arm]
    accuracy = [row for mix in mixes for row in group_rows(mix, simulations, seed)]
    macro_f1 = list(group_macro_rows(mixes[-1], macro, seed))
    folds = [row for mix in mixes for row in fold_rows(mix, simulations, seed)]
    error = standard_error(simulations)
    return [
        f"By the number of groups, of 1 to {LARGEST} rows each. One seed: a saved pair of models that are worth the same.",
        f"One of them is worth {WORTH:.2f} groups of equal size, and no verdict is given under {GROUPS_NEEDED} of those:",
        "the rows of fewer show what would come up.",
        "coverage: of the interval of a difference that is 0; false: how often p <= .05 comes up there; value: coverage",
        f"of one arm's accuracy; false not worse: how often an arm worse by {100 * GAIN:g} points has a 90 % interval above",
        f"that. Accuracy, {simulations:,} simulations of each row, percent (standard error at 95 %: {error:.1f}):",
        "",
        *group_table(["mix", "groups", *(f"{one}: {what}" for one in designs for what in each)], accuracy, kinds),
        "",
        f"Macro-F1, mix {mixes[-1].name}, {macro:,} simulations of each row (standard error {standard_error(macro):.1f}):",
        "",
        *group_table(
            ["groups", *(f"{one}: {what}" for one in ("1 seed", "5 seeds") for what in each[:2])], macro_f1, kinds
        ),
        "",
        f"Folds, accuracy, {simulations:,} simulations of each row; whole groups are dealt into folds:",
        "",
        *group_table(
            [
                "mix",
                "groups",
                *(f"{count} folds: {what}" for count in FOLDS for what in (*each[:2], each[3])),
            ],
            folds,
            kinds,
        ),
    ]


def report(simulations: int, macro: int, groups: int, seed: int) -> list[str]:
    """Format the tables as lines of Markdown."""
    options = f"--simulations {simulations} --macro-f1 {macro} --groups {groups} --seed {seed}"
    parts = [mix_lines(), accuracy_lines(simulations, seed), *([macro_lines(macro, seed)] if macro else [])]
    parts += [group_lines(groups, macro, seed)] if groups else []
    return [f"`python benchmarks/simulate.py {options}`", *(line for part in parts for line in ("", *part))]


def parted(page: Path) -> tuple[str, str]:
    """Text of the page before and after the simulated part."""
    before, found, rest = page.read_text(encoding="utf-8").partition(START)
    if not found or END not in rest:
        raise SystemExit(f"{page} lacks the marks between which the tables go:\n{START}\n{END}")
    return before, rest.partition(END)[2]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--macro-f1", type=int, default=600)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(words)
    parted(arguments.page)  # refuses a page without markers before the simulation
    began = time.perf_counter()
    lines = report(arguments.simulations, arguments.macro_f1, arguments.groups, arguments.seed)
    before, after = parted(arguments.page)  # read again: the text may have been edited meanwhile
    arguments.page.write_text("\n".join([before + START, "", *lines, "", END + after]), encoding="utf-8")
    print("\n".join(lines))
    print(f"\nwrote {arguments.page} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
