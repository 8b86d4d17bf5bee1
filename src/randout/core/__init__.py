"""Errors, configuration, files, random keys and console output: what every other package may use."""
