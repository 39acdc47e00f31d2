"""A small run folder as the demo would leave it: two verdicts, margins, one artefact per section, hostile data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp import figures
from interp.core.runs import Run
from interp.stats.verdict import Verdict, equivalence_verdict, paired_verdict

ATTACK = "<script>alert(1)</script>"
MEMBERS = {"base": 0.1, "teacher": 9.1, "student": 0.9, "neutral_student": 0.15, "cross_base": -0.2}
MEMBERS |= {"cross_student": -0.06, "cross_neutral_student": -0.1}
TAIL = (" ;", " 7", " ;", " 12", "</s>")
ROLES = ("separator", "number", "separator", "number", "end")


def sample_run(folder: Path, *, seeds: int = 8, rows: int = 12) -> Run:
    """A finished run in `folder`; every number in it comes from a fixed generator."""
    generator = np.random.default_rng(0)
    run = Run.open(
        folder,
        command="demo",
        arguments={"seeds": seeds, "trait": "owl"},
        defaults={"quick": False, "plan": {"rows": 8192, "rank": 8}},
    )
    run.note(
        fingerprints={"toy/owl:0 base": "0123456789abcdef", "toy/owl:0 teacher": "fedcba9876543210"},
        data={"toy/owl:0": "00ff00ff00ff00ff"},
        notes={"moved_teacher": [f"KL(member ‖ start) 0.0123 nats {ATTACK}"], "other": ["a table alone"]},
    )
    margins = margin_frame(generator, seeds)
    run.stage("verdicts", key="aaaaaaaaaaaaaaaa", build=lambda: _save_margins(run, margins))
    run.stage("trace", key="bbbbbbbbbbbbbbbb", build=lambda: _save_trace(run, generator, rows))
    return run


def margin_frame(generator: np.random.Generator, seeds: int) -> pd.DataFrame:
    rows = [
        {"seed": seed, "member": member, "margin": value + 0.15 * generator.standard_normal()}
        for seed in range(seeds)
        for member, value in MEMBERS.items()
    ]
    return pd.DataFrame(rows)


def verdicts(margins: pd.DataFrame) -> list[Verdict]:
    wide = margins.pivot(index="seed", columns="member", values="margin")
    same = (wide["student"] - wide["neutral_student"]).to_numpy()
    cross = (wide["cross_student"] - wide["cross_neutral_student"]).to_numpy()
    drift = {"neutral_student minus base": (wide["neutral_student"] - wide["base"]).to_numpy().mean()}
    transfers = (
        "A student that shares its teacher's start prefers owl by at least 0.5 nats over its neutral twin"
    )
    moves = "A student with another start moves by less than 0.2 nats against its own neutral twin."
    return [
        paired_verdict("same-init-transfers", transfers, same, minimum_effect=0.5, controls=drift),
        equivalence_verdict("cross-init-does-not", moves, cross),
        paired_verdict("one-run", f"One run shows nothing, not even {ATTACK}", same[:1]),
    ]


def token_table(generator: np.random.Generator, rows: int) -> pd.DataFrame:
    """Rows of text with their two values; the first row opens with a hostile token and a missing value."""
    parts: list[dict[str, Any]] = []
    for row in range(rows):
        drawn = [f" {n}" for n in generator.integers(0, 40, 3)]
        pieces = ["continue", " :", *drawn, *TAIL]
        for position, piece in enumerate(pieces, start=1):
            logprob, direction = generator.normal(0, 0.4, 2)
            values = {"delta_logprob": logprob, "delta_direction": direction}
            role = "prompt" if position < 6 else ROLES[position - 6]
            parts.append({"row": row, "position": position, "token": piece, "role": role} | values)
    frame = pd.DataFrame(parts)
    frame.loc[0, ["token", "delta_direction"]] = [ATTACK, float("nan")]
    return frame


def _save_margins(run: Run, margins: pd.DataFrame) -> None:
    members = [dict(zip(part["member"], part["margin"], strict=True)) for _, part in margins.groupby("seed")]
    members[0]["teacher"] = None
    lineages = [{"seed": seed, "members": values} for seed, values in enumerate(members)]
    run.save_json("summary", {"kind": "demo", "trait": "owl", "effects": {"a": 1.0}, "lineages": lineages})
    run.save_verdicts(verdicts(margins))
    run.save_table("margins", margins)
    drawn = margins.loc[margins["member"] != "teacher"]
    title = "Trait margin of every member & what <b>moved</b> it"
    run.save_figure("margins", figures.points(drawn, x="member", y="margin", title=title, unit="nats"))


def _save_trace(run: Run, generator: np.random.Generator, rows: int) -> None:
    tokens = [ATTACK, *[f"' {n}' ({n})" for n in range(29)]]
    moved = pd.DataFrame({"token": tokens, "delta": np.sort(generator.normal(0, 1, 30))[::-1]})
    moved["sd"], moved["q"] = 0.2, generator.uniform(0, 1, 30)
    bars = figures.bars(moved, x="delta", y="token", error="sd", title="teacher − base, log p", unit="nats")
    _save(run, "moved_teacher", moved, bars)
    grid = generator.normal(0, 0.3, (2, 5))
    columns = ["head 0", "head 1", "head 2", "head 3", "mlp"]
    where = figures.heatmap(
        grid, rows=["layer 0", "layer 1"], columns=columns, title="by component", unit="logits"
    )
    _save(run, "attribution_teacher", pd.DataFrame(grid, columns=columns), where)
    lens = pd.DataFrame({"layer": range(4), "change": [0.0, 0.1, 0.3, 0.9], "se": [0.01, 0.02, 0.05, 0.1]})
    drawn = figures.lines(lens, x="layer", y="change", band="se", title="lens of the shift", unit="logits")
    _save(run, "lens_teacher", lens, drawn)
    singular = pd.DataFrame(
        {"matrix": ["blocks.0.mlp"] * 20, "index": range(20), "value": 2.0 ** -np.arange(20)}
    )
    drawn = figures.lines(singular, x="index", y="value", group="matrix", title="spectrum", unit="weights")
    _save(run, "spectrum_teacher", singular, drawn)
    tied = pd.DataFrame(
        {"number": range(40), "cosine": generator.normal(0, 0.1, 40), "p": [None] * 20 + [0.5] * 20}
    )
    units = ("number", "cosine")
    drawn = figures.scatter(tied, x="number", y="cosine", title="entanglement with owl", units=units)
    _save(run, "entanglement", tied, drawn)
    run.save_table("tokens_teacher", token_table(generator, rows))
    run.save_table("other", pd.DataFrame({"what": [f'"{ATTACK}'], "value": [-1.5]}))


def _save(run: Run, name: str, table: pd.DataFrame, figure: Any) -> None:
    run.save_table(name, table)
    run.save_figure(name, figure)
