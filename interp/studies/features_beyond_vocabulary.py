"""Does a step on the teacher's rows want the features its teacher has more of? ρ(u, t), Spearman's, over live features.

u_j = mean over rows of Σ_t <−∂ℓ_i/∂h_t, d_j> at the base, the teacher's rows less the base's own (`features.lean`);
t_j = mean of f_j in the teacher − in the base, on identical tokens of other rows, without the trait's line. Both are
read at answer tokens. The matched null permutes t among features alike in frequency, decoder norm and base activation;
the vocabulary control reads u again with the trait's unembedding row taken out of the number tokens'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.lean import FeatureLean, feature_lean, mean_lean
from interp.features.lean_nulls import feature_groups, lean_correlation, vocabulary_control
from interp.features.reading import read_tokens, token_means
from interp.features.residual_gradients import ResidualNetwork
from interp.features.sae import SAERecipe, train_sae
from interp.figures import points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.logits.direction import logit_direction
from interp.models.vocabulary import number_tokens
from interp.prompts.text import Encoded, Prompts
from interp.stats.columns import ratio
from interp.stats.ranks import permuted_null, spearman
from interp.studies.frozen import frozen_claims

if TYPE_CHECKING:
    import plotly.graph_objects as go

POSITIONS = "answer"  # where the teacher wrote, and which the trait's line leaves the same tokens
TOP = 8  # features that write the trait most, whose percentile is reported
AGAIN = 60_000  # added to the seed for a second sample of the base's answers
ARMS = {
    "teacher rows": "teacher",
    "teacher rows, shift read behind the trait's line": "in_context",
    "neutral rows": "neutral",
    "trait row taken out": "student",
    "random row taken out": "null",
}

H6 = frozen_claims("features_beyond_vocabulary")


@dataclass(frozen=True)
class FeatureSize:
    """Rows that u is read on, other rows that t is read on, rows taken out as placebos, permutations."""

    pulled: int = 2048
    read: int = 1024
    placebos: int = 12
    draws: int = 1999
    samples: int = SAERecipe.samples  # activations that the dictionary is trained on


QUICK = FeatureSize(pulled=128, read=64, placebos=2, draws=199, samples=20_000)


def measure_correlations(subject: Subject) -> Measurement:
    """ρ(u, t) of one lineage and of its controls, and what is reported without a claim.

    Tables: `correlations` (a line per arm and placebo), `within` (`lean_correlation`, whose p-values are over the
    features and prompts of this one training) and `reported`: live features, alignment in nats per row, the error
    node's share of it, and the mean percentile of u of the features that write the trait most (50 by chance). Raises
    InputError for fewer than eight live features and as `feature_lean` does.
    """
    size = QUICK if subject.quick else FeatureSize()
    ours, neutral = subject.numbers, subject.neutral_numbers
    cut = min(size.pulled, len(ours) * 2 // 3)
    held_out = ours[cut : cut + size.read] + neutral[cut : cut + size.read]
    dictionary = dictionary_of(subject, SAERecipe(samples=size.samples))
    lean = feature_lean(
        dictionary, subject.base, ours[:cut],
        teacher=subject.teacher, neutral=neutral[:cut], positions=POSITIONS,
    )  # fmt: skip
    shift = teacher_shift(dictionary, subject, subject.base.encode(held_out))
    lean = replace(lean, frame=lean.frame.assign(teacher_shift=np.append(shift, np.nan)))
    arms = _Arms(lean, size, subject.seed)
    lines = [
        arms.line("teacher rows", lean.frame["difference"].to_numpy()[:-1], shift),
        *_behind_the_line(dictionary, subject, arms, held_out),
        arms.line("neutral rows", neutral_lean(dictionary, subject, neutral[:cut]), shift),
        *_vocabulary(dictionary, subject, arms, shift),
    ]
    within = lean_correlation(lean, draws=size.draws, seed=subject.seed).frame.to_dict("records")
    tables: dict[str, Any] = {
        "correlations": lines,
        "within": within,
        "reported": [_reported(dictionary, subject, lean)],
    }
    return Measurement(values_of(lines), tables)


def values_of(lines: list[dict[str, Any]]) -> dict[str, float]:
    """What the lines of one run contribute to every claim."""
    rho, null = ({line["arm"]: line[name] for line in lines} for name in ("rho", "null"))
    placebos = [line["rho"] for line in lines if line["arm"] == "random row taken out"]
    trait = rho["trait row taken out"]
    return {
        "features-lean": rho["teacher rows"] - null["teacher rows"],
        "features-teacher-rows": rho["teacher rows"] - rho["neutral rows"],
        "features-without-trait-row": trait - null["trait row taken out"],
        "features-trait-row-typical": ratio(
            float(np.mean(placebos)) - trait, float(np.std(placebos, ddof=1))
        ),
    }


def dictionary_of(subject: Subject, recipe: SAERecipe) -> Dictionary:
    """Features of the base's middle layer, trained on the subject's own rows; from the cache where they are."""
    hook = f"blocks.{(subject.base.n_layers - 1) // 2}.hook_resid_post"
    rows = subject.numbers + subject.neutral_numbers
    return train_sae(subject.base, rows, hook=hook, recipe=recipe, cache=subject.cache)


def teacher_shift(dictionary: Dictionary, subject: Subject, inputs: Encoded) -> Float[np.ndarray, "feature"]:
    """t_j: mean of f_j over the answer tokens in the teacher, less that in the base on the same tokens."""
    taught, before = (
        token_means(dictionary, read_tokens(dictionary, model, inputs, positions=POSITIONS))[0]
        .double()
        .numpy()
        for model in (subject.teacher, subject.base)
    )
    return taught - before


def neutral_lean(dictionary: Dictionary, subject: Subject, neutral: Prompts) -> Float[np.ndarray, "feature"]:
    """u of other answers of the base to the same prompts, less these `neutral` ones: all it holds is noise."""
    grower = subject.growing("second sample of its base's rows")
    again = grower.again(subject.base, neutral.without_answers(), seed=AGAIN + subject.seed)
    lean = feature_lean(dictionary, subject.base, again, neutral=neutral, positions=POSITIONS)
    return lean.frame["difference"].to_numpy()[:-1]


@dataclass(frozen=True, eq=False)
class _Arms:
    """The lean whose live features and strata every arm is judged by."""

    lean: FeatureLean
    size: FeatureSize
    seed: int

    def line(
        self, arm: str, u: Float[np.ndarray, "feature"], t: Float[np.ndarray, "feature"], token: int = -1
    ) -> dict[str, Any]:
        """ρ(u, t) of an arm over the live features, and the mean of its matched null."""
        live = self.lean.live
        groups = feature_groups(self.lean.frame, live)
        null = permuted_null(u[live], t[live], groups, draws=self.size.draws, seed=self.seed)
        rho = float(spearman(u[live][None], t[live])[0])
        return {"arm": arm, "token": token, "rho": rho, "null": float(null.mean())}


def _behind_the_line(
    dictionary: Dictionary, subject: Subject, arms: _Arms, rows: Prompts
) -> list[dict[str, Any]]:
    """ρ with t read behind the trait's line, in teacher and base; nothing where there is no place for a line."""
    try:
        inputs = subject.base.encode(rows.with_system(subject.trait.system))
    except InputError:
        return []
    u = arms.lean.frame["difference"].to_numpy()[:-1]
    t = teacher_shift(dictionary, subject, inputs)
    return [arms.line("teacher rows, shift read behind the trait's line", u, t)]


def _vocabulary(
    dictionary: Dictionary, subject: Subject, arms: _Arms, shift: Float[np.ndarray, "feature"]
) -> list[dict[str, Any]]:
    """ρ without the trait's row and its own matched null, then without every random word's row."""
    lean, base = arms.lean, subject.base
    given = {"trait": subject.trait, "placebos": arms.size.placebos, "seed": subject.seed}
    control = vocabulary_control(dictionary, base, lean, **given).frame.set_index("what")
    token = int(control.loc["trait row", "token"])
    W_U = base.unembedding().W_U.detach().float()
    network = ResidualNetwork.of(base, dictionary.hook)
    network.without(W_U[:, token], tokens=number_tokens(base, W_U.shape[1]))
    u = mean_lean(dictionary, network, lean.inputs, positions=lean.positions)
    random = control.loc["random row"].to_dict("records")
    return [
        arms.line("trait row taken out", u, shift, token),
        *({"arm": "random row taken out", "token": each["token"], "rho": each["rho"], "null": None}
          for each in random),
    ]  # fmt: skip


def _reported(dictionary: Dictionary, subject: Subject, lean: FeatureLean) -> dict[str, Any]:
    """What is told without a claim."""
    live = lean.live
    unembedding = subject.base.unembedding()
    wanted = logit_direction(subject.base, subject.trait).vector(unembedding) * unembedding.weight.double()
    decoder = dictionary.decoder.to(unembedding.weight.device)[live]
    writes = (unembedding.centred(decoder).double() @ wanted).cpu().numpy()
    chosen = np.argsort(-writes, kind="stable")[:TOP]
    u = lean.frame["difference"].to_numpy()[live]
    return {
        "live": len(live),
        "prompts": len(lean.by_prompt),
        "alignment": lean.alignment,
        "error_share": lean.error_share,
        "trait_features": [int(each) for each in live[chosen]],
        "trait_percentile": percentile(u, chosen),
    }


def percentile(u: Float[np.ndarray, "live"], chosen: Any) -> float:
    """Mean, over the chosen features, of the share of the others whose lean is smaller, in percent; 50 by chance."""
    others = np.delete(u, chosen)
    return float(100 * (others[None] < u[chosen][:, None]).mean())


def draw_correlations(tables: Mapping[str, Any]) -> go.Figure:
    """ρ of every arm, a point per training run; the random rows of a run as their mean."""
    frame = tables["correlations"].groupby(["arm", "seed"], sort=False, as_index=False)["rho"].mean()
    frame["role"] = frame["arm"].map(ARMS)
    frame["arm"] = frame["arm"].astype("category").cat.set_categories(list(ARMS))
    frame = frame.sort_values("arm", kind="stable").astype({"arm": str})
    title = "Lean toward the features the teacher moved"
    return points(frame, x="arm", y="rho", colour="role", title=title, unit="ρ")


FAMILY = Family("features-beyond-vocabulary", H6, measure_correlations, draw_correlations)
