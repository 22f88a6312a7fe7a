"""Benchmarks: this project, the usual way and the machine's limit, measured in the same run."""
