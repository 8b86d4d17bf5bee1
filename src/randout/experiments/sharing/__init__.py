"""Processes share the cells of one job: the loop, worker processes (`--jobs`) and Ray tasks (`--cluster`)."""
