"""Words about soft labels that were read from a file: their form, their rows and their temperature."""

from __future__ import annotations

from randout.core.wording import plural, verb
from randout.stats.temperature import BOUNDS, LEAST
from randout.storage.run_record import ImportedLabels, RunRecord


def soft_label_words(record: ImportedLabels) -> str:
    """Describe imported soft labels in one line: file, digest, form, rows."""
    counts = ", ".join(f"{count:,} of {record.of[name]:,} {name} rows" for name, count in record.rows.items())
    return f"{record.file} (sha256 {record.sha256[:12]}), {record.form}, joined by {record.joined_by}: {counts}"


def soft_label_lines(record: RunRecord) -> list[str]:
    """Return the lines about imported soft labels at the end of a training; empty if no teacher is a file."""
    lines = []
    for teacher in record.teachers:
        if (one := teacher.soft_labels) is not None:
            lines += [f"soft labels {soft_label_words(one)}", temperature_words(one)]
            if one.test_rows:
                lines.append(
                    f"{plural(one.test_rows, 'test row')} of the file not used; no comparison with it on the test split"
                )
    return lines


def temperature_words(record: ImportedLabels) -> str:
    """Describe the temperature of imported soft labels, and what it does to their log loss and calibration error."""
    value = f"temperature {record.temperature:.3g}"
    if record.scored:
        (before, after), (error, then) = record.log_loss, record.calibration_error
        rows = plural(record.scored, "validation row")
        change = (
            f"log loss {before:.3f} before, {after:.3f} after; calibration error {error:.1%} before, {then:.1%} after"
        )
    if record.given:
        return f"{value} as set in teacher.temperature" + (f"; on {rows}: {change}" if record.scored else "")
    if not record.scored:
        return f"{value}, not fitted: no validation row has a soft label"
    if not record.fitted:
        of = f"{record.decisions:,} decisions on {rows}" if record.decisions else rows
        return (
            f"{value}, not fitted: {record.wrong:,} of {of} {verb(record.wrong, 'is', 'are')} wrong, and a fit needs at least "
            f"{LEAST} right and {LEAST} wrong ones (log loss {before:.3f}, calibration error {error:.1%})"
        )
    end = ", the end of the range" if not BOUNDS[0] * 1.01 < record.temperature < BOUNDS[1] / 1.01 else ""
    wrong = f"{record.wrong:,} of {record.decisions:,} decisions" if record.decisions else f"{record.wrong:,}"
    return f"{value}{end}, fitted on {rows} ({wrong} wrong): {change}"
