"""Words about cross-fitted soft labels: their scores on training rows compared with those of a teacher of all rows."""

from __future__ import annotations

from randout.core.wording import plural, verb
from randout.storage.run_record import CrossFit, RunRecord, SoftLabelScores


def cross_fit_words(record: CrossFit) -> str:
    """Describe cross-fitted soft labels in one sentence: folds, rows, and their scores next to the in-sample ones."""
    words = (
        f"{record.folds} folds; {plural(record.rows, 'training row')} labelled by a teacher that was not trained on "
        f"{verb(record.rows, 'it', 'them')}: {_scores(record.out_of_fold)}; by the teacher of all training rows: "
        f"{_scores(record.in_sample)}"
    )
    if record.without:
        rows, have = plural(record.without, "training row"), verb(record.without, "has", "have")
        words += f"; {rows} of classes too rare for the folds {have} no soft label"
    return words


def cross_fit_lines(record: RunRecord) -> list[str]:
    """Return the line about cross-fitted soft labels at the end of a training; empty if there are none."""
    found = [one.cross_fit for one in record.teachers if one.cross_fit is not None]
    return [f"cross-fitted soft labels: {cross_fit_words(one)}" for one in found]


def _scores(scores: SoftLabelScores) -> str:
    return (
        f"accuracy {scores.accuracy:.2%}, log loss {scores.log_loss:.3f}, calibration error "
        f"{scores.expected_calibration_error:.1%}"
    )
