"""The numbers published in the paper."""
