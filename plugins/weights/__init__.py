"""Weights of models: which tensor of a checkpoint goes where, and their loading into modules."""
