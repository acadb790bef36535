"""Constraints of requests, tried where a crash or a runaway costs no other request anything."""
