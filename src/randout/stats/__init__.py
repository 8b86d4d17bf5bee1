"""Metrics, confidence intervals, paired tests and verdicts."""
