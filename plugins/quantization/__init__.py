"""Formats in which checkpoints hold quantized weights."""
