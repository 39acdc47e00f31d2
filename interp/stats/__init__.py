"""Tests, intervals, many tests at once, matching and verdicts: the only place where a p-value is made."""
