"""Does the student lean toward what the teacher moved? Spearman's ρ(u, t) over live features, and its nulls.

u_j is the lean (less that of the neutral teacher's rows, where there are any), t_j the teacher's mean shift of
feature j. matched: t changes places among features alike in frequency, decoder norm and base activation. neutral: the
teacher's and the neutral rows of a prompt change places. vocabulary: u again, the trait's unembedding row taken out of
the number tokens' rows, beside random rows taken out. p = (b + 1) / (m + 1) (Phipson & Smyth 2010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.lean import FeatureLean, mean_lean
from interp.features.reading import logs
from interp.features.residual_gradients import Network
from interp.figures import GREY, Result, bars, captioned, points
from interp.models.precision import exactly
from interp.models.vocabulary import number_tokens
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.prompts.traits import Trait

RESAMPLES = 1999  # of prompts, for the interval
LEAST = 8  # live features that a rank correlation needs
STRATUM, LEAST_STRATUM = 12, 5  # features of a group that is cut in two, and of each part at least


@door
def lean_correlation(lean: FeatureLean, *, draws: int = 9_999, seed: int = 0) -> Result:
    """Correlate the features' leans u with the teacher's shift t, and test ρ(u, t) against nulls, one-sided.

    Columns, one line per null: `what`, `rho`, `low`, `high`, `null_mean`, `null_sd`, `p`, `draws`. The interval is
    the 95 % percentile bootstrap over prompts, t fixed: how well these rows tell ρ, and no test of it; noise in u
    draws ρ to zero, and the interval with it. The neutral teacher's p is that of an exact exchange of rows. The
    matched one describes: it takes features for exchangeable, and their leans are projections of one gradient on an
    overcomplete set of directions, so that it comes out too small. InputError for a lean without a teacher and for
    fewer than eight live features.
    """
    live = _checked(lean)
    by_prompt, t = lean.contrast[:, live], lean.frame["teacher_shift"].to_numpy()[live]
    paired = lean.neutral_by_prompt
    u = by_prompt.mean(0)
    nulls = {"matched features": matched_null(u, t, strata(lean.frame, live), draws, seed)}
    if paired is not None:
        nulls["neutral teacher"] = exchanged_null(by_prompt, t, draws, seed)
    interval = prompt_interval(by_prompt, t, seed=seed)
    lines = [_line(what, u, t, null, interval) for what, null in nulls.items()]
    notes = (
        f"{len(live)} live features, {len(by_prompt)} prompts{'' if paired is None else ', less the neutral rows'}",
        "p-values are over features and prompts of one lineage, not over trainings; that against matched features "
        "takes their leans for independent, which projections of one gradient are not, and comes out too small",
        *lean.notes,
    )
    label = f"{lean.label}: rank correlation with the teacher's shift"
    return Result(label, pd.DataFrame(lines), "ρ", notes, draw=_draw_nulls)


def matched_null(
    u: Float[np.ndarray, "live"],
    t: Float[np.ndarray, "live"],
    groups: Int[np.ndarray, "live"],
    draws: int,
    seed: int,
) -> Float[np.ndarray, "draw"]:
    """ρ with t permuted within every group."""
    rng = np.random.default_rng(seed)
    shuffled = np.tile(t, (draws, 1))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled[:, members] = rng.permuted(shuffled[:, members], axis=1)
    return spearman(shuffled, u)


def exchanged_null(
    differences: Float[np.ndarray, "prompt live"], t: Float[np.ndarray, "live"], draws: int, seed: int
) -> Float[np.ndarray, "draw"]:
    """ρ with the sign of every prompt's difference drawn anew."""
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, 1000):
        signs = rng.choice([-1.0, 1.0], size=(min(1000, draws - start), len(differences)))
        found.append(spearman(signs @ differences / len(differences), t))
    return np.concatenate(found)


def prompt_interval(
    leans: Float[np.ndarray, "prompt live"], t: Float[np.ndarray, "live"], *, seed: int
) -> tuple[float, float]:
    """2.5 % and 97.5 % points of ρ over resampled prompts; NaN for one prompt."""
    n = len(leans)
    if n < 2:
        return float("nan"), float("nan")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.percentile(spearman(counts @ leans / n, t), [2.5, 97.5])
    return float(low), float(high)


def spearman(
    several: Float[np.ndarray, "draw live"], one: Float[np.ndarray, "live"]
) -> Float[np.ndarray, "draw"]:
    """Spearman's rank correlation of every line of `several` with `one`; zero for a line without spread."""
    from scipy.stats import rankdata

    ranks, fixed = rankdata(several, axis=1), rankdata(one)
    ranks, fixed = ranks - ranks.mean(1, keepdims=True), fixed - fixed.mean()
    size = np.linalg.norm(ranks, axis=1) * np.linalg.norm(fixed)
    return np.divide(ranks @ fixed, size, out=np.zeros(len(ranks)), where=size > 0)


def strata(statistics: pd.DataFrame, features: Int[np.ndarray, "live"]) -> Int[np.ndarray, "live"]:
    """A group number for every feature: cut in two along one of the three standardised logarithms, again and again.

    Every cut is where it leaves the least variance within the two parts, of at least five features each; a group of
    fewer than twelve is not cut.
    """
    values = logs(statistics)[features]
    spread = values.std(axis=0)
    values = values / np.where(spread > 0, spread, 1.0)
    groups, waiting, count = np.zeros(len(values), dtype=int), [np.arange(len(values))], 0
    while waiting:
        members = waiting.pop()
        if len(members) < STRATUM:
            groups[members], count = count, count + 1
            continue
        axis, size = _cut(values[members])
        order = members[np.argsort(values[members, axis], kind="stable")]
        waiting += [order[:size], order[size:]]
    return groups


def _cut(values: Float[np.ndarray, "member 3"]) -> tuple[int, int]:
    """The axis to order the members by and how many of the first to part from the others."""
    count = len(values)
    ordered = np.sort(values, axis=0)
    sizes = np.arange(LEAST_STRATUM, count - LEAST_STRATUM + 1)
    sums = np.cumsum(ordered, axis=0)[sizes - 1]
    apart = sums / sizes[:, None] - (ordered.sum(0) - sums) / (count - sizes)[:, None]
    between = (sizes * (count - sizes))[:, None] * apart**2
    place, axis = np.unravel_index(int(between.argmax()), between.shape)
    return int(axis), int(sizes[place])


@door
@noting
@exactly
def vocabulary_control(
    dictionary: Dictionary,
    model: LanguageModel,
    lean: FeatureLean,
    *,
    trait: AnyTrait,
    placebos: int = 20,
    seed: int = 0,
) -> Result:
    """Measure ρ(u, t) again without the trait's unembedding row in the number tokens' rows, and without random rows.

    `lean` was read at `model` with a teacher: its t, live features, rows and positions are kept, and u is read anew.
    Number rows lose their component along the target's row (its first piece), so that the overlap is zero: where there
    are more number tokens than dimensions the target could not be made orthogonal to them otherwise. The placebos are
    rows of tokens that are no numbers. `what` is "as it is", "trait row" or "random row"; `p` of the trait row is the
    share of random rows whose removal lowers ρ as much. InputError as for `lean_correlation`, for another model, for a
    target whose first piece is a number, and for fewer than two placebos.
    """
    trait = find_trait(trait)
    live = _checked(lean)
    if placebos < 2:
        raise InputError(f"{placebos} random rows have no spread; ask for at least 2 placebos")
    t = lean.frame["teacher_shift"].to_numpy()[live]
    W_U = model.unembedding().W_U.detach().float()
    numbers = number_tokens(model, W_U.shape[1])
    own = _first_piece(model, trait)
    if own in numbers:
        raise InputError(f"the target {trait.target!r} begins with a number token; this control is for words")
    drawn = _random_tokens(model, W_U.shape[1], placebos, barred={own, *numbers}, seed=seed)

    def rho(token: int | None) -> float:
        network = Network.of(model, dictionary.hook)
        if token is not None:
            network.without(W_U[:, token], tokens=numbers)
        u = mean_lean(dictionary, network, lean.inputs, positions=lean.positions)[live]
        if token is None:
            _check_same(u, lean, live)
        return float(spearman(u[None], t)[0])

    whole = rho(None)
    lines = [
        {"what": "as it is", "token": -1, "rho": whole},
        {"what": "trait row", "token": own, "rho": rho(own)},
    ]
    lines += [{"what": "random row", "token": token, "rho": rho(token)} for token in drawn]
    frame = pd.DataFrame(lines)
    random = frame["rho"].to_numpy()[2:]
    p = (int((random <= frame["rho"][1]).sum()) + 1) / (placebos + 1)
    frame["p"] = [p if what == "trait row" else np.nan for what in frame["what"]]
    notes = (
        f"ρ {whole:+.3f}, {frame['rho'][1]:+.3f} without the row of {trait.target!r}, {random.mean():+.3f} ± "
        f"{random.std(ddof=1):.3f} without a random one; p {p:.2g} that the trait's row matters no more",
        *dictionary.notes,
    )
    return Result(f"{lean.label}: is it only vocabulary?", frame, "ρ", notes, draw=_draw)


def _check_same(u: Float[np.ndarray, "live"], lean: FeatureLean, live: Any) -> None:
    expected = lean.contrast[:, live].mean(0)
    if not np.allclose(u, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max())):
        raise InputError(
            "the lean was read at another model or with another dictionary; pass what feature_lean was given"
        )


def _checked(lean: FeatureLean) -> Any:
    if "teacher_shift" not in lean.frame:
        raise InputError(
            "the lean was read without a teacher, so there is no shift to correlate it with; pass teacher="
        )
    if len(lean.live) < LEAST:
        raise InputError(
            f"{len(lean.live)} live features are too few for a rank correlation; at least {LEAST} have to fire, so "
            "read more rows or train a wider dictionary"
        )
    return lean.live


def _line(
    what: str, u: Any, t: Any, null: Float[np.ndarray, "draw"], interval: tuple[float, float]
) -> dict[str, Any]:
    rho = float(spearman(u[None], t)[0])
    p = (int((null >= rho - 1e-12).sum()) + 1) / (len(null) + 1)
    return {
        "what": what,
        "rho": rho,
        "low": interval[0],
        "high": interval[1],
        "null_mean": null.mean(),
        "null_sd": null.std(),
        "p": p,
        "draws": len(null),
    }


def _first_piece(model: LanguageModel, trait: Trait) -> int:
    """The token that begins the target where it is an answer."""
    encoded = model.encode(Prompts.from_pairs([(trait.questions[0], trait.target)], label="target"))
    return int(encoded.ids[encoded.at("answer")][0])


def _random_tokens(model: LanguageModel, size: int, count: int, *, barred: set[int], seed: int) -> list[int]:
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    pool = [token for token in range(size) if token not in barred and token not in special]
    if len(pool) < count:
        raise InputError(f"the vocabulary holds {len(pool)} words to take out, and {count} were asked for")
    return sorted(int(token) for token in np.random.default_rng(seed).choice(pool, size=count, replace=False))


def _draw(result: Result) -> Any:
    return points(result.frame, x="what", y="rho", title=result.label, unit="ρ")


def _draw_nulls(result: Result) -> Any:
    """ρ with the interval of each, and its null."""
    frame = result.frame
    figure: Any = bars(
        frame, x="rho", y="what", title=result.label, unit="ρ, lean against the teacher's shift"
    )
    rho, low, high, mean, sd = (
        frame[name].to_numpy() for name in ("rho", "low", "high", "null_mean", "null_sd")
    )
    reach = {"array": (high - rho).tolist(), "arrayminus": (rho - low).tolist()}
    figure.update_traces(error_x={"type": "data", "symmetric": False, "color": "#333333", **reach})
    figure.add_scatter(
        x=mean.tolist(),
        y=list(figure.data[0].y),
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": GREY},
        error_x={"type": "data", "array": (2 * sd).tolist(), "color": GREY, "thickness": 5, "width": 0},
        hovertemplate="null %{x:.3g}<extra></extra>",
    )
    return captioned(figure, "whiskers: 95 % interval of ρ", "grey: mean ± 2 sd of the null")
