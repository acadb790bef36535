"""Adapters of any kind: their pool, and the way of a step's slots to the projections."""
