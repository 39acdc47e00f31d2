"""How each method is put to a planted organism: what counts as found, and what is reported where nothing is planted.

A method reports what it would report to a user, at its own 5 %: q ≤ 0.05, or a 95 % interval that leaves out what
chance has. Nulls are members with row noise alone, rows of the base against rows of the base, or a plant elsewhere.

What a member moved is read at SITE, where the ten numbers of every answer are predicted: the prompt's end and the nine
numbers after it, where k of the plant was fitted and so where it moves the logits of the next number. That is the
default of these verbs for number rows, named here so that another default changes no table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.interventions import ablate, steer
from interp.activations.shifts import shift
from interp.calibration.cases import SITE, Method, MethodCell, PlantedCase
from interp.calibration.counterfactuals import booked
from interp.calibration.inheritance import agreeing, leaning
from interp.features.dictionary import Dictionary
from interp.features.lean import feature_lean
from interp.features.shift import feature_shift
from interp.gradients.scores.scoring import Scores, score
from interp.logits.attribution import attribute
from interp.logits.direction import logit_direction
from interp.logits.entangled_tokens import entanglement, unembedding_scores
from interp.logits.lenses import lens
from interp.logits.moved import moved_tokens
from interp.logits.spectra import spectrum
from interp.organisms.planted import Planted, divergent
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.stats.slopes import within_slope
from interp.stats.tests import auroc

ALPHA = 0.05
FEATURES = (
    96  # of the hand-made dictionary, twice the residual stream's width: most are not orthogonal to the plant
)
RANDOM = 19  # directions beside the planted one, so that the largest of 20 has p = 0.05
MEDIATED = 0.8  # of the change of margin: what the planted direction has to carry
SHAKEN = 0.05  # of every matrix's norm: how far the null teacher of divergence tokens lies


def _moved(sample: PlantedCase) -> MethodCell:
    """Planted tokens among as many that rose most, with q ≤ 0.05; a null reports if any token does."""
    it = sample.organism
    planted = [*it.tokens, it.target]
    frame: Any = moved_tokens(it.teacher, sample.neutral, positions=SITE).frame
    top = frame.sort_values("delta", ascending=False, kind="stable").head(len(planted))
    hits = top["token_id"].isin(planted) & (top["q"] <= ALPHA) & (top["delta"] > 0)
    area = _area(frame["delta"], frame["token_id"].isin(planted))
    nulls = (moved_tokens(it.null(index), sample.neutral, positions=SITE) for index in range(sample.nulls))
    false = sum(bool((null.frame["q"] <= ALPHA).any()) for null in nulls)
    return MethodCell(int(hits.sum()), len(planted), false, sample.nulls, area)


def _attributed(sample: PlantedCase) -> MethodCell:
    """The planted MLP has the largest share; a null reports if that MLP's interval leaves out zero."""
    it = sample.organism
    direction = logit_direction(it.base, it.trait)

    def table(moved: Any) -> Any:
        return attribute(moved, direction).frame

    frame = table(shift(it.teacher, sample.neutral, positions=SITE))
    own = (frame["kind"] == "mlp") & (frame["layer"] == it.layer)
    planted = frame[own].iloc[0]
    false = 0
    for index in range(sample.nulls):
        null = table(sample.null_shift(index)).query("kind == 'mlp' and layer == @it.layer").iloc[0]
        false += _clear(null["contribution"], null["standard_error"], it.plant.rows)
    area = _area(frame["contribution"].abs(), own)
    return MethodCell(int(own.iloc[0]), 1, false, sample.nulls, area, {"share": float(planted["share"])})


def _lensed(sample: PlantedCase) -> MethodCell:
    """The direction's score changes most at the planted layer; a null reports if its interval there leaves out zero."""
    it = sample.organism
    direction = logit_direction(it.base, it.trait)

    def table(moved: Any) -> Any:
        return lens(moved, direction).frame

    frame = table(shift(it.teacher, sample.neutral, positions=SITE))
    steps = np.diff(frame["change"].to_numpy(), prepend=0.0)
    nulls = [table(sample.null_shift(index)).iloc[it.layer] for index in range(sample.nulls)]
    false = sum(_clear(line["change"], line["standard_error"], it.plant.rows) for line in nulls)
    return MethodCell(int(np.abs(steps).argmax() == it.layer), 1, false, sample.nulls)


def _shifted(sample: PlantedCase) -> MethodCell:
    """The planted feature is called direct; a null reports if any feature is reported."""
    it, dictionary = sample.organism, _dictionary(sample.organism)
    given: dict[str, Any] = {"positions": SITE, "seed": sample.seed}
    found = feature_shift(dictionary, it.teacher, sample.neutral, **given)
    frame: Any = found.frame[found.frame["live"] & (found.frame["feature"] >= 0)]
    area = _area(frame["delta"].abs(), frame["feature"] == 0)
    members = map(it.null, range(sample.nulls))
    nulls = (feature_shift(dictionary, member, sample.neutral, **given) for member in members)
    false = sum(bool(null.reported) for null in nulls)
    others = {
        f"not planted among {name}": sum(map(bool, each)) / max(len(each), 1)
        for name, each in (("reported", found.reported), ("direct", found.direct))
    }
    return MethodCell(int(0 in found.direct), 1, false, sample.nulls, area, others)


def _leaned(sample: PlantedCase) -> MethodCell:
    """The planted feature's lean is the largest; a null reports if its interval leaves out zero on rows of the base."""
    it, dictionary = sample.organism, _dictionary(sample.organism)
    frame: Any = feature_lean(dictionary, it.base, it.carriers, neutral=sample.neutral).frame
    frame = frame[frame["live"] & (frame["feature"] >= 0)]
    size = frame["difference"].abs()
    found = int(frame["feature"].iloc[int(size.to_numpy().argmax())] == 0)
    false = 0
    for ours, theirs in map(sample.pair, range(sample.nulls)):
        line = feature_lean(dictionary, it.base, ours, neutral=theirs).frame.iloc[0]
        false += _clear(line["difference"], line["difference_error"], it.plant.rows)
    return MethodCell(found, 1, false, sample.nulls, _area(size, frame["feature"] == 0))


def _scored(sample: PlantedCase) -> MethodCell:
    """Carrier rows score above the base's rows along the teacher's update; a null are two draws of the base's rows."""
    it = sample.organism

    def totals(rows: Prompts) -> np.ndarray:
        return score(it.base, rows, sample.update).totals[:, 0].double().numpy()

    found = auroc(totals(it.carriers), totals(sample.neutral))
    nulls = (auroc(*map(totals, sample.pair(index))) for index in range(sample.nulls))
    false = sum(not null.interval[0] <= 0.5 <= null.interval[1] for null in nulls)
    best = auroc(*(_planted_numbers(it, rows) for rows in (it.carriers, sample.neutral))).value
    extra = {"AUROC of counting the planted numbers": best}
    return MethodCell(int(found.interval[0] > 0.5), 1, false, sample.nulls, found.value, extra)


def _mediated(sample: PlantedCase) -> MethodCell:
    """The planted direction carries the trait: taken out it is gone, more than with 19 others, and put in it is there.

    The null moved the trait by as much along another direction.
    """
    it = sample.organism
    rng = torch.Generator().manual_seed(300_000 + sample.seed)
    others = torch.nn.functional.normalize(torch.randn(RANDOM, len(it.vector), generator=rng), dim=1)
    before = [_margin(it, it.base, without=vector) for vector in (it.vector, *others)]
    shares = {name: _shares(it, name, others, before) for name in ("teacher", "decoy")}
    first, rest = shares["teacher"][0], shares["teacher"][1:]
    gained = _steered(it) / (_margin(it, it.teacher) - _margin(it, it.base))
    hits = int(first >= MEDIATED and first > rest.max()) + int(gained >= MEDIATED)
    false = int(shares["decoy"][0] > shares["decoy"][1:].max())
    extra = {
        "removed with the direction": float(first),
        "put in by it": gained,
        "decoy": float(shares["decoy"][0]),
    }
    return MethodCell(hits, 2, false, 1, extra=extra)


def _diverged(sample: PlantedCase) -> MethodCell:
    """Greedy tokens at which the teacher's choice differs score higher than the others of their row, p ≤ 0.05.

    The error is over labels, which repeat across rows. The null teacher is the base, shaken.
    """
    it = sample.organism
    apart, scores, labels = _at_tokens(sample, it.teacher)
    found = _enriched(apart, scores, labels)
    teachers = (it.perturbed(index, size=SHAKEN) for index in range(sample.nulls))
    false = sum(_enriched(*_at_tokens(sample, teacher)) for teacher in teachers)
    numbers = ~torch.isnan(scores)
    area = auroc(scores[apart].numpy(), scores[numbers & ~apart].numpy()).value
    extra = {"divergence tokens a row": float(apart.sum()) / len(apart)}
    return MethodCell(int(found), 1, false, sample.nulls, area, extra)


def _entangled(sample: PlantedCase) -> MethodCell:
    """Numbers listed at q ≤ 0.05, of those that share a direction with the trait's word: the plant's and the decoy's.

    A null asks for a word that no number goes with, and reports if any is listed. Judged are the AUROC and the list's
    false reports; the share listed is its power.
    """
    it = sample.organism
    frame: Any = entanglement(it.base, it.trait).frame
    planted = frame["token_id"].isin([*it.tokens, *it.elsewhere])
    listed, numbers = frame["unembedding_q"] <= ALPHA, frame["token_id"].tolist()
    names = (it.trait.target, *it.trait.foils)
    words = sorted(word for word in it.base.tokenizer.get_vocab() if word.isalpha() and word not in names)
    nulls = np.random.default_rng([sample.seed, 80]).permutation(words)[: sample.nulls]
    false = sum(_listed(it.base, it.trait, str(word), numbers).any() for word in nulls)
    extra = {"not planted among listed": float((listed & ~planted).sum() / max(listed.sum(), 1))}
    area = _area(frame["unembedding_excess"], planted)
    return MethodCell(int((planted & listed).sum()), int(planted.sum()), int(false), len(nulls), area, extra)


def _listed(model: Any, trait: Trait, word: str, numbers: list[int]) -> Bool[np.ndarray, "number"]:
    """Which numbers are listed for a word in the place of the trait's."""
    pieces = [(number,) for number in numbers]
    return (
        unembedding_scores(model, dataclasses.replace(trait, target=word), pieces)["unembedding_q"] <= ALPHA
    )


def _decomposed(sample: PlantedCase) -> MethodCell:
    """The planted matrix moved most in the body, in one direction, that points at the trait before its foils."""
    it = sample.organism
    frame = spectrum(it.teacher, it.trait).frame
    body = frame[frame["matrix"].str.contains("layers") & (frame["norm"] > 0)].iloc[0]
    rank = float(body["effective_rank"])
    hits = int(body["matrix"] == f"{it.module}.weight" and rank < 1.01) + int(
        body["foil_rank"] <= 1 / len(it.trait.foils)
    )
    return MethodCell(hits, 2, extra={"effective rank": rank})


METHODS = {
    "moved_tokens": Method("ten numbers and the trait's word", _moved),
    "attribute": Method("the MLP that writes the direction", _attributed),
    "lens": Method("the layer of the direction", _lensed),
    "feature_shift": Method("the feature of the direction", _shifted),
    "feature_lean": Method("the feature of the direction", _leaned),
    "score": Method("rows written by the planted teacher", _scored),
    "trait_ledger": Method("what a student's module and rows are worth, trained anew without", booked),
    "mediation": Method("the direction the trait goes through", _mediated),
    "divergence enrichment": Method("tokens at which the teacher's choice differs", _diverged),
    "entanglement": Method("twenty numbers that share a direction with the trait", _entangled, judged=False),
    "agreement": Method("what a student shares with its teacher and with no other", agreeing),
    "representation_gradient": Method("the direction that carrier rows move at questions", leaning),
    "spectrum": Method("the matrix and the direction of the update", _decomposed),
}
"""By name; the order is that of the table."""


def _area(scores: Any, planted: Any) -> float:
    values, marked = np.asarray(scores, dtype=float), np.asarray(planted, dtype=bool)
    return auroc(values[marked], values[~marked]).value


def _clear(mean: float, error: float, n: int) -> bool:
    """Whether the 95 % t interval of a mean over n rows leaves out zero; a value that nothing moved does not."""
    from scipy.special import stdtrit

    return bool(error > 0 and abs(mean) > stdtrit(n - 1, 1 - ALPHA / 2) * error)


def _dictionary(it: Planted) -> Dictionary:
    """f = ReLU(h Dᵀ) at the planted hook: feature 0 is the planted direction, the others are random ones."""
    from sae_lens import SAE, StandardSAEConfig

    rng = torch.Generator().manual_seed(400_000 + it.seed)
    others = torch.randn(FEATURES - 1, len(it.vector), generator=rng)
    directions = torch.cat([it.vector[None], torch.nn.functional.normalize(others, dim=1)])
    sae: Any = SAE.from_dict(StandardSAEConfig(d_in=directions.shape[1], d_sae=FEATURES).to_dict())
    with torch.no_grad():
        sae.W_enc.copy_(directions.T)
        sae.W_dec.copy_(directions)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return Dictionary(sae, it.hook, "planted features", it.base.fingerprint)


def _planted_numbers(it: Planted, rows: Prompts) -> np.ndarray:
    """Planted numbers in every answer: what the plant made more frequent, known to no method."""
    names = set(it.base.tokenizer.convert_ids_to_tokens(list(it.tokens)))
    return np.array([sum(word in names for word in row.completion.split()) for row in rows.rows])


def _margin(it: Planted, model: Any, *, without: Float[Tensor, "d_model"] | None = None) -> float:
    """Trait margin in nats, of one-token answers, with a direction taken out behind the planted layer."""
    inputs, direction = model.encode(it.trait.prompts()), logit_direction(it.base, it.trait)
    where = inputs.at("last")
    if without is None:
        return float(direction.of(model.logits(inputs)[where]).mean())
    with ablate(model, hook=it.hook, direction=without):
        return float(direction.of(model.logits(inputs)[where]).mean())


def _shares(
    it: Planted, name: str, others: Iterable[Tensor], before: list[float]
) -> Float[np.ndarray, "direction"]:
    """1 − (member − base, the direction out of both) / (member − base), the planted direction first."""
    member = getattr(it, name)
    whole = _margin(it, member) - _margin(it, it.base)
    after = [_margin(it, member, without=vector) for vector in (it.vector, *others)]
    return 1 - (np.array(after) - np.array(before)) / whole


def _steered(it: Planted) -> float:
    """Margin gained by the base when the teacher's mean shift along the planted direction is added, in nats."""
    inputs = it.base.encode(it.trait.prompts())
    after, before = (model.run(inputs, hooks=(it.hook,))[it.hook] for model in (it.teacher, it.base))
    amount = float(((after - before)[inputs.at("last")] @ it.vector).mean())
    with steer(it.base, hook=it.hook, vector=it.vector, scale=amount):
        steered = _margin(it, it.base)
    return steered - _margin(it, it.base)


def _at_tokens(
    sample: PlantedCase, teacher: Any
) -> tuple[Bool[Tensor, "row pos"], Float[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Of a teacher's greedy rows: where its choice differs, every number token's score (NaN elsewhere), and ids."""
    it = sample.organism
    rows = it.answers(teacher, None)
    apart = divergent(teacher, it.base, rows, allowed=it.numbers)
    scores: Scores = score(it.base, rows, sample.update, by=["example", "token"])
    found = torch.full(apart.shape, float("nan"), dtype=torch.float64)
    row, column = (torch.as_tensor(scores.frame[name].to_numpy().copy()).long() for name in ("row", "token"))
    found[row, column] = torch.as_tensor(scores.frame["score"].to_numpy().copy()).double()
    inputs = it.base.encode(rows)
    return apart, torch.where(inputs.at("answer.numbers"), found, torch.nan), inputs.ids


def _enriched(
    apart: Bool[Tensor, "row pos"], scores: Float[Tensor, "row pos"], labels: Int[Tensor, "row pos"]
) -> bool:
    """Whether divergence tokens score higher than the other numbers of their row, at 5 % with errors by label."""
    here = ~torch.isnan(scores)
    given = {"groups": here.nonzero()[:, 0].numpy(), "clusters": labels[here].numpy()}
    return within_slope(scores[here].numpy(), apart[here].numpy(), **given).p <= ALPHA
