"""Runtimes: what loads a model file and runs it. One engine per file; `base` is the seam."""
