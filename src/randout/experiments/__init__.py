"""Runs, searches, studies and the reproduction of the paper."""
