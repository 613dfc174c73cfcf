"""Batching: `policy` decides which calls go together (pure), `batcher` runs them (the loop and its threads)."""
