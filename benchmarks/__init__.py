"""Benchmarks: one script per table, results as JSON, rendered into the documentation."""
