"""Analyses: one claim a file, written before its data, with a main() that computes and judges it."""
