"""Tables of verdicts: estimands, families, words, what n seeds cannot reach, folds, best of N."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from randout.core.errors import UserError
from randout.reporting.text import method_lines
from randout.stats import multiplicity
from randout.stats.crossed import crossed_difference
from randout.stats.multiplicity import GROUPS_NEEDED, detectable, holm_steps, judge
from randout.stats.paired import compare_models, holm
from randout.stats.secondary_tests import mcnemar_over_seeds, over_seeds, seeds_for_wilcoxon, signed_rank_p
from randout.stats.verdicts import FOLDS, METHOD, SAVED, best_of, compare_folds, compare_methods, fold_interval

SKILLS = {"plain": 0.75, "kd": 0.755, "randout": 0.85, "noise": 0.65}


def arms(seeds: int, rows: int = 1200, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Predictions by arm that mostly agree, labels of three classes, groups of two rows."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    luck = generator.random((seeds, rows))
    near = np.where(generator.random((seeds, rows)) < 0.9, luck, generator.random((seeds, rows)))
    made = {}
    for name, skill in SKILLS.items():
        right = (luck if name == "plain" else near) < skill
        made[name] = np.where(right, labels, (labels + 1) % 3)
    return made, labels, np.arange(rows) // 2


def test_five_seeds_give_a_verdict_on_the_method():
    made, labels, groups = arms(5)
    rows = compare_methods(made, labels, groups, "plain", 3)
    assert [row.name for row in rows] == ["plain", "kd", "randout", "noise"]
    assert [row.words for row in rows] == [None, "not distinguishable, equivalent", "better", "worse"]
    assert {row.estimand for row in rows} == {METHOD}
    assert rows[0].difference is rows[0].simultaneous is rows[0].adjusted_p is rows[0].against is None
    right = {name: (one == labels).astype(int) for name, one in made.items()}
    alone = [crossed_difference(right[name] - right["plain"], groups) for name in ("kd", "randout", "noise")]
    assert [row.difference for row in rows[1:]] == alone
    assert [row.adjusted_p for row in rows[1:]] == holm([one.p_value for one in alone]).tolist()
    assert [row.values for row in rows] == [pytest.approx(one.mean(1)) for one in right.values()]
    assert rows[2].value == pytest.approx(right["randout"].mean())
    own = crossed_difference(right["randout"], groups, floor=False)
    t = stats.t.ppf(0.975, own.df)
    v, n = own.estimate, own.estimate * (1 - own.estimate) / own.standard_error**2
    half = t * math.sqrt(v * (1 - v) / n + t**2 / (4 * n**2))  # the score interval with t for z
    ends = [(v + t**2 / (2 * n) + sign * half) / (1 + t**2 / n) for sign in (-1, 1)]
    assert [rows[2].low, rows[2].high] == pytest.approx(ends)
    assert ends == pytest.approx([own.low, own.high], abs=0.002)
    found = rows[2].difference
    reach = stats.t.ppf(0.975, found.df) + stats.t.ppf(0.8, found.df)
    assert rows[2].detectable == pytest.approx(reach * found.standard_error)
    net = np.abs(np.add.reduceat((right["kd"] - right["plain"]).mean(0), np.arange(0, 1200, 2)))
    rare = 2.8016**2 * (net**2).sum() / net.sum() / 1200  # all that differs in favour, in clusters of this size
    error = rows[1].difference.standard_error
    reach = stats.t.ppf(0.975, rows[1].difference.df) + stats.t.ppf(0.8, rows[1].difference.df)
    assert rows[1].detectable == pytest.approx(max(rare, reach * error), rel=1e-4)
    assert rows[2].secondary["McNemar"] == "5 of 5 seeds"
    assert rows[2].secondary["Wilcoxon over seeds"] == "cannot reach .05 with 5 seeds (7 needed)"
    assert {row.against for row in rows[1:]} == {"plain"}
    json.dumps([dataclasses.asdict(row) for row in rows], allow_nan=False)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_under_five_seeds_there_is_an_interval_and_no_verdict(seeds):
    made, labels, groups = arms(seeds)
    for row in compare_methods(made, labels, groups, "plain", 3)[1:]:
        assert row.words == f"no verdict: {seeds} seeds, at least 5 are needed"
        assert row.difference.low < row.difference.estimate < row.difference.high
        assert row.estimand == METHOD


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_one_seed_speaks_of_the_saved_models(metric):
    made, labels, groups = arms(1)
    rows = compare_methods(made, labels, groups, "plain", 3, metric)
    logits = {name: np.eye(3)[one[0]] for name, one in made.items()}
    old = compare_models(labels, logits, "plain", groups, 3, metric)
    for row, other in zip(rows, old, strict=True):
        assert (row.name, row.value, row.low, row.high, row.estimand) == (
            other.name,
            pytest.approx(other.value),
            pytest.approx(other.low),
            pytest.approx(other.high),
            SAVED,
        )
    for row, other in zip(rows[1:], old[1:], strict=True):
        found = [(*(getattr(one.difference, key) for key in ("estimate", "low", "high")), one.adjusted_p, one.detectable)
                 for one in (row, other)]  # fmt: skip
        assert found[0] == pytest.approx(found[1])
        assert row.words == other.words
        assert row.detectable == pytest.approx(other.detectable, rel=1e-4)
        assert list(row.secondary) == ["McNemar"]


def test_macro_f1_over_seeds():
    made, labels, groups = arms(5)
    rows = compare_methods(made, labels, groups, "plain", 3, "macro_f1", resamples=400)
    assert [row.words.split(",")[0] for row in rows[1:]] == ["not distinguishable", "better", "worse"]
    from sklearn.metrics import f1_score

    expected = [f1_score(labels, one, average="macro") for one in made["randout"]]
    assert rows[2].values == pytest.approx(expected)
    assert rows[2].low < rows[2].value < rows[2].high


def test_identical_arms_do_not_differ():
    made, labels, groups = arms(5)
    for metric in ("accuracy", "macro_f1"):
        row = compare_methods({"a": made["kd"], "b": made["kd"]}, labels, groups, "a", 3, metric, resamples=100)[1]
        assert (row.difference.estimate, row.adjusted_p) == (0, 1)
        most = 1.959964**2 / (600 + 1.959964**2)  # 600 groups that agree leave that much open
        assert row.difference.high == -row.difference.low == pytest.approx(most, rel=1e-5)
        assert row.words == "not distinguishable, equivalent"
        assert row.secondary["paired t over seeds (this test set only)"] == "the same difference at every seed"


def test_the_baseline_alone_is_a_table_of_one_row():
    made, labels, groups = arms(3)
    for seeds in (1, 3):
        assert len(compare_methods({"kd": made["kd"][:seeds]}, labels, groups, "kd", 3)) == 1


def test_simultaneous_intervals_leave_out_zero_exactly_where_holm_rejects():
    made, labels, groups = arms(5, rows=300)
    for seed in range(10):
        noisy = {name: np.random.default_rng(seed).permuted(one, axis=0) for name, one in made.items()}
        for row in compare_methods(noisy, labels, groups, "plain", 3)[1:]:
            low, high = row.simultaneous
            assert (row.adjusted_p <= 0.05) == (low > 0 or high < 0)
            assert low <= row.difference.low
            assert high >= row.difference.high


def test_holm_steps_reject_what_holm_rejects():
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 8):
        for _ in range(50):
            p = generator.random(size) ** 4
            steps = np.array(holm_steps(p.tolist(), 0.05))
            assert ((p <= 0.05 / steps) == (holm(p) <= 0.05)).all()
    assert holm_steps([0.9, 0.001, 0.02], 0.05) == [1, 3, 2]
    assert holm_steps([0.9, 0.001, 0.03], 0.05) == [2, 3, 2]
    assert holm_steps([], 0.05) == []


def test_the_margin_is_a_second_family():
    """One comparison just inside the margin stays "equivalent" alone and not among nine others that are not."""
    generator = np.random.default_rng(1)
    labels = np.zeros(800, int)
    base = (generator.random((5, 800)) < 0.2).astype(int)

    def other(share: float) -> np.ndarray:
        return np.where(generator.random((5, 800)) < share, generator.integers(0, 2, (5, 800)), base)

    near = other(0.1)
    alone = compare_methods({"a": base, "b": near}, labels, np.arange(800), "a", 2, margin=0.03)[1]
    single = crossed_difference((near == 0).astype(int) - (base == 0), np.arange(800))
    inside = single.low90 > -0.03 and single.high90 < 0.03
    assert ("equivalent" in alone.words) == inside
    family = {"a": base, "b": near} | {f"c{at}": other(0.6) for at in range(9)}
    among = compare_methods(family, labels, np.arange(800), "a", 2, margin=abs(single.low90) + 1e-6)[1]
    assert "not worse" not in among.words
    assert "equivalent" not in among.words


@pytest.mark.parametrize(("sign", "among"), [(1, "not distinguishable, not worse"), (-1, "not distinguishable")])
def test_both_bounds_of_the_margin_are_tested_under_holm(sign, among):
    """A difference of one point whose 5 % bound, and not that of a third of 5 %, is within the margin of two."""
    z = np.tile([1.0, -1.0], 5) * math.sqrt(0.9)  # mean 0, variance 1
    sizes = np.full(10, 900), np.full(10, 100)
    base = np.full(10, 0.7)
    near = base + sign * 0.01 + z * 0.0045 / math.sqrt(1 / 10 + 1 / 9)
    far = {f"far {at}": base + sign * (0.05 + 0.001 * at) + 0.01 * np.roll(z, at) for at in range(2)}
    one = compare_folds({"base": base, "near": near}, *sizes, "base")[1]
    assert one.difference.standard_error == pytest.approx(0.0045)
    assert one.words == "not distinguishable, equivalent"
    assert compare_folds({"base": base, "near": near} | far, *sizes, "base")[1].words == among


def test_signed_ranks_equal_scipy():
    generator = np.random.default_rng(0)
    for seeds in (1, 2, 5, 6, 9, 20):
        values = generator.normal(0.5, 1, seeds)
        assert signed_rank_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    tied = np.array([1.0, 1, -1, 2, 2, 3, 0])  # all 2^6 signs of the mid-ranks
    signs = np.indices((2,) * 6).reshape(6, -1).T
    ranks = stats.rankdata(np.abs(tied[:6]))
    sums = signs @ ranks
    seen = ranks[tied[:6] > 0].sum()
    assert signed_rank_p(tied) == pytest.approx(min(1, 2 * min((sums <= seen).mean(), (sums >= seen).mean())))
    assert signed_rank_p(np.zeros(4)) == 1


def test_what_n_seeds_cannot_reach():
    assert [seeds_for_wilcoxon(family) for family in (1, 3, 10, 25)] == [6, 7, 9, 10]
    for family in (1, 3, 10, 25):
        needed = seeds_for_wilcoxon(family)
        best = [stats.wilcoxon(np.arange(1.0, n + 1), method="exact").pvalue * family for n in (needed - 1, needed)]
        assert best[1] <= 0.05 < best[0]
    values = np.array([0.01, 0.03, 0.02, 0.05, 0.015, 0.01])
    found = over_seeds(values, 1)
    assert found["Wilcoxon over seeds"] == f"p = {signed_rank_p(values):.3f}" == "p = 0.031"
    assert over_seeds(values, 2)["Wilcoxon over seeds"] == "cannot reach .05 with 6 seeds (7 needed)"
    p = stats.ttest_1samp(values, 0).pvalue
    assert found["paired t over seeds (this test set only)"] == f"p = {p:.3f}"


def test_mcnemar_over_seeds_names_both_directions():
    base = np.tile(np.arange(100) < 50, (4, 1))
    right = base.copy()
    right[:2, 50:70] = True
    right[2, :10] = False
    assert mcnemar_over_seeds(right, base, np.arange(100), 0.05) == "2 of 4 seeds, 1 the other way"
    assert mcnemar_over_seeds(right[2:3], base[:1], np.arange(100), 0.05) == "p = 0.002"
    assert mcnemar_over_seeds(base, base, np.arange(100), 0.05) == "0 of 4 seeds"


def test_folds_equal_nadeau_and_bengio():
    generator = np.random.default_rng(0)
    for folds, repeats in ((5, 1), (10, 1), (5, 4)):
        count = folds * repeats
        first, second = generator.normal(0.7, 0.02, count), generator.normal(0.75, 0.02, count)
        train, test = generator.integers(700, 750, count), generator.integers(95, 105, count)
        rows = compare_folds({"new": second, "old": first}, train, test, "old", repeats=repeats)
        assert [row.name for row in rows] == ["old", "new"]
        found = rows[1].difference
        difference = second - first
        variance = difference.var(ddof=1) * (1 / count + np.mean(test / train))
        low, high = stats.t.interval(0.95, count - 1, difference.mean(), math.sqrt(variance))
        assert (found.estimate, found.low, found.high) == pytest.approx((difference.mean(), low, high))
        assert found.df == count - 1
        t = difference.mean() / math.sqrt(variance)
        assert rows[1].adjusted_p == pytest.approx(2 * stats.t.sf(abs(t), count - 1))
        assert rows[1].words.startswith("better")
        assert rows[0].estimand == FOLDS
        wide = stats.t.interval(
            0.95, count - 1, first.mean(), math.sqrt(first.var(ddof=1) * (1 / count + np.mean(test / train)))
        )
        assert fold_interval(first, train, test, 0.95, repeats) == pytest.approx((first.mean(), *wide))
        json.dumps([dataclasses.asdict(row) for row in rows], allow_nan=False)


def test_folds_that_all_differ_alike_are_no_certainty():
    """A sign test over five folds has p = .0625, whatever the size of the difference."""
    plain = np.array([0.8, 0.82, 0.79, 0.81, 0.8])
    for gain, rows in ((0.005, 200), (0.005, 1000), (0.03, 1000)):
        found = compare_folds({"a": plain, "b": plain + gain}, [4 * rows] * 5, [rows] * 5, "a")[1]
        assert found.adjusted_p >= 0.0625 - 1e-9
        assert rows == 200 or found.adjusted_p == pytest.approx(0.0625)
        assert found.difference.low < 0 < gain < found.difference.high
        assert found.simultaneous[0] < 0
        assert found.words.startswith("not distinguishable")
    for almost in (np.array([5, 5, 6, 5, 5]), np.array([-5, -5, -5, -4, -5])):
        found = compare_folds({"a": plain, "b": plain + almost / 1000}, [4000] * 5, [1000] * 5, "a")[1]
        assert found.adjusted_p == pytest.approx(0.0625)
        assert found.words.startswith("not distinguishable")
    spread = np.array([5, 5, 8, 5, 4]) / 1000  # further apart than one row: Nadeau and Bengio's own
    found = compare_folds({"a": plain, "b": plain + spread}, [4000] * 5, [1000] * 5, "a")[1]
    t = spread.mean() / math.sqrt(spread.var(ddof=1) * (1 / 5 + 1 / 4))
    assert found.adjusted_p == pytest.approx(2 * stats.t.sf(t, 4))


def test_repeats_of_folds_that_differ_alike_are_no_further_folds():
    plain = np.linspace(0.7, 0.8, 20)
    found = compare_folds({"a": plain, "b": plain + 0.05}, [400] * 20, [100] * 20, "a", repeats=4)[1]
    assert found.adjusted_p == pytest.approx(0.0625)
    ten = compare_folds({"a": plain[:10], "b": plain[:10] + 0.05}, [900] * 10, [100] * 10, "a")[1]
    assert ten.adjusted_p == pytest.approx(2 * 0.5**10)
    assert ten.difference.low > 0


def test_folds_without_any_difference_have_an_interval():
    plain = np.array([0.8, 0.82, 0.79, 0.81, 0.8])
    found = compare_folds({"a": plain, "b": plain}, [4000] * 5, [1000] * 5, "a")[1]
    half = stats.t.ppf(0.975, 4) * 0.001 * math.sqrt(1 / 5 + 1 / 4)
    assert (found.difference.low, found.difference.high) == pytest.approx((-half, half))
    assert found.words == "not distinguishable, equivalent"


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 1000 / 1003.8415, 1.0), (0.0, 0.0, 3.8415 / 1003.8415)])
def test_perfect_folds_have_wilsons_interval(value, low, high):
    assert fold_interval([value] * 5, [800] * 5, [200] * 5)[1:] == pytest.approx(
        (min(low, value), max(high, value)), abs=0.01
    )
    found = fold_interval([value] * 5, [800] * 5, [200] * 5, group_sizes=[20] * 50)
    assert found[2] - found[1] >= 3.84 / 53.85
    row = compare_folds({"a": [value] * 5}, [800] * 5, [200] * 5, "a", group_sizes=[20] * 50)[0]
    assert (row.low, row.high) == pytest.approx(found[1:])


def test_folds_that_agree_on_a_middling_value_have_wilsons_interval():
    low, high = fold_interval([0.8] * 5, [800] * 5, [200] * 5)[1:]
    expected = stats.binomtest(800, 1000).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_few_groups_give_no_verdict_in_any_design():
    for seeds in (1, 5):
        made, labels, _ = arms(seeds)
        for metric in ("accuracy", "macro_f1"):
            rows = compare_methods(made, labels, np.arange(1200) % 6, "plain", 3, metric, resamples=200)[1:]
            assert {row.words for row in rows} == {f"no verdict: 6 groups, at least {GROUPS_NEEDED} are needed"}
            rows = compare_methods(made, labels, np.arange(1200) % 40, "plain", 3, metric, resamples=200)
            assert rows[2].words.startswith("better")
    plain = np.array([0.7, 0.72, 0.69, 0.71, 0.7])
    gain = np.array([0.1, 0.12, 0.11, 0.09, 0.1])
    few, many = (
        compare_folds({"a": plain, "b": plain + gain}, [800] * 5, [200] * 5, "a", group_sizes=sizes)[1]
        for sizes in ([250] * 4, [10] * 100)
    )
    assert few.words == f"no verdict: 4 groups, at least {GROUPS_NEEDED} are needed"
    assert many.words == "better"


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_perfect_arms_have_an_interval(seeds, metric):
    labels = np.arange(200) % 2
    made = {"perfect": np.tile(labels, (seeds, 1)), "never": np.tile(1 - labels, (seeds, 1))}
    perfect, never = compare_methods(made, labels, np.arange(200) // 2, "perfect", 2, metric, resamples=200)
    z2 = 1.959964**2
    assert (perfect.low, perfect.high) == (pytest.approx(100 / (100 + z2)), 1)
    assert (never.low, never.high) == (0, pytest.approx(z2 / (100 + z2)))
    assert never.words == "worse"


def test_balanced_accuracy_and_macro_recall_are_one_number_with_one_verdict():
    generator = np.random.default_rng(0)
    labels = np.where(np.arange(120) < 3, 2, generator.integers(0, 2, 120))  # a class that many draws lack
    for seeds in (1, 5):
        made = {name: np.where(generator.random((seeds, 120)) < 0.8, labels, 0) for name in ("a", "b")}
        one, other = (
            compare_methods(made, labels, np.arange(120), "a", 3, metric, resamples=300)
            for metric in ("balanced_accuracy", "macro_recall")
        )
        for first, second in zip(one, other, strict=True):
            assert dataclasses.replace(first, metric="macro_recall") == second


def test_best_of_many_equal_trials_is_flattered_by_what_it_gained():
    generator = np.random.default_rng(0)
    found = [best_of(generator.random((50, 400)) < 0.7, resamples=100, seed=run) for run in range(30)]
    assert np.mean([one.apparent for one in found]) > 0.74
    assert np.mean([one.corrected for one in found]) == pytest.approx(0.7, abs=0.01)
    assert all(one.optimism == pytest.approx(one.apparent - one.corrected) for one in found)


def test_one_trial_or_one_far_better_is_not_flattered():
    generator = np.random.default_rng(0)
    right = generator.random((5, 600)) < np.array([[0.5], [0.5], [0.9], [0.5], [0.5]])
    found = best_of(right, np.arange(600) // 2, resamples=300)
    assert (found.trials, found.chosen, found.reselected) == (5, 2, 1.0)
    assert found.optimism == pytest.approx(0, abs=0.003)
    assert best_of(right[:1], resamples=300).optimism == pytest.approx(0, abs=0.003)


def test_best_of_equals_a_plain_loop_with_groups():
    generator = np.random.default_rng(4)
    right, groups = generator.random((6, 80)) < 0.6, generator.integers(0, 30, 80)
    found = best_of(right, groups, resamples=60, seed=2)
    names = list(dict.fromkeys(groups.tolist()))
    out, same = [], 0
    for times in np.random.default_rng(2).multinomial(len(names), np.full(len(names), 1 / len(names)), size=60):
        inside = np.concatenate([np.tile(np.flatnonzero(groups == g), n) for g, n in zip(names, times, strict=True)])
        outside = np.concatenate([np.flatnonzero(groups == g) for g, n in zip(names, times, strict=True) if n == 0])
        pick = int(right[:, inside].mean(1).argmax())
        same += pick == int(right.mean(1).argmax())
        out.append(right[pick, outside].mean())
    assert found.corrected == pytest.approx(np.mean(out))
    assert found.reselected == pytest.approx(same / 60)


def test_method_lines_name_the_estimand_and_every_row():
    made, labels, groups = arms(5)
    lines = method_lines(compare_methods(made, labels, groups, "plain", 3))
    assert lines[0] == f"intervals and verdicts apply to {METHOD}; 5 seeds"
    assert lines[1].split()[-1] == "verdict"
    assert lines[2].endswith("baseline")
    assert lines[4].startswith("randout")
    assert lines[4].endswith("  better")
    assert "randout: McNemar: 5 of 5 seeds" in lines
    single = method_lines(compare_methods({"kd": made["kd"][:1]}, labels, groups, "kd", 3))
    assert single[0].endswith("; 1 seed")
    assert len(single) == 3
    folds = method_lines(compare_folds({"a": np.linspace(0.7, 0.8, 5)}, [80] * 5, [20] * 5, "a"))
    assert folds[0].endswith("; 5 folds")


def test_mistakes_are_named():
    made, labels, groups = arms(3)
    with pytest.raises(UserError, match="Did you mean 'plain'"):
        compare_methods(made, labels, groups, "plane", 3)
    with pytest.raises(UserError, match="'kd' has 2 seeds and the baseline 'plain' has 3"):
        compare_methods(made | {"kd": made["kd"][:2]}, labels, groups, "plain", 3)
    with pytest.raises(UserError, match="Did you mean 'macro_f1'"):
        compare_methods(made, labels, groups, "plain", 3, "macro_f2")
    with pytest.raises(UserError, match="one group"):
        compare_methods(made, labels, groups * 0, "plain", 3)
    with pytest.raises(UserError, match="4 folds are too few"):
        compare_folds({"a": np.ones(4)}, [10] * 4, [10] * 4, "a")
    with pytest.raises(UserError, match="4 folds are too few"):
        fold_interval(np.ones(8), [10] * 8, [10] * 8, repeats=2)
    with pytest.raises(ValueError, match="per fold"):
        fold_interval(np.ones(6), [10] * 5, [10] * 6)
    with pytest.raises(UserError, match="at least two groups"):
        best_of(np.ones((3, 4)), np.zeros(4))


def test_secondary_tests_are_those_of_the_table():
    made, labels, groups = arms(3)
    del made["noise"]  # two comparisons need 7 seeds, as three do, and one needs 6
    rows = compare_methods(made, labels, groups, "plain", 3)
    for row in rows[1:]:
        right = [made[name] == labels for name in (row.name, "plain")]
        expected = {"McNemar": mcnemar_over_seeds(*right, groups, 0.05)}
        expected |= over_seeds(np.subtract(row.values, rows[0].values), len(made) - 1, 0.05)
        assert row.secondary == expected


def test_mcnemar_of_label_sets_counts_whole_sets():
    rng = np.random.default_rng(0)
    labels = rng.random((80, 3)) < 0.4
    made = {name: (labels ^ (rng.random((80, 3)) < share))[None] for name, share in (("plain", 0.2), ("other", 0.1))}
    _, row = compare_methods(made, labels, np.arange(80), "plain", 3)
    right = [(made[name] == labels).all(-1) for name in ("other", "plain")]
    assert row.secondary == {"McNemar (whole sets)": mcnemar_over_seeds(*right, np.arange(80), 0.05)}


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_difference_is_the_same_whatever_other_arms_there_are(metric):
    made, labels, groups = arms(3, rows=300)
    whole = compare_methods(made, labels, groups, "plain", 3, metric, resamples=200)
    for row in whole[1:]:
        pair = {name: made[name] for name in ("plain", row.name)}
        alone = compare_methods(pair, labels, groups, "plain", 3, metric, resamples=200)[1]
        assert row.difference.estimate == pytest.approx(alone.difference.estimate)
        few = 1e-9 if metric == "accuracy" else 0.4  # resamples, drawn for all arms together
        assert row.difference.standard_error == pytest.approx(alone.difference.standard_error, rel=few)


def test_one_seed_is_one_unit():
    made, labels, groups = arms(1)
    assert {row.difference.units for row in compare_methods(made, labels, groups, "plain", 3)[1:]} == {1}


def test_wrong_shapes_and_sizes_are_named():
    made, labels, groups = arms(3)
    with pytest.raises(UserError, match=r"not among the methods: 'plain', 'kd', 'randout', 'noise'\."):
        compare_methods(made, labels, groups, "other", 3)
    with pytest.raises(ValueError, match=r"kd: predictions of shape \(seeds, 1200\) expected, found \(1200,\)"):
        compare_methods(made | {"kd": made["kd"][0]}, labels, groups, "plain", 3)
    for wrong in ({"values": [np.nan] + [1.0] * 4}, {"train_rows": [0] + [10] * 4}, {"test_rows": [0] + [10] * 4}):
        given = {"values": [0.5] * 5, "train_rows": [10] * 5, "test_rows": [10] * 5} | wrong
        with pytest.raises(ValueError, match="finite values and folds with rows on both sides"):
            fold_interval(**given)


@pytest.mark.parametrize(("low", "expected"), [(-0.01, "not worse"), (-0.02, ""), (-0.025, "")])
def test_a_bound_at_the_margin_does_not_pass(low, expected):
    """Of two comparisons one passes the lower margin test at 5 % only: it counts if the other passes at 2.5 %."""

    def tested(strict, usual):
        def interval(level):
            return (strict if level > 0.92 else usual), 0.05

        return multiplicity.Tested(0.01, 0.5, 0.01, 1e6, 1000, 1000.0, 1000.0, 1000.0, interval)

    other, second = judge([tested(low, low / 2), tested(-0.03, -0.015)], 0.02, 0.05)
    assert second.words == ", ".join(filter(None, ["not distinguishable", expected]))
    assert other.words.startswith("not distinguishable")


def test_a_detectable_difference_is_at_most_one():
    assert detectable(10.0, 5.0, 100.0) == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("seeds", [1, 5])
def test_arms_that_predict_one_class_are_no_certainty(seeds, metric):
    labels = np.repeat([0, 1], [320, 280])
    made = {name: np.full((seeds, 600), at) for at, name in enumerate(("first", "second"))}
    base, other = compare_methods(made, labels, np.arange(600), "first", 2, metric)
    assert base.high - base.low > 0.01
    assert other.difference is not None
    assert other.difference.high - other.difference.low > 0.01
    assert "equivalent" not in (other.words or "")


def test_seeds_that_each_predict_another_class_are_no_certainty():
    labels = np.repeat([0, 1], [320, 280])
    made = {"first": np.tile([[0], [1], [0], [1], [0]], (1, 600)), "second": np.full((5, 600), 1)}
    for row in compare_methods(made, labels, np.arange(600), "first", 2, "balanced_accuracy"):
        assert row.high - row.low > 0.01
        assert row.difference is None or row.difference.high - row.difference.low > 0.01


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_tiny_tables_have_finite_intervals(metric, seeds):
    rng = np.random.default_rng(0)
    for _ in range(60):
        rows = int(rng.integers(4, 12))
        labels, groups = rng.integers(0, 2, rows), np.concatenate([[0, 1], rng.integers(0, 4, rows - 2)])
        right = rng.random((2, seeds, rows)) < rng.random()
        made = np.where(right, labels, rng.integers(0, 2, (2, seeds, rows)))
        for row in compare_methods({"a": made[0], "b": made[1]}, labels, groups, "a", 2, metric, resamples=50):
            assert 0 <= row.low <= row.value <= row.high <= 1


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_one_group_is_refused(metric, seeds):
    same = np.zeros((seeds, 4), int)
    with pytest.raises(UserError, match="at least two groups"):
        compare_methods({"a": same, "b": same}, np.array([0, 1, 0, 1]), [7, 7, 7, 7], "a", 2, metric)
