"""Tests of `interp`; a package so that the fixtures below it import under one name."""
