"""Benchmarks and load scenarios; each writes its figures to out/bench/NAME.json."""
