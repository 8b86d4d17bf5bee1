"""Packed attention, fused CPU blocks, dropout and buffers."""
