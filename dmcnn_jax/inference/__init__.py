"""Runs a model over whole planes: weights, tiling, engines."""
