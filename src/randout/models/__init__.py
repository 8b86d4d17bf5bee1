"""Encoders: found, loaded, tokenized, run packed or padded, and saved."""
