"""Organisms: worlds small enough to grow a base, a teacher with a trait, its numbers and its students on a laptop."""
