"""Run and study folders, prediction files and the log of test openings."""
