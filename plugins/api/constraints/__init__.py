"""Constraints of requests, tried where a crash or a runaway costs nobody else anything."""
