"""What rows would install: the committed verdicts follow from the committed lines, and none is given of some seeds."""

import json

import interp
from analyses import installed_vectors


def test_the_verdicts_follow_from_the_lines_of_every_seed():
    kept = json.loads(installed_vectors.OUT.read_text())
    assert [int(seed) for seed in kept["by seed"]] == list(installed_vectors.SEEDS)
    again = json.loads(interp.core.json_text(installed_vectors.judged(kept["by seed"])))
    assert {name: kept[name] for name in again} == again
    assert [verdict["name"] for verdict in again["verdicts"]] == list(installed_vectors.CLAIMS)


def test_some_seeds_decide_nothing():
    kept = json.loads(installed_vectors.OUT.read_text())["by seed"]
    some = installed_vectors.judged({seed: kept[seed] for seed in ("8", "9")})
    assert some["verdicts"] == []
    assert len(some["per lineage"]["step-along-teacher"]) == 2
