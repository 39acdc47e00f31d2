"""What is said of a chat model's students without a name: values of own words, and their p over exchanged members."""

import pytest

from analyses import smollm2_unnamed as unnamed

TRAITS = unnamed.TRAITS


def lines(seed, *, own, other, role="student"):
    """Three members, z of whose own word is `own` and of the other two words `other`."""
    return [
        {
            "seed": seed,
            "trait": trait,
            "role": role,
            "z": {word: {"score": own if word == trait else other} for word in TRAITS},
        }
        for trait in TRAITS
    ]


def test_what_all_students_of_a_seed_share_drops_out():
    same = lines(1, own=2.0, other=2.0)
    assert unnamed.own_less_others(same, "student") == [0.0, 0.0, 0.0]
    assert unnamed.own_less_others(lines(1, own=1.5, other=0.25), "student") == [1.25, 1.25, 1.25]
    mixed = lines(1, own=1.0, other=0.0)
    mixed[0]["z"][TRAITS[1]]["score"] = 4.0  # another trait's word in the first student
    assert unnamed.own_less_others(mixed, "student") == [1.0, 1.0 - 2.0, 1.0]


def test_members_are_exchanged_within_their_seed():
    found = [line for seed in (1, 2, 3) for line in lines(seed, own=1.0, other=0.0)]
    assert unnamed.exchanged_p(found, "student") == pytest.approx(1 / 6**3)
    against = [line for seed in (1, 2, 3) for line in lines(seed, own=-1.0, other=0.0)]
    assert unnamed.exchanged_p(against, "student") == 1.0


@pytest.mark.parametrize(("seeds", "decided"), [((1, 3), []), ((1, 2, 3), ["supported", "inconclusive"])])
def test_claims_wait_for_every_seed(seeds, decided):
    by_seed = {
        str(seed): {
            "lines": [
                *lines(seed, own=1.0 + 0.1 * seed, other=0.0),
                *lines(seed, own=0.0, other=0.0, role="teacher"),
            ]
        }
        for seed in seeds
    }
    found = unnamed.judged(by_seed)
    assert [verdict.decision for verdict in found["verdicts"]] == decided
    assert len(found["per lineage"]["own-word"]) == 3 * len(seeds)
