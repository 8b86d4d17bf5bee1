"""Search over settings, chosen on validation."""
