"""Labelled tables: reading, cleaning, splitting and writing them."""
