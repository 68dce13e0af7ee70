"""Ferrule beside its peers; `python -m bench --help` says how to run it, docs/BENCHMARKS.md why."""
