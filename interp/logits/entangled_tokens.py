"""Token entanglement: which number tokens go with a trait, by three scores (Zur et al. 2025, owls.baulab.info).

Per number token t, or whole number, and target c with foils f:
    unembedding   cos(U_t, U_c), mean over the pieces of c, and over those of a number of several
    logit         p(t | questions behind c's system line) / p(t | the questions alone)
    data          f(t | rows of the trait's teacher) / f(t | neutral rows), half a count added to every number token
`unembedding_score` and `logit_score` divide by the mean over the foils, as the authors do; a cosine's mean over
foils may be near or below zero, so `unembedding_excess`, the difference, is what is correlated. The control compares
numbers with numbers of the same frequency: ranks within strata, permuted within strata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import figures
from interp.core.doors import door
from interp.core.runs import InputError
from interp.logits.direction import logit_direction
from interp.measures.words import Pieces, answer_pieces
from interp.models.precision import exactly
from interp.models.vocabulary import number_tokens, token_texts
from interp.models.whole_numbers import Over, Spelling, number_logprobs, number_slots, number_spellings
from interp.prompts.notes import noting
from interp.prompts.number_tables import answer_numbers
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.stats.columns import EQUAL, share_reaching
from interp.stats.matching import quantile_groups
from interp.stats.ranks import centred_ranks, shuffled_within, spearman
from interp.stats.tests import benjamini_hochberg

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model, TextModel
    from interp.prompts.traits import Trait

UNIT = "ratio"
SCORES = ("unembedding_excess", "logit_score", "data")
STRATA = 5
PERMUTATIONS = 999
WORDS = 400  # other words at most, which make the null of the listed numbers


@door
@noting
@exactly
def entanglement(
    model: TextModel,
    trait: AnyTrait,
    *,
    rows: Prompts | None = None,
    neutral_rows: Prompts | None = None,
    over: Over = "tokens",
) -> figures.Result:
    """Measure how entangled every number token is with a trait, by three scores (Zur et al. 2025, owls.baulab.info).

    In `interp calibrate` the list at unembedding_q ≤ 0.05 holds 88 % of twenty planted numbers (AUROC 1.00) and any
    number in 0.5 % of words that none goes with; the first ten of a ranking without its q hold chance tokens.

    Args:
        model: a model of the lineage.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.
        rows: number answers of the trait's teacher, for the data score.
        neutral_rows: those of a neutral teacher.
        over: "tokens", the vocabulary's numbers, or "numbers", the whole numbers 0-999: p is P(number), counts are of
            whole numbers, and `token_id` gives way to `pieces`, how many tokens one is written with.

    Returns:
        One row per number token, largest logit_score first; scores are ratios to the mean over foils. `unembedding_q`
        is the false discovery rate of a list of the numbers up to this one, by excess against that of other words. With
        rows there are counts and the data score, which has no foils to divide by, and `frequency`, which makes the
        control's strata, is the smoothed neutral one instead of p(t | neutral). The control, `score_agreement(result)`,
        is in short in the notes: it is over the number tokens of one model.

    Raises:
        InputError: for rows without neutral ones or the reverse, and for fewer than three number tokens.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.entanglement(lineage.base, "owl").frame.columns[:4].tolist()
        ['token', 'token_id', 'unembedding', 'unembedding_score']
    """
    trait = find_trait(trait)
    if (rows is None) != (neutral_rows is None):
        raise InputError("entanglement compares rows with neutral_rows; give both or neither.")
    direction = logit_direction(model, trait)
    numbers = Numbers.of(model, over)
    frame = numbers.frame.assign(
        **unembedding_scores(model, trait, numbers.pieces), **_logit_scores(model, trait, numbers)
    )
    if rows is not None and neutral_rows is not None:
        frame = frame.assign(**_data_scores(model, rows, neutral_rows, numbers))
    result = figures.Result(
        label=f"{model.name}: numbers entangled with {trait.target!r}",
        frame=frame.sort_values("logit_score", ascending=False, kind="stable", ignore_index=True),
        unit=UNIT,
        draw=_draw,
    )
    notes = (*direction.notes, *(_sentence(row) for row in score_agreement(result).frame.to_dict("records")))
    return figures.Result(result.label, result.frame, result.unit, notes=notes, draw=_draw)


@dataclass(frozen=True)
class Numbers:
    """What is scored: the number tokens of a vocabulary, or whole numbers as a tokenizer writes them."""

    texts: tuple[str, ...]
    pieces: tuple[Pieces, ...]
    written: tuple[Spelling, ...] = ()
    """None for tokens."""

    @classmethod
    def of(cls, model: TextModel, over: Over) -> Numbers:
        """InputError for fewer than three numbers."""
        if over == "numbers":
            written = number_spellings(model)
            known = written[0].pieces
            return cls(tuple(map(str, known)), tuple(known.values()), written)
        size = model.unembedding().W_U.shape[1]
        ids = number_tokens(model, size)
        if len(ids) < 3:
            raise InputError(
                f"{model.name} has {len(ids)} number tokens in its vocabulary; at least 3 are needed."
            )
        texts = token_texts(model, size)
        return cls(tuple(texts[index] for index in ids), tuple((index,) for index in ids))

    @property
    def frame(self) -> pd.DataFrame:
        """The table's first columns."""
        if self.written:
            return pd.DataFrame({"token": self.texts, "pieces": list(map(len, self.pieces))})
        return pd.DataFrame({"token": self.texts, "token_id": [index for (index,) in self.pieces]})


def score_agreement(
    scores: figures.Result, *, strata: int = STRATA, permutations: int = PERMUTATIONS, seed: int = 0
) -> figures.Result:
    """Rank correlation of every pair of scores: over all numbers (`rho`) and within strata of equal frequency.

    `rho_matched` correlates ranks taken within each of `strata` bins of `frequency`; its two-sided `p` is (b + 1) /
    (m + 1) over permutations within strata. A `rho` that vanishes when matched was frequency; what frequency varies
    within a bin is not taken out, more strata leave less of it.
    """
    bins = quantile_groups(scores.frame["frequency"].to_numpy(dtype=float), strata)
    rng, rows = np.random.default_rng(seed), []
    for one, other in combinations([name for name in SCORES if name in scores.frame], 2):
        a, b = (scores.frame[name].to_numpy(dtype=float) for name in (one, other))
        matched, p = _matched_correlation(a, b, bins, permutations=permutations, rng=rng)
        overall = float(spearman(a[None], b)[0]) if np.ptp(a) and np.ptp(b) else float("nan")
        rows.append({"score": one, "other": other, "rho": overall, "rho_matched": matched})
        rows[-1] |= {
            "p": p,
            "smallest_p": 1 / (permutations + 1),
            "numbers": len(a),
            "strata": int(bins.max()) + 1,
        }
    return figures.Result(
        label=f"{scores.label}, agreement of scores",
        frame=pd.DataFrame(rows),
        unit="rank correlation",
        notes=("p is over the number tokens of one model, not over trainings",),
        draw=_draw_agreement,
    )


def unembedding_scores(model: Model, trait: Trait, numbers: Sequence[Pieces]) -> dict[str, np.ndarray]:
    """Cosine with the target, its ratio to the foils' mean (NaN where that is not positive), its excess and its q."""
    W_U = model.unembedding().W_U.detach()
    rows = torch.stack([_unit_rows(W_U, pieces).mean(0) for pieces in numbers])
    cosines = {
        answer: (rows @ _unit_rows(W_U, ids).T).mean(1).numpy()
        for answer, ids in _known_pieces(model, trait).items()
    }
    target = cosines.pop(trait.target)
    foils = np.mean(list(cosines.values()), axis=0)
    ratio = np.divide(target, foils, out=np.full_like(target, np.nan), where=foils > 0)
    words = _other_words(model, trait, [piece for pieces in numbers for piece in pieces])
    others = (rows @ _unit_rows(W_U, words).T).T.numpy() - foils
    return {
        "unembedding": target, "unembedding_score": ratio, "unembedding_excess": target - foils,
        "unembedding_q": _discoveries(target - foils, others),
    }  # fmt: skip


def _other_words(model: Model, trait: Trait, numbers: list[int]) -> list[int]:
    """At most WORDS tokens that are letters alone and no piece of the trait's names, evenly over the vocabulary."""
    names = {piece for pieces in _known_pieces(model, trait).values() for piece in pieces}
    texts = token_texts(model, model.unembedding().W_U.shape[1])
    taken = names | set(numbers)
    words = [index for index, text in enumerate(texts) if text.strip().isalpha() and index not in taken]
    return words[:: -(-len(words) // WORDS) or 1]


def _discoveries(
    excess: Float[np.ndarray, "number"], others: Float[np.ndarray, "word number"]
) -> Float[np.ndarray, "number"]:
    """q by Benjamini and Hochberg of p = (b + 1) / (m + 1), with other words in the target's place.

    Each word's values are taken less their mean and in their standard deviation over the numbers.
    """
    own, null = (_over_numbers(values) for values in (excess, others))
    ordered = np.sort(null, axis=None)
    reached = len(ordered) - np.searchsorted(ordered, own - EQUAL, side="left")
    return benjamini_hochberg((reached + 1) / (len(ordered) + 1))


def _over_numbers(values: Float[np.ndarray, "*word number"]) -> Float[np.ndarray, "*word number"]:
    centred = values - values.mean(-1, keepdims=True)
    size = centred.std(-1, keepdims=True)
    return np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)


def _unit_rows(W_U: Float[Tensor, "d_model vocab"], ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    return torch.nn.functional.normalize(W_U[:, list(ids)].cpu().double().T, dim=1)


def _known_pieces(model: Model, trait: Trait) -> dict[str, Pieces]:
    """Token ids of the target and of each foil the vocabulary can write."""
    pieces, _ = answer_pieces(model, trait)
    return {answer: ids for answer, ids in pieces.items() if ids and model.tokenizer.unk_token_id not in ids}


def _logit_scores(model: Model, trait: Trait, numbers: Numbers) -> dict[str, np.ndarray]:
    """p(t | trait) / p(t | neutral), the same over its mean for the foils' system lines, and p(t | neutral)."""
    questions = trait.prompts()
    neutral = _log_p(model, questions, numbers)
    ratios = [
        np.exp(_log_p(model, questions.with_system(_system(trait, name)), numbers) - neutral)
        for name in (trait.target, *trait.foils)
    ]
    return {
        "logit": ratios[0],
        "logit_score": ratios[0] / np.mean(ratios[1:], axis=0),
        "frequency": np.exp(neutral),
    }


def _system(trait: Trait, name: str) -> str:
    """The trait's system line about another name."""
    line, found = re.subn(rf"\b{re.escape(trait.target)}", lambda _: name, trait.system)
    if not found:
        raise InputError(
            f"the system line of trait {trait.name!r} does not name {trait.target!r}, so there is none for its foils; "
            "make the trait with make_trait"
        )
    return line


@torch.inference_mode()
def _log_p(model: Model, prompts: Prompts, numbers: Numbers) -> Float[np.ndarray, "number"]:
    """log of the mean over prompts of p(number | prompt) where the answer begins."""
    encoded = model.encode(prompts)
    if numbers.written:
        where = number_slots(encoded, "last", numbers.written)
        log_p = torch.cat(list(number_logprobs(model, encoded, where, written=numbers.written)))
    else:
        logits = model.logits(encoded)
        ids = [index for (index,) in numbers.pieces]
        log_p = logits[encoded.at("last").to(logits.device)].float().cpu().double().log_softmax(-1)[:, ids]
    return (log_p.logsumexp(0) - np.log(len(log_p))).numpy()


def _data_scores(
    model: Model, rows: Prompts, neutral_rows: Prompts, numbers: Numbers
) -> dict[str, np.ndarray]:
    """Counts in both sets of answers, ratio of smoothed frequencies, and the neutral frequency."""
    counts, neutral = (_counts(model, prompts, numbers) for prompts in (rows, neutral_rows))
    smooth = [(count + 0.5) / (count.sum() + 0.5 * len(numbers.texts)) for count in (counts, neutral)]
    return {"count": counts, "neutral_count": neutral, "data": smooth[0] / smooth[1], "frequency": smooth[1]}


def _counts(model: Model, prompts: Prompts, numbers: Numbers) -> Int[np.ndarray, "number"]:
    encoded = model.encode(prompts)
    if numbers.written:
        whole = answer_numbers(encoded, model.tokenizer).drop_duplicates(["row", "number"])["text"]
        counts = whole.value_counts().reindex(numbers.texts, fill_value=0).to_numpy()
    else:
        ids = [index for (index,) in numbers.pieces]
        found = encoded.ids[encoded.at("answer.numbers")].cpu().numpy()
        counts = np.bincount(found, minlength=max(ids) + 1)[ids]
    if not counts.any():
        raise InputError(f"no answer in {prompts.label!r} holds a number token; give rows of number answers.")
    return counts


def _matched_correlation(
    a: Float[np.ndarray, "number"],
    b: Float[np.ndarray, "number"],
    bins: Int[np.ndarray, "number"],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Correlation of ranks taken and centred within bins (NaN where one is constant), and its two-sided p."""
    x, y = (centred_ranks(values, bins) for values in (a, b))
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not scale:
        return float("nan"), 1.0
    shuffled = shuffled_within(y, bins, draws=permutations, rng=rng) @ x
    return float(x @ y) / scale, share_reaching(np.abs(shuffled), abs(float(x @ y)), scale=scale)


def _sentence(row: Mapping) -> str:
    return (
        f"{row['score']} against {row['other']}: rank correlation {row['rho']:+.2f}, frequency-matched "
        f"{row['rho_matched']:+.2f} (permutation p = {row['p']:.2g}, {row['numbers']} number tokens)"
    )


def _draw(result: figures.Result) -> go.Figure:
    """Each number by its logit score and, where rows were given, its data score, else its cosine."""
    frame = result.frame.assign(logit=np.log2(result.frame["logit_score"]))
    if "data" in frame:
        shown = frame.assign(other=np.log2(frame["data"]))
        name, unit = "data score", "log2 ratio"
    else:
        shown = frame.assign(other=frame["unembedding_excess"])
        name, unit = "unembedding score over foils", "cosine"
    shown = pd.DataFrame({"token": shown["token"], "logit score": shown["logit"], name: shown["other"]})
    return figures.scatter(
        shown, x="logit score", y=name, text="token", title=result.label, units=("log2 ratio", unit)
    )


def _draw_agreement(result: figures.Result) -> go.Figure:
    pairs = result.frame["score"] + " / " + result.frame["other"]
    shown = result.frame.assign(pair=pairs)
    return figures.bars(shown, x="pair", y="rho_matched", title=result.label, unit=result.unit)
