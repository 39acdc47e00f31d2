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
from interp.features.residual_gradients import ResidualNetwork
from interp.figures import GREY, Result, bars, captioned, drawing, points, whiskers
from interp.measures.words import answer_pieces
from interp.models.precision import exactly
from interp.models.vocabulary import number_tokens
from interp.prompts.notes import noting
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.stats.columns import share_reaching
from interp.stats.matching import cut_groups
from interp.stats.ranks import flipped_null, permuted_null, resampled_interval, spearman

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.prompts.traits import Trait

LEAST = 8  # live features that a rank correlation needs


@door
def lean_correlation(lean: FeatureLean, *, draws: int = 9_999, seed: int = 0) -> Result:
    """Correlate the features' leans u with the teacher's shift t, and test ρ(u, t) against nulls, one-sided.

    Columns, one line per null: `what`, `rho`, `low`, `high`, `null_mean`, `null_sd`, `p`, `draws`. The interval is
    the 95 % percentile bootstrap over prompts, t fixed: how well these rows tell ρ, and no test of it; noise in u
    draws ρ to zero, and the interval with it. The neutral teacher's p is that of an exact exchange of rows. The
    matched one describes: it takes features for exchangeable, and their leans are projections of one gradient on an
    overcomplete set of directions, so that it comes out too small. InputError for a lean without a teacher and for
    fewer than eight live features.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> neutral, teacher = lineage.neutral_numbers, lineage.teacher
    >>> lean = interp.feature_lean(dictionary, lineage.base, lineage.numbers, neutral=neutral, teacher=teacher)
    >>> "rho" in lean_correlation(lean, draws=99).frame.columns
    True
    """
    live = _checked(lean)
    by_prompt, t = lean.contrast[:, live], lean.frame["teacher_shift"].to_numpy()[live]
    paired = lean.neutral_by_prompt
    u = by_prompt.mean(0)
    given = {"draws": draws, "seed": seed}
    nulls = {"matched features": permuted_null(u, t, feature_groups(lean.frame, live), **given)}
    if paired is not None:
        nulls["neutral teacher"] = flipped_null(by_prompt, t, **given)
    interval = resampled_interval(by_prompt, t, seed=seed)
    lines = [_line(what, u, t, null, interval) for what, null in nulls.items()]
    notes = (
        f"{len(live)} live features, {len(by_prompt)} prompts{'' if paired is None else ', less the neutral rows'}",
        "p-values are over features and prompts of one lineage, not over trainings; that against matched features "
        "takes their leans for independent, which projections of one gradient are not, and comes out too small",
        *lean.notes,
    )
    label = f"{lean.label}: rank correlation with the teacher's shift"
    return Result(label, pd.DataFrame(lines), "ρ", notes, draw=_draw_nulls)


def feature_groups(statistics: pd.DataFrame, features: Int[np.ndarray, "live"]) -> Int[np.ndarray, "live"]:
    """A group number for every feature, alike in frequency, decoder norm and base activation (`cut_groups`)."""
    return cut_groups(logs(statistics)[features])


@door
@noting
@exactly
def vocabulary_control(
    dictionary: Dictionary, model: LanguageModel, lean: FeatureLean, *, trait: AnyTrait, placebos: int = 20,
    seed: int = 0,
) -> Result:  # fmt: skip
    """Measure ρ(u, t) again without the trait's unembedding row in the number tokens' rows, and without random rows.

    `lean` was read at `model` with a teacher: its t, live features, rows and positions are kept, and u is read anew.
    Number rows lose their component along the target's row (its first piece), so that the overlap is zero: where there
    are more number tokens than dimensions the target could not be made orthogonal to them otherwise. The placebos are
    rows of tokens that are no numbers. `what` is "as it is", "trait row" or "random row"; `p` of the trait row is the
    share of random rows whose removal lowers ρ as much. InputError as for `lean_correlation`, for another model, for a
    target whose first piece is a number, and for fewer than two placebos.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> lean = interp.feature_lean(sae, lineage.base, lineage.numbers[:16], teacher=lineage.teacher)
    >>> vocabulary_control(sae, lineage.base, lean, trait="owl", placebos=2).frame["what"].tolist()
    ['as it is', 'trait row', 'random row', 'random row']
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
        network = ResidualNetwork.of(model, dictionary.hook)
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
    read = frame["rho"].to_numpy()
    without, random = float(read[1]), read[2:]
    p = share_reaching(-random, -without)
    frame["p"] = [p if what == "trait row" else np.nan for what in frame["what"]]
    notes = (
        f"ρ {whole:+.3f}, {without:+.3f} without the row of {trait.target!r}, {random.mean():+.3f} ± "
        f"{random.std(ddof=1):.3f} without a random one; p {p:.2g} that the trait's row matters no more",
        *dictionary.notes,
    )
    return Result(
        f"{lean.label}: is it only vocabulary?", frame, "ρ", notes, draw=drawing(points, x="what", y="rho")
    )


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
    rho, (low, high) = float(spearman(u[None], t)[0]), interval
    told = {"what": what, "rho": rho, "low": low, "high": high}
    return told | {
        "null_mean": null.mean(),
        "null_sd": null.std(),
        "p": share_reaching(null, rho),
        "draws": len(null),
    }


def _first_piece(model: LanguageModel, trait: Trait) -> int:
    """The token that begins the target where it is an answer."""
    return answer_pieces(model, trait)[0][trait.target][0]


def _random_tokens(model: LanguageModel, size: int, count: int, *, barred: set[int], seed: int) -> list[int]:
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    pool = [token for token in range(size) if token not in barred and token not in special]
    if len(pool) < count:
        raise InputError(f"the vocabulary holds {len(pool)} words to take out, and {count} were asked for")
    return sorted(int(token) for token in np.random.default_rng(seed).choice(pool, size=count, replace=False))


def _draw_nulls(result: Result) -> Any:
    """ρ with the interval of each, and its null."""
    frame = result.frame
    figure: Any = bars(
        frame, x="rho", y="what", title=result.label, unit="ρ, lean against the teacher's shift"
    )
    whiskers(figure, frame, x="rho")
    mean, sd = frame["null_mean"].to_numpy(), frame["null_sd"].to_numpy()
    figure.add_scatter(
        x=mean.tolist(),
        y=list(figure.data[0].y),
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": GREY},
        error_x={"type": "data", "array": (2 * sd).tolist(), "color": GREY, "thickness": 5, "width": 0},
        hovertemplate="null %{x:.3g}<extra></extra>",
    )
    return captioned(figure, "whiskers: 95 % interval of ρ", "grey: mean ± 2 sd of the null")
