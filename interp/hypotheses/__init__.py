"""Claims and their verdicts: the statistics, and the three-valued decisions built on them.

The unit of every test here is one independent training run; rows and tokens are averaged within a run first.
"""
