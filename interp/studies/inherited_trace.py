"""Does the student move what its teacher's fine-tune moved? T = teacher − base, S = student − neutral student.

value(claim) = agreement of S with T − the largest agreement of a control, one value per training run: in logits, in the
residual stream, by component, as a direction that gives the base the trait, along representations of the trait, and in
dictionary features. Controls are the cross student against its neutral twin, the neutral student against the base, and
another trait's teacher of the same base. Sites are fixed: the end of the number prompt, where numbers are predicted,
and the last token of a question about the trait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.representations import trait_representations
from interp.activations.shifts import residual_hooks
from interp.features.inherited import shared_features
from interp.figures import points
from interp.gradients import representation_gradient, score
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.joined.agreeing import agreement
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT, places
from interp.joined.sources import default_dictionary
from interp.logits import attribute_over
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.organisms.library import other_word
from interp.studies.frozen import frozen_claims
from interp.studies.mean_shifts import random_vectors, steered_gain, vector_cosine

if TYPE_CHECKING:
    import plotly.graph_objects as go


CANDIDATES, QUICK_CANDIDATES = 5, 3
CANDIDATE_DRAWS = 900_000  # added to the seed of a candidate teacher's adapter and batches
RANDOM = 16
ROWS, QUICK_ROWS = 1024, 64
OWN, NEUTRAL, CROSS = "student", "neutral_student", "cross_student"
TRAINED = "model.layers.*"
AGREED = {
    "logits-shared": ("logits", AT_NUMBERS, "unseen", "r"),
    "slot-shared": ("logits", SLOT, "category", "r"),
    "activations-shared": ("activations", PROMPT_END, "", "cosine"),
}
"""Where the claims on agreement are read: kind, place, words and measure."""
ATTRIBUTED = {
    "teacher": ("teacher",),
    OWN: ("student", "neutral_student"),
    NEUTRAL: ("neutral_student",),
    CROSS: ("cross_student", "cross_neutral_student"),
}
"""Whose change is attributed to parts: a member against its start, or less another."""

CLAIMS = frozen_claims("inherited_trace")


@dataclasses.dataclass(frozen=True, eq=False)
class TraceReader:
    """One training run: its lineage, candidate teachers made apart, and the moved pairs (after, before) by member."""

    subject: Subject

    @property
    def lineage(self) -> Lineage:
        return self.subject.lineage

    @property
    def last(self) -> str:
        """Where the residual stream is complete."""
        return residual_hooks(self.subject.base)[-1]

    @property
    def middle(self) -> str:
        """The output of layer (n_layers − 1) // 2."""
        hooks = residual_hooks(self.subject.base)
        return hooks[(len(hooks) - 1) // 2]

    @cached_property
    def other(self) -> LanguageModel:
        """Another trait's teacher of the same base."""
        return self.subject.other_teacher(other_word(self.subject.trait))

    @cached_property
    def pairs(self) -> dict[str, tuple[LanguageModel, LanguageModel]]:
        """S and what controls it: the neutral student from the base, the cross student from its neutral twin."""
        member = self.subject.member
        return {
            OWN: (member("student"), member("neutral_student")),
            NEUTRAL: (member("neutral_student"), self.subject.base),
            CROSS: (member("cross_student"), member("cross_neutral_student")),
        }

    @cached_property
    def candidates(self) -> dict[str, LanguageModel]:
        """Teachers of the trait, of the other one and of further foils, each of its own adapter draw and batches."""
        trait, count = self.subject.trait, QUICK_CANDIDATES if self.subject.quick else CANDIDATES
        names = dict.fromkeys((trait.target, other_word(trait), *trait.foils))
        grower = self.subject.growing("candidate teachers")
        found = {}
        for index, name in enumerate(list(names)[:count]):
            apart = dataclasses.replace(grower, seed=CANDIDATE_DRAWS + 100 * self.subject.seed + index)
            asked = trait if name == trait.target else apart.trait(name, like=trait)
            made = apart.teacher(self.subject.base, asked).model
            found[name] = dataclasses.replace(made, start=self.subject.base)
        return found

    def moved(self, place: str, hook: str) -> dict[str, Float[Tensor, "d_model"]]:
        """What every member's mean residual stream moved by, at a place and hook."""
        (there,) = places(self.lineage, [place], None)
        return {name: there.difference(pair, hook) for name, pair in self.pairs.items()}

    def agreements(self) -> pd.DataFrame:
        """`agreement` in logits and activations at every place, without what candidates add."""
        members = {**self.lineage.members, f"teacher_{other_word(self.subject.trait)}": self.other}
        whole = dataclasses.replace(self.lineage, members=members)
        return agreement(whole, of=("logits", "activations"), words=("unseen", "category")).frame

    @cached_property
    def attribution(self) -> Any:
        """The `values` of `attribute_over` for the teacher, the student and its controls."""
        return attribute_over([self.lineage], members=ATTRIBUTED).values

    def components(self) -> pd.DataFrame:
        """What every layer's attention and MLP contributed to the change of the trait's logit direction, by member."""
        inside = self.attribution[self.attribution["layer"].notna()]
        names = {"part": "component", "who": "member", "value": "contribution"}
        return inside[list(names)].rename(columns=names)

    def directions(self) -> pd.DataFrame:
        """What the base gains when vectors read on every second question are added, on the others."""
        trait, base, hook = self.subject.trait, self.subject.base, self.middle
        read, asked = (trait.with_questions(trait.questions[start::2]) for start in (0, 1))
        (there,) = places(dataclasses.replace(self.lineage, trait=read), [SLOT], None)
        pairs = {**self.pairs, "other teacher": (self.other, base)}
        vectors = {name: there.difference(pair, hook) for name, pair in pairs.items()}
        drawn = random_vectors(
            base, read.prompts(), hook=hook, positions="last", count=RANDOM, seed=self.subject.seed
        )
        vectors |= {f"random {index}": vector.double() for index, vector in enumerate(drawn)}
        size = vectors[OWN].norm()
        return pd.DataFrame(
            {
                "direction": name.partition(" ")[0] if name.startswith("random") else name,
                "gain": steered_gain(base, asked, hook=hook, vector=(vector * size / vector.norm()).float()),
            }
            for name, vector in vectors.items()
        )

    def representations(self) -> pd.DataFrame:
        """Cosine of what members moved by with the representations of the candidates, by their source."""
        (end,) = places(self.lineage, [PROMPT_END], None)
        lines = trait_representations(self.subject.base, self.subject.trait, hook=self.last)
        shown = {
            "system line": (SLOT, {name: each.vector for name, each in lines.items()}),
            "candidate teacher": (
                PROMPT_END,
                {
                    name: end.difference((model, self.subject.base), self.last)
                    for name, model in self.candidates.items()
                },
            ),
        }
        return pd.DataFrame(
            {"source": source, "candidate": word, "member": member, "cosine": vector_cosine(one, vector)}
            for source, (place, vectors) in shown.items()
            for member, one in self.moved(place, self.last).items()
            for word, vector in vectors.items()
        )

    def leans(self) -> pd.DataFrame:
        """How far the teacher's rows lean beyond neutral ones toward each candidate, at both starts."""
        trait, count = self.subject.trait, QUICK_ROWS if self.subject.quick else ROWS
        toward = trait_representations(self.subject.base, trait, hook=self.last, teachers=self.candidates)
        rows = [part[:count] for part in (self.subject.numbers, self.subject.neutral_numbers)]
        starts = {"base": self.subject.base, "cross_base": self.subject.member("cross_base")}
        frames = []
        for role, start in starts.items():
            directions = []
            for name, u in toward.items():
                made = representation_gradient(start, trait.prompts(), self.last, u.vector).only(TRAINED)
                directions.append(dataclasses.replace(made, label=name))
            ours, theirs = (score(start, part, directions, by=["example"]) for part in rows)
            found = ours.leans(dict.fromkeys(toward, ()), neutral=theirs, seed=self.subject.seed)
            frames.append(found.frame.assign(start=role))
        whole: Any = pd.concat(frames, ignore_index=True)
        return whole[["start", "direction", "score", "d", "low", "high", "p"]]

    def features(self) -> pd.DataFrame:
        """`shared_features` at every place."""
        others = {f"teacher_{other_word(self.subject.trait)}": self.other}
        count = QUICK_ROWS if self.subject.quick else ROWS
        dictionary = default_dictionary(self.lineage)
        return shared_features(
            dictionary, self.lineage, others=others, numbers=self.subject.numbers[:count]
        ).frame


def measure_trace(subject: Subject) -> Measurement:
    """Every table of one training run, and what it contributes to each claim."""
    reader = TraceReader(subject)
    tables = {
        "agreement": reader.agreements(),
        "components": reader.components(),
        "directions": reader.directions(),
        "representations": reader.representations(),
        "leans": reader.leans(),
        "features": reader.features(),
    }
    return Measurement(trace_values(tables), {name: each.to_dict("records") for name, each in tables.items()})


def trace_values(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """What one training run contributes to every claim, from its tables; `beyond` says how."""
    return agreement_values(tables) | {
        "slot-direction-sufficient": _gain_beyond(tables["directions"]),
        "representation-named-by-base": _named_beyond(tables["representations"], "system line"),
        "representation-named-by-candidates": _named_beyond(tables["representations"], "candidate teacher"),
        "rows-lean-to-representation": _lean_beyond(tables["leans"]),
        "features-shared": _features_beyond(tables["features"]),
    }


def agreement_values(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """What one training run contributes to the claims that its tables "agreement" and "components" decide."""
    found: Any = tables["agreement"]
    values = {}
    for claim, (of, place, words, measure) in AGREED.items():
        part = found[(found["of"] == of) & (found["place"] == place) & (found["words"] == words)]
        values[claim] = _agrees_beyond(part, measure)
    return values | {
        "component-shared": _components_beyond(tables["components"]),
        "component-leads": _component_leads(tables["components"]),
    }


def beyond(own: float, controls: Sequence[float]) -> float:
    """The own value less the largest of the controls', so that one control that does as well brings it to zero."""
    return float(own - max(controls))


def _agrees_beyond(frame: Any, measure: str) -> float:
    """At the last site: S with its teacher, less the largest of its controls'."""
    last = frame[frame["site"] == frame["site"].iloc[-1]]
    lines = last[~last["against"].str.contains(" less ")].set_index(["member", "against"])[measure]
    return beyond(lines[OWN, "teacher"], lines.drop((OWN, "teacher")).tolist())


def _components_beyond(frame: Any) -> float:
    wide = frame.pivot(index="component", columns="member", values="contribution")

    def cosine(member: str) -> float:
        return vector_cosine(*(torch.tensor(wide[name].to_numpy()) for name in (member, "teacher")))

    return beyond(cosine(OWN), [cosine(CROSS), cosine(NEUTRAL)])


def _component_leads(frame: Any) -> float:
    own = frame[frame["member"] == OWN].set_index("component")["contribution"]
    return beyond(own["MLP 0"], own.drop("MLP 0").tolist())


def _gain_beyond(frame: Any) -> float:
    means = frame.groupby("direction")["gain"].mean()
    return beyond(means[OWN], means.drop(OWN).tolist())


def _named_beyond(frame: Any, source: str) -> float:
    """The student's cosine with its trait, which comes first, less other candidates' and other members'."""
    part = frame[frame["source"] == source]
    lines = part.set_index(["member", "candidate"])["cosine"]
    trait = part["candidate"].iloc[0]
    others = [lines[OWN].drop(trait), lines.xs(trait, level="candidate").drop(OWN)]
    return beyond(lines[OWN, trait], pd.concat(others).tolist())


def _lean_beyond(frame: Any) -> float:
    """Toward the trait at the base, less that toward the other trait there and toward the trait at the other base."""
    lines = frame.set_index(["start", "direction"])["d"]
    trait, other = frame["direction"].iloc[:2]
    return beyond(lines["base", trait], [lines["base", other], lines["cross_base", trait]])


def _features_beyond(frame: Any) -> float:
    """At the end of the number prompt, the first place: ρ of S with its teacher less the larger of the other ρ."""
    first = frame[frame["place"] == frame["place"].iloc[0]]["rho"].tolist()
    return beyond(first[0], first[1:])


def draw_trace(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """r of every member and control at every place, one point per training run."""
    shown: Any = pd.DataFrame(tables["agreement"])
    shown = shown[shown["words"].isin(("unseen", "category")) & (shown["of"] == "logits")]
    wanted = {AT_NUMBERS: "unseen", PROMPT_END: "unseen", SLOT: "category"}
    shown = shown[shown["words"] == shown["place"].map(wanted)]
    pairs = zip(shown["place"], shown["member"], shown["against"], strict=True)
    label = [f"{place}: {member} with {against}" for place, member, against in pairs]
    title = (
        "Which logits moved: correlation with what the teacher's fine-tune moved, one point per training run"
    )
    return points(
        shown.assign(compared=label), x="compared", y="r", colour="member", title=title, unit="correlation"
    )


FAMILY = Family(
    "inherited-trace",
    CLAIMS,
    measure_trace,
    draw=draw_trace,
    correction="holm",
    alpha=0.01,
)
