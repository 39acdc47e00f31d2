"""Digests of content: what is equal, and what only looks so."""

import pytest

from interp.core.content import Digested, digest


def test_a_value_known_by_its_digest_counts_in_a_mapping_as_the_value_itself():
    shape = {"kind": ["a", 1, None, 2.5], "of": {"b": True}}
    assert digest("code", {"f": Digested(digest(shape)), "g": 1}) == digest("code", {"f": shape, "g": 1})


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False), ("1", 1)])
def test_keys_that_python_holds_equal_are_told_apart(one, other):
    assert digest({one: "x"}) != digest({other: "x"})
