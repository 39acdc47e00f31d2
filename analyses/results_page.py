"""The tables of docs/results.md, one function a block, from analyses/results and benchmarks.

`analyses.readme` writes them into the page, beside those of the README.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

import interp
from analyses.performance_table import gpu, performance

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "analyses" / "results"
TRAITS = ("owl", "eagle", "oak")
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
MENDED = (
    (
        "transmission", "trait-logit-moved", "logits-shared",
        "in each lineage, where the teacher's own sign does not matter; then it was one sign for all lineages",
    ),
    (
        "one_direction", "direction-shared", "activations-shared",
        "at one fixed site, the end of the number prompt; then at another site in each lineage, often at numbers",
    ),
    (
        "one_direction", "direction-absent-in-neutral", "activations-shared",
        "the neutral student is a control that must agree less; then it had to agree with nothing",
    ),
    (
        "one_direction", "direction-sufficient", "slot-direction-sufficient",
        "with S read where questions are answered; then it was read on number prompts",
    ),
    (
        "features_beyond_vocabulary", "features-lean", "rows-lean-to-representation",
        "through the weights, at the question; then toward features at the answer's numbers",
    ),
    (
        "features_are_causal", "sufficient-in-answering", "features-shared",
        "which features move alike, at the end of a number prompt; whether they carry the trait is not asked again",
    ),
)  # fmt: skip
"""Analysis and claim that did not show, the claim of the inherited trace that asks where the trait is, and how."""
COMPARED = ("own", "less control", "other trait", "neutral", "other start")
CHECKS = ("alignment-own-update",)
"""Checks among results that were kept before verdicts said so."""
ABSENT = "Not measured yet."
HEAD, RULE = "| claim | effect [level: interval] | tested | p | decision |", "|---|---|---|---|---|"


def page_blocks() -> dict[str, str]:
    """Every block of the page by its name."""
    return {
        "agreement": agreement(),
        "sign": sign(),
        "mended": mended(),
        "adapter": adapter(),
        "hypotheses": hypotheses(),
        "starts": starts(),
        "alignment": alignment(),
        "features": features(),
        "digits": digits(),
        "experiment": experiment(),
        "planted": planted(),
        "calibration": calibration(),
        "performance": performance(),
        "gpu": gpu(),
    }


def mended() -> str:
    """What did not show where it was asked, and the claim of the inherited trace that asks where the trait is."""
    asked = by_trait("inherited_trace")
    rows = ["| asked then | decided | asked now | how | decided |", "|---|---|---|---|---|"]
    for name, claim, again, how in MENDED:
        then = ", ".join(sorted({v["decision"] for v in _verdicts(name) if v["name"] == claim}))
        now = [
            f"{t} {v['decision']}"
            for t, each in asked.items()
            for v in each["verdicts"]
            if v["name"] == again
        ]
        rows.append(f"| {claim} | {then} | {again} | {how} | {', '.join(now) or '–'} |")
    return "\n".join(rows)


def _verdicts(name: str) -> list[dict[str, Any]]:
    """The verdicts of an analysis, of all its traits."""
    found = kept(name)
    parts = found["traits"].values() if "traits" in found else [found]
    return [verdict for part in parts for verdict in part["verdicts"]]


def adapter() -> str:
    """Transfer of the students that shared their teacher's adapter draw, and of those with a draw of their own."""
    shared = kept("shared_adapter")["transfer"]
    rows = [
        "| trait | shared draw, nats [95 %] | own draw, nats [95 %] | own less shared, by seed [95 %] |",
        "|---|---|---|---|",
    ]
    for trait, result in transfers().items():
        own = [row["members"]["student"] - row["members"]["neutral_student"] for row in result["lineages"]]
        gap = [one - other for one, other in zip(own, shared[trait], strict=True)]
        new = [spread(own), spread(gap)] if max(map(abs, gap)) > 1e-3 else ["not measured yet", "–"]
        rows.append(f"| {trait} | {spread(shared[trait])} | {' | '.join(new)} |")
    return "\n".join(rows)


def sign() -> str:
    """How values of old claims go over lineages with the teacher's logit of its trait at numbers."""
    shared = kept("shared_adapter")
    logit = pd.Series(shared["trait logit at numbers"]["teacher"])
    values = {
        "the student's own such logit": shared["trait logit at numbers"]["student"],
        **{f"the values of {claim}": each for claim, each in shared["claims"].items()},
        "transfer": shared["transfer"]["owl"],
    }
    told = ", ".join(f"{value:+.2f}" for value in logit)
    r = "; ".join(f"{name} r {logit.corr(pd.Series(each)):.2f}" for name, each in values.items())
    return (
        f"The teacher's logit of owl at numbers moved by {told}. Across these {len(logit)} lineages it correlates "
        f"with: {r}."
    )


SAME_FUNCTION = ("same", "other order", "noise", "permuted", "rotated")


def starts() -> str:
    """Transfer, agreement and coverage of every start, and how the two rank transfer: over all, and among the starts
    of the base's function, where a rank needs more than telling two groups apart."""
    cells = pd.DataFrame(kept("shared_initialisation")["tables"]["cells"])
    means = cells.groupby("cell", sort=False)[["transfer", "agreement", "coverage"]].mean()
    rows = ["| start | transfer, nats | agreement | coverage |", "|---|---|---|---|"]
    rows += [
        f"| {cell} | {line['transfer']:+.2f} | {short(line['agreement'])} | {line['coverage']:+.3f} |"
        for cell, line in means.iterrows()
    ]
    alike = cells[cells["cell"].isin(SAME_FUNCTION)]
    told = "; ".join(
        f"{measure} {spread(ranked(cells, measure))} over all {len(means)}, {spread(ranked(alike, measure))} among "
        f"the {len(SAME_FUNCTION)} of the base's function (one of them with noise)"
        for measure in ("agreement", "coverage")
    )
    return "\n".join(
        [*rows, "", f"Rank correlation with transfer over the starts of one lineage, mean [95 %]: {told}."]
    )


def ranked(cells: Any, measure: str) -> list[float]:
    """Spearman's correlation of a measure with transfer over the starts of every lineage."""
    return [float(each[measure].rank().corr(each["transfer"].rank())) for _, each in cells.groupby("seed")]


def agreement() -> str:
    """Mean agreement of S with T and of its controls at every place, by trait."""
    found = by_trait("inherited_trace")
    if not found:
        return ABSENT
    rows = [f"| trait | place | of | {' | '.join(COMPARED)} |", "|---" * (3 + len(COMPARED)) + "|"]
    for trait, each in found.items():
        frame = pd.DataFrame(each["tables"]["agreement"])
        for (place, of, words), part in frame.groupby(["place", "of", "words"], sort=False):
            measure = "r" if of == "logits" else "cosine"
            means = compared(part, measure).groupby("comparison")["value"].mean()
            what = f"logits, {words} words, r" if words else "residual stream after the last layer, cosine"
            cells = " | ".join(short(means[name]) for name in COMPARED)
            rows.append(f"| {trait} | {place} | {what} | {cells} |")
    return "\n".join(rows)


def compared(part: pd.DataFrame, measure: str) -> pd.DataFrame:
    """seed, comparison and value: S with T and its controls, at the last site of the part of a table of agreement."""
    part = part[part["site"] == part["site"].iloc[-1]]
    who = {"student": "own", "cross_student": "other start", "neutral_student": "neutral"}
    named = [
        "less control" if " less " in member else "other trait" if against != "teacher" else who[member]
        for member, against in zip(part["member"], part["against"], strict=True)
    ]
    return part[["seed"]].assign(comparison=named, value=part[measure])


def alignment() -> str:
    """One line per claim about gradients, then what stands beside them."""
    found, causal = (kept(name) for name in ("alignment", "alignment_is_causal"))
    rows = [HEAD, RULE]
    rows += [claim_line(verdict) for verdict in (*found["verdicts"], *causal["verdicts"])]
    rows += [f"{claim_line(verdict)[:-2]}, added later |" for verdict in causal["added"]["verdicts"]]
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
    """Transmission by trait and who is asked over the trainings of one base, then the detectors."""
    found = kept("small_checkpoint")
    rows = [
        "| trait | who is asked, minus the same on neutral rows | nats [95 % over trainings] |",
        "|---|---|---|",
    ]
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
        found, title = kept(name), name.replace("_", " ")
        rows += [f"| {title} {claim_line(verdict, digits=3)}" for verdict in found["verdicts"]]
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
    found = kept("digits")
    rows = [HEAD, RULE]
    rows += [claim_line(verdict) for verdict in found["verdicts"]]
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
    for line in kept("planted")["methods"]:
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


def measured(name: str) -> bool:
    """Whether an analysis has results."""
    return (RESULTS / f"{name}.json").is_file()


def kept(name: str) -> dict[str, Any]:
    """The results of an analysis."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def by_trait(name: str) -> dict[str, dict[str, Any]]:
    """The results of a family by trait, as far as they are there."""
    files = {trait: f"{trait}_{name}".removeprefix("owl_") for trait in TRAITS}
    return {trait: kept(each) for trait, each in files.items() if measured(each)}


def transfers() -> dict[str, Any]:
    """Verdicts and margins of `analyses.transmission` by trait."""
    return kept("transmission")["traits"]


def spread(values: Any) -> str:
    """Mean and 95 % t-interval over lineages."""
    low, high = interp.stats.t_interval(list(values))
    return f"{sum(values) / len(values):+.2f} [{low:+.2f}, {high:+.2f}]"


def short(value: float) -> str:
    """A mean as it stands beside others: .88, −.10, 1.20."""
    text = f"{abs(value):.2f}"
    sign = "−" if value < 0 and text != "0.00" else ""
    return sign + (text[1:] if text.startswith("0") else text)


def features() -> str:
    """One line per claim about features, then the shares they were asked for."""
    found = kept("features_are_causal")
    rows = [HEAD, RULE]
    rows += [claim_line(verdict) for verdict in found["verdicts"]]
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


def claim_line(verdict: dict[str, Any], *, digits: int = 0) -> str:
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
