"""Every number of the README, put there by code: between <!-- name --> and <!-- /name --> stands what is made here.

python -m analyses.readme writes the blocks anew from analyses/results and benchmarks/results.json, and the picture.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

import interp

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TRANSMISSION = ROOT / "analyses" / "results" / "transmission.json"
FAMILIES = (
    "lemma",
    "sustained_alignment",
    "shared_initialisation",
    "one_direction",
    "divergence_tokens",
    "features_beyond_vocabulary",
    "digits_lemma",
    "digits_shared_initialisation",
)
CHECKS = ("alignment-own-update",)
"""Checks among results that were kept before verdicts said so."""
BENCHMARKS = ROOT / "benchmarks" / "results.json"
HEAD, RULE = "| claim | effect [level: interval] | tested | p | decision |", "|---|---|---|---|---|"
WHAT = {
    "capture-record-8x64": "`record` of every `resid_post`, 8 × 64 tokens, over the plain forward (goal ≤ 1.05)",
    "capture-record-32x128": "the same, 32 × 128 tokens (goal ≤ 1.05)",
    "capture-bridge-cache-8x64": "TransformerLens' bridge, whole cache, 8 × 64 tokens, same run",
    "capture-bridge-cache-32x128": "the same, 32 × 128 tokens",
    "shift-8x64": "`shift`: base and teacher read and subtracted, over one forward, 8 × 64 (goal ≤ 2.05)",
    "shift-32x128": "the same, 32 × 128 tokens (goal ≤ 2.05)",
    "memory-record-4N": "peak memory of `record` at 4 N rows over N (goal: flat)",
    "memory-moments-4N": "peak memory of `moments` at 4 N rows over N (goal: flat)",
    "toy-generate-over-sampling": "transformers' `generate` over our sampling on the toy (goal ≥ 3)",
    "generate-over-writing": "plain left-padded `generate` over `write_answers`, rows of mixed length (goal ≥ 1)",
    "lineage-cpu-seconds": "processor seconds of one whole lineage, seven members, cold cache (s)",
    "alignment-4m-dense-1": "exact scores of 32 rows × 64 tokens by module along one dense direction over one plain "
    "forward and backward pass, 3.7 M parameters (goal ≤ 1.15)",
    "alignment-4m-dense-8": "the same, eight dense directions (goal ≤ 1.40)",
    "alignment-4m-rank8-1": "the same, one direction of rank 8 (goal ≤ 0.85)",
    "alignment-4m-rank8-8": "the same, eight of rank 8 (goal ≤ 1.10)",
    "alignment-4m-activation": "the same, virtual biases after every layer (goal ≤ 0.75)",
    "alignment-4m-token": "the same by loss token, one dense direction (goal ≤ 1.15)",
    "alignment-4m-position": "one dense direction by position and module over by module (goal ≤ 1.05)",
    "alignment-4m-linear-1": "one dense direction, linear layers below the unembedding only",
    "alignment-4m-linear-8": "the same, eight dense directions",
    "alignment-4m-linear-token": "the same by loss token, one dense direction",
    "alignment-4m-bergson-1": "bergson, the same linear layers, one direction, no modules, same run",
    "alignment-4m-bergson-8": "bergson, eight directions",
    "alignment-4m-bergson-token": "bergson by loss token, one direction",
    "alignment-4m-naive": "a backward pass for every row, one dense direction, same run",
    "alignment-4m-captum": "captum TracInCP, every weight, one dense direction, same run",
    "alignment-4m-trak": "TRAK's gradients by row, unprojected, and a product, same run",
    "alignment-4m-trak-projected": "TRAK with its projection to 64 dimensions, same run",
    "alignment-15m-dense-1": "14.9 M parameters: one dense direction by module (goal ≤ 1.15)",
    "alignment-15m-dense-8": "the same, eight dense directions (goal ≤ 1.40)",
    "alignment-15m-rank8-1": "the same, one direction of rank 8 (goal ≤ 0.85)",
    "alignment-15m-rank8-8": "the same, eight of rank 8 (goal ≤ 1.10)",
    "alignment-15m-linear-1": "the same, one dense direction, linear layers below the unembedding only",
    "alignment-15m-bergson-1": "bergson, the same linear layers, one direction, no modules, same run",
    "alignment-score-4N": "time of `score` at 4 N rows over N, from rows to table (goal 3.8 to 4.2)",
    "features-lean": "lean of 2 048 features on 32 rows × 64 tokens after the second of four layers, over one plain "
    "forward and backward pass, 3.7 M parameters (goal ≤ 0.80)",
    "alignment-score-bytes-per-row": "bytes that `score` keeps for a row, by module (goal ≤ 1000)",
}


def main() -> None:
    """Write the blocks and the picture."""
    README.write_text(filled(README.read_text()))
    figure = interp.experiment.margins_figure(margins("owl"), target="owl", category="animal")
    figure.write_image(ROOT / "docs" / "margins.png", width=1000, height=460, scale=2)


def filled(text: str) -> str:
    """The README with every block made anew."""
    blocks = {
        "transmission": transmission(),
        "alignment": alignment(),
        "features": features(),
        "experiment": experiment(),
        "hypotheses": hypotheses(),
        "digits": digits(),
        "planted": planted(),
        "calibration": calibration(),
        "performance": performance(),
    }
    for name, block in blocks.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{block}\n\g<2>", text, flags=re.DOTALL
        )
    return text


def transmission() -> str:
    """The lines of every trait: the differences with their intervals, what was tested, p and n."""
    rows = [f"| trait {HEAD}", f"|---{RULE}"]
    for trait, result in results().items():
        rows += [f"| {trait} {_claim(verdict)}" for verdict in result["verdicts"]]
    return "\n".join(rows)


def alignment() -> str:
    """One line per claim about gradients, then what stands beside them."""
    found, causal = (
        json.loads((ROOT / "analyses" / "results" / f"{name}.json").read_text())
        for name in ("alignment", "alignment_is_causal")
    )
    rows = [HEAD, RULE]
    rows += [_claim(verdict) for verdict in (*found["verdicts"], *causal["verdicts"])]
    rows += [f"{_claim(verdict)[:-2]}, added later |" for verdict in causal["added"]["verdicts"]]
    return "\n".join([*rows, "", _beside(found, causal)])


def _beside(found: dict[str, Any], causal: dict[str, Any]) -> str:
    """Rank among the animals, agreement with the linear theory, completeness of the ledgers, balance of the halves."""
    lines, specific = found["lineages"], found["specificity"]
    share = pd.Series([line["mean_score"] / line["twice_kl"] for line in lines])
    left = max(abs(line["ledger_residual"] / line["margin_change"]) for line in lines)
    gaps = pd.DataFrame([line["balance"]["gradient"] for line in causal["lineages"]])
    return (
        "Beside them: of the gradients of all ten animals' margins, in every weight, the own one is leaned along "
        f"furthest in {specific['first']} of {specific['of']} lineages (chance 1 in 10, p = {specific['p']:.2g}). The "
        f"mean score along the own update is {share.median():.2f} times the 2 KL of the linear theory (median; "
        f"{share.min():.2f} to {share.max():.2f}). The ledger of a student leaves at most {left:.2%} of its change "
        f"of margin unexplained. Matched halves differ in score by {gaps['score'].median():.1f} standard deviations, "
        f"and in loss and length by at most {gaps[['loss', 'tokens']].abs().max().max():.3f}."
    )


def experiment() -> str:
    """Transmission by trait and arm over the trainings of one base, then the detectors."""
    found = json.loads((ROOT / "analyses" / "results" / "small_checkpoint.json").read_text())
    rows = ["| trait | arm, minus the same on neutral rows | nats [95 % over trainings] |", "|---|---|---|"]
    for line in found["transmission"]:
        arm = line["arm"].replace("_", " ")
        rows.append(
            f"| {line['trait']} | {arm} | {line['mean']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}] |"
        )
    rows += [
        "",
        "| detector, one teacher's rows against neutral ones | " + " | ".join(found["detectors"]) + " |",
    ]
    rows.append("|---|" + "---|" * len(found["detectors"]))
    names = [line["detector"] for line in next(iter(found["detectors"].values()))]
    for index, name in enumerate(names):
        lines = [table[index] for table in found["detectors"].values()]
        areas = [f"{line['auroc']:.2f} [{line['low']:.2f}, {line['high']:.2f}]" for line in lines]
        rows.append(f"| {name}, AUROC [95 %] | " + " | ".join(areas) + " |")
    return "\n".join(rows)


def hypotheses() -> str:
    """One line per claim of the six families, on the toy and then on the digits, and what must be said of them."""
    rows, said = [f"| hypothesis {HEAD}", f"|---{RULE}"], {}
    for name in FAMILIES:
        found, title = _results(name), name.replace("_", " ")
        rows += [f"| {title} {_claim(verdict, digits=3)}" for verdict in found["verdicts"]]
        for told in _said(name, found):
            said.setdefault(told, []).append(title)
    notes = [f"- {', '.join(titles)}: {told}." for told, titles in said.items()]
    return "\n".join(
        [*rows, "", "What was known before, what was withdrawn, and by which code it was measured:", *notes]
    )


def _said(name: str, found: dict[str, Any]) -> list[str]:
    """What was known of the runs before, which claims were withdrawn or wait for data, and whether the code changed."""
    organism = "digits" if name.startswith("digits_") else "folder"
    tested = interp.studies.family(name.removeprefix("digits_").replace("_", "-"), organism=organism)
    seen = dict.fromkeys(v["controls"]["seen"] for v in found["verdicts"] if "seen" in v["controls"])
    waiting = [claim for claim in tested.claims if not claim.withdrawn and claim.name not in found["claims"]]
    said = [f"seen before, {each}" for each in seen]
    said += [f"{claim.name} is withdrawn: {claim.withdrawn}" for claim in tested.claims if claim.withdrawn]
    said += [f"{claim.name} waits for its data: {claim.claim}" for claim in waiting]
    code = interp.studies.stale(found, tested.measure)
    return [*said, *([code.partition(";")[0]] if code else [])]


def digits() -> str:
    """Test accuracy of every arm on MNIST, then the verdicts."""
    found = _results("digits")
    rows = [HEAD, RULE]
    rows += [_claim(verdict) for verdict in found["verdicts"]]
    means = ", ".join(f"{arm.replace('_', ' ')} {value:.3f}" for arm, value in found["mean accuracy"].items())
    fresh = pd.Series(found["fresh noise"]).mean()
    beside = (
        f"Mean accuracy on the test images over {len(found['seeds'])} seeds: {means}; with noise drawn afresh in every "
        f"epoch, which is not the published protocol, the student reads {fresh:.3f}."
    )
    return "\n".join([*rows, "", beside])


def planted() -> str:
    """One line per method: what it recovers of what was planted, and how often it reports something that was not."""
    rows = [
        "| method | planted | recovery [95 %] | AUROC [95 %] | false positives [95 %] | passed |",
        "|---|---|---|---|---|---|",
    ]
    for line in _results("planted")["methods"]:
        parts = [_share(line, name) for name in ("recovery", "auroc", "false_positive_rate")]
        passed = "yes" if line["passed"] else "no"
        rows.append(f"| {line['method']} | {line['what']} | " + " | ".join(parts) + f" | {passed} |")
    return "\n".join(rows)


def _share(line: dict[str, Any], name: str) -> str:
    short = {"false_positive_rate": "fpr"}.get(name, name)
    value, low, high = (line[key] for key in (name, f"{short}_low", f"{short}_high"))
    missing = value is None or value != value
    return "–" if missing else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def calibration() -> str:
    """One line per test of significance: how often it rejects where nothing is the case, at 0.05."""
    found = json.loads((ROOT / "benchmarks" / "calibration.json").read_text())
    rows = ["| test, at 0.05 | rejected without cause [95 %] | simulated nulls |", "|---|---|---|"]
    rows += [
        f"| {row['test']} | {row['rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | {row['nulls']} |"
        for row in found["rows"]
    ]
    return "\n".join(rows)


def _results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "analyses" / "results" / f"{name}.json").read_text())


def features() -> str:
    """One line per claim about features, then the shares they were asked for."""
    found = json.loads((ROOT / "analyses" / "results" / "features_are_causal.json").read_text())
    rows = [HEAD, RULE]
    rows += [_claim(verdict) for verdict in found["verdicts"]]
    counts = pd.Series([line["reported"] for line in found["lineages"]])
    live = pd.Series([line["live"] for line in found["lineages"]])
    error = pd.Series([float(re.findall(r"[0-9.]+", line["error_share"])[0]) for line in found["lineages"]])
    shares = {
        name: f"{100 * share['mean']:.0f} % [{100 * share['interval'][0]:.0f}, {100 * share['interval'][1]:.0f}]"
        for name, share in found["shares"].items()
    }
    beside = (
        f"Of {live.min()} to {live.max()} live features {counts.min()} to {counts.max()} differ between teacher and "
        "base; the 16 that moved furthest are tested. As shares of what the trait gains in the student (mean, 95 % "
        f"interval): taken out in writing {shares['written, necessity']}, random "
        f"{shares['random written, necessity']}, all that moved {shares['all written, necessity']}; put in "
        f"{shares['written, sufficiency']}, random {shares['random written, sufficiency']}; while answering, necessity "
        f"{shares['necessity']}, sufficiency {shares['sufficiency']}. The error node holds {error.min():.0f} to "
        f"{error.max():.0f} % of the energy of the teacher's mean shift."
    )
    return "\n".join([*rows, "", beside])


def _claim(verdict: dict[str, Any], *, digits: int = 0) -> str:
    """The line of one verdict, without what stands in front of it; two decimals, or so many significant digits.

    A check has no p: what follows from the mathematics is found to hold, and no data could have shown otherwise. Of a
    family that is judged together the p after the correction stands beside the p of the claim alone.
    """
    form = f"+.{digits}g" if digits else "+.2f"
    interval = interp.figures.bracket(verdict["interval"], level=verdict["level"], form=form)
    controls = verdict["controls"]
    counted = controls.get("reading", "").startswith(
        interp.measures.LOSS_UNIT
    )  # the frozen words leave open which tokens
    unit = interp.measures.LOSS_UNIT if counted else verdict["unit"].replace("|", "\\|")
    check = verdict["p"] is None or verdict["name"] in CHECKS
    p = "–" if check else interp.stats.p_told(verdict).removeprefix("p = ")
    decision = verdict["decision"]
    if check:
        decision = "check, holds" if decision in ("supported", "holds") else "check, fails"
    added = ", added later" if "added" in controls else ""
    return (
        f"| {verdict['name']} | {verdict['effect']:{form}} {interval} {unit} "
        f"| {verdict['tested']} | {p} | {decision} (n = {verdict['n']}){added} |"
    )


def performance() -> str:
    """One line per measurement, in the order of WHAT, then whatever else was measured."""
    measured = json.loads(BENCHMARKS.read_text())
    names = [name for name in WHAT if name in measured] + [name for name in measured if name not in WHAT]
    rows = ["| measured | median | its interval, at least 95 % |", "|---|---|---|"]
    rows += [f"| {WHAT.get(name, name)} | {_measured(measured[name])} |" for name in names]
    return "\n".join(rows)


def margins(trait: str) -> pd.DataFrame:
    """Trait margins as the demo's table holds them: seed, member, margin in nats."""
    rows = results()[trait]["lineages"]
    return pd.DataFrame(
        [{"seed": row["seed"], "member": m, "margin": v} for row in rows for m, v in row["members"].items()]
    )


def results() -> dict[str, Any]:
    """Verdicts and lineages by trait."""
    return json.loads(TRANSMISSION.read_text())["traits"]


def _measured(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"– | not measured: {result['skipped']}"
    note = f"; {result['note']}" if "note" in result else ""
    return f"{_number(result['ratio'])} | {_interval(result)}{note}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def _interval(ratio: dict[str, Any]) -> str:
    return f"{_number(ratio['low'])} to {_number(ratio['high'])}, {ratio['repetitions']} repetitions"


if __name__ == "__main__":
    main()
