"""Paired measurements of cost: two ways of doing one thing, back to back in one process, reported as a ratio.

A module here lists what it measures in `BENCHES: dict[str, Callable[[], dict[str, Ratio]]]`; each returns its
ratios by name. `python -m benchmarks [names]` runs them into benchmarks/results.json.
"""
