"""Data that recipes train on and benchmarks measure on; read where it is, nothing of it is copied."""
