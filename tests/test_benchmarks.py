"""The harness on costs that are known: medians, intervals, alternation, and a results file that is merged."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import binom

import benchmarks.__main__ as command
from benchmarks import alignment, alignment_peers, auditing, checkpoint, gpu, paired
from interp.core.runs import InputError
from interp.gradients.metagradients import metagradient


def test_nine_ratios_give_the_median_and_the_second_from_each_end():
    ratios = [1.4, 1.0, 1.1, 9.0, 1.2, 1.3, 0.1, 1.5, 1.6]
    assert paired.summary(ratios) == {"ratio": 1.3, "low": 1.0, "high": 1.6, "repetitions": 9}


@pytest.mark.parametrize("n", [9, 15, 40])
def test_the_interval_covers_the_median_at_least_95_percent_and_is_the_narrowest(n):
    result = paired.summary([float(value) for value in range(1, n + 1)])
    below = result["low"] - 1  # order statistics are the integers
    assert binom.cdf(below, n, 0.5) <= 0.025 < binom.cdf(below + 1, n, 0.5)
    assert result["low"] + result["high"] == n + 1


def test_few_repetitions_are_refused():
    with pytest.raises(ValueError, match=r"8 repetitions are too few; measure at least 9"):
        paired.summary([1.0] * 8)


def test_each_way_is_measured_beside_the_reference_in_alternating_order(monkeypatch):
    ran = []

    def cost(call, *, calls=1):
        call()
        return {"slow": 3.0, "fast": 0.5, "reference": 2.0}[ran[-1]] * calls

    ways = {name: partial(ran.append, name) for name in ("slow", "fast")}
    monkeypatch.setattr(paired, "cpu_seconds", cost)
    result = paired.interleaved(ways, lambda: ran.append("reference"), calls=5)
    assert (result["slow"]["ratio"], result["fast"]["ratio"]) == (1.5, 0.25)
    first, second = ["slow", "reference", "fast", "reference"], ["reference", "slow", "reference", "fast"]
    assert ran == ["reference", "slow", "fast", *(first + second) * 4, *first]


def test_results_are_merged_by_name(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"old": {"ratio": 1.0}, "b": {"ratio": 2.0}}))
    monkeypatch.setattr(command, "RESULTS", path)
    monkeypatch.setattr(
        command, "registered", lambda: {"some": lambda: {"b": {"ratio": 3.0}, "a": {"ratio": 4.0}}}
    )
    command.main(["some"])
    assert json.loads(path.read_text()) == {"a": {"ratio": 4.0}, "b": {"ratio": 3.0}, "old": {"ratio": 1.0}}
    with pytest.raises(InputError, match=r"benchmark 'sme' is unknown; nearest: some"):
        command.main(["sme"])


def test_a_reason_why_something_was_not_measured_replaces_no_measurement(tmp_path):
    path = tmp_path / "results.json"
    command.merge(path, {"peer": {"skipped": "no such module"}})
    assert json.loads(path.read_text()) == {"peer": {"skipped": "no such module"}}
    command.merge(path, {"peer": {"ratio": 2.0}})
    command.merge(path, {"peer": {"skipped": "no such module"}})
    assert json.loads(path.read_text()) == {"peer": {"ratio": 2.0}}


@pytest.fixture(scope="module")
def task():
    return alignment.make_task(alignment.Shape(16, 2, 2, 24, 256))


def test_every_route_and_the_naive_loop_reach_the_scores_of_the_rows_own_gradients(task):
    for name, way in {**alignment.routes(task), **alignment_peers.naive(task)}.items():
        alignment.check(way, name, tolerance=alignment.THEIRS)


def test_wrong_scores_are_not_timed_unless_they_are_approximate_by_nature():
    right = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    wrong = alignment_peers.Way(lambda: 1.001 * right, right)
    with pytest.raises(
        RuntimeError, match=r"half differs by 1\.5e-03 of the root mean square score, over 1e-05"
    ):
        alignment.check(wrong, "half")
    alignment.check(alignment_peers.Way(wrong.call, right, approximate=True), "half")


def test_a_peer_that_is_missing_or_wrong_is_skipped_with_its_reason(task):
    def missing(_task):
        raise ModuleNotFoundError("No module named 'peer'")

    def wrong(_task):
        return {"wrong": alignment_peers.Way(lambda: torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))}

    peers = {"a": (missing, ("one", "two")), "b": (wrong, ("wrong",)), "c": alignment_peers.PEERS["naive"]}
    ways, skipped = alignment.installed(peers, task)
    assert list(ways) == ["naive"]
    assert skipped["one"] == skipped["two"] == {"skipped": "ModuleNotFoundError: No module named 'peer'"}
    assert skipped["wrong"]["skipped"].startswith(
        "RuntimeError: wrong differs by 6.3e-01 of the root mean square"
    )


def test_bytes_kept_for_a_row_count_tensors_and_arrays():
    held = alignment.kept_bytes(lambda: [torch.zeros(100_000), np.zeros(50_000)], 8)
    assert held == pytest.approx(100_000, rel=0.01)


def test_a_real_model_that_is_not_there_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.delenv("INTERP_CHECKPOINT", raising=False)
    for bench in checkpoint.BENCHES.values():
        ((_, result),) = bench().items()
        assert result == {"skipped": "INTERP_CHECKPOINT names no model folder"}


def test_a_commands_seconds_are_its_own_processors_and_a_failed_one_is_not_timed(monkeypatch):
    monkeypatch.setattr(auditing, "CALL", "import sys, time; time.sleep(1); sys.exit(int(sys.argv[1]))")
    assert auditing.child_seconds(["3"]) < 1  # asleep for one; "cannot tell" is an outcome
    busy = "import sys, time\nwhile time.process_time() < 0.5: pass\nsys.exit(0)"
    monkeypatch.setattr(auditing, "CALL", busy)
    assert auditing.child_seconds(["gate"]) >= 0.5
    monkeypatch.setattr(auditing, "CALL", "raise SystemExit('no such rows')")
    monkeypatch.setattr(auditing, "EXIT", {"passed": 0})
    with pytest.raises(RuntimeError, match=r"interp gate base ended with 1: no such rows"):
        auditing.child_seconds(["gate", "base"])


@pytest.mark.slow
def test_the_gpu_script_measures_every_verb_of_a_tiny_model_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(["--size", "tiny", "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    tiny = found["results"]["tiny"]
    embedding, layer = 2048 * 32, 2 * 32 * 32 + 32 + 2 * (16 * 32 + 16) + 3 * 32 * 64 + 2 * 32
    assert tiny["model"]["parameters"] == embedding + 2 * layer + 32
    assert tiny["seam"]["nats_apart"] < 0.5
    ways = (
        "write",
        "student-bf16",
        "student-fp32",
        "record-last",
        "record-all",
        "score-rank8",
        "score-dense",
    )
    for way in ways:
        assert tiny[way]["low"] <= tiny[way]["ratio"] <= tiny[way]["high"], tiny[way]
    assert found["machine"].startswith("processor")


def test_the_gpu_script_says_that_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"There is no GPU here; `--size tiny` runs the same path"):
        gpu.main([])


def test_a_measurement_that_fails_is_saved_as_that_beside_what_was_measured_before(tmp_path):
    def fails():
        raise RuntimeError("out of memory")

    gpu.save(tmp_path / "gpu.json", "7b", "load", {"seconds": 1.0})
    gpu.save(tmp_path / "gpu.json", "7b", "write", gpu.guarded(fails))
    found = json.loads((tmp_path / "gpu.json").read_text())["results"]["7b"]
    assert found == {"load": {"seconds": 1.0}, "write": {"failed": "RuntimeError: out of memory"}}


def test_the_step_that_verbs_are_held_against_leaves_the_weights_as_they_are():
    network = gpu.random_network(gpu.SHAPES["tiny"], torch.device("cpu"))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    step = gpu.hosted(network, gpu.SHAPES["tiny"]).step()
    step()
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_metagradients_docstring_says_what_was_measured():
    measured = json.loads(command.RESULTS.read_text())["metagradient-over-training"]
    words = {3: "three", 4: "four", 5: "five", 6: "six"}
    assert f"Costs about {words[round(measured['ratio'])]} trainings" in metagradient.__doc__
