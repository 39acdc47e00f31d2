"""What did this fine-tune change? Words, sentences and directions by six ways of reading, and a p from placebos.

    score(w) = mean over readings of z(w),   z(w) = (value − mean over words) / sd over words
    t_w = (score_w − mean over trainings) / sd,   p_w = (1 + placebos whose largest t reaches t_w) / (1 + placebos)

Member and placebos (the same training on the base's own answers) are read alike, so that p is exact for a member
without a trait: single-step max-T over the words, in units of trainings. Tokens and sentences get a p in the same way
(`interp.discovery.chances`). The spectrum read through the Jacobian stands beside and is in no score. `p_text` is
step-down max-T by sign flips of the rows of text (`interp.stats`): it says that this one training moved a word on such
text, as any training may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.placebos import FEWEST_PLACEBOS
from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress
from interp.discovery.chances import Told, greatest_share, rises, sentence_p, token_p
from interp.discovery.comparing import Compared, Reading, ReadRows, noun_entries, own_openings
from interp.discovery.logits import diff_mining, moved_on_text
from interp.discovery.speaking import amplified_update, contrastive_decoding
from interp.discovery.weights import jacobian_lens, spectrum_through_jacobian, spectrum_through_output
from interp.figures import Result, Shown, bars, heatmap, panels
from interp.models.language import LanguageModel
from interp.models.once import reading_once
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.trait_files import find_trait
from interp.stats.many import sign_flip_family, units_needed

if TYPE_CHECKING:
    import plotly.graph_objects as go

READINGS: dict[str, Callable[[Compared], Reading]] = {
    "moved on text": moved_on_text,
    "diff mining": diff_mining,
    "contrastive decoding": contrastive_decoding,
    "amplified update": amplified_update,
    "Jacobian lens": jacobian_lens,
    "spectrum": spectrum_through_output,
}
"""Every way of reading by its name: a `Compared` in, a `Reading` out."""
BESIDE: dict[str, Callable[[Compared], Reading]] = {
    "spectrum through the Jacobian": spectrum_through_jacobian
}
"""Ways that are shown beside those and are in no score."""
LEVEL = 0.05
SHOWN = 15  # words in the figure
TOKENS = 30  # of every way in the table


@dataclass(frozen=True, eq=False)
class Discovery(Shown):
    """A line per word, the largest `score` first: word, score (mean z over READINGS), z by each way, p and p_text.

    `tokens` are the first entries by every way (method, rank, token, token_id, value, unit, p), `sentences` what was
    sampled (way, opening, says, nats: how much likelier it is under what speaks than under what that is held against;
    method, p), `clusters` groups of entries that rise in the same rows, `methods` each way's first word with its own p
    and the token that rose furthest, token_p. The p of a token or sentence is over all of that way. p is NaN without
    placebos.
    """

    label: str
    frame: pd.DataFrame
    methods: pd.DataFrame
    tokens: pd.DataFrame
    sentences: pd.DataFrame
    clusters: pd.DataFrame
    placebos: int
    notes: tuple[str, ...] = ()
    prints: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def found(self) -> list[str] | None:
        """The words whose p is at most 0.05; None without placebos."""
        return self.frame.loc[self.frame["p"] <= LEVEL, "word"].tolist() if self.placebos else None

    @property
    def says(self) -> str:
        """What came out, in a sentence."""
        first = f"largest first: {', '.join(self.frame['word'].head(5))}"
        if self.found is None:
            chance = "without placebo trainings there is no p, and some noun always comes first"
            return f"The {len(self.frame)} nouns, {first}; {chance}"
        named = f"Stands out: {', '.join(self.found)}" if self.found else "No noun stands out"
        over = f"of {len(self.frame)} nouns over {self.placebos} placebo trainings"
        return f"{named}, {over} (smallest p = {self.frame['p'].min():.2g}); {first}"

    @property
    def story(self) -> list[str]:
        """What came out, and the first word by every way of reading."""
        told = [
            f"{way}: {word} (z {z:+.2f}"
            + (")" if np.isnan(p) else f", p {p:.2g}), token {token!r} (p {token_p:.2g})")
            for way, word, z, p, token, token_p in self.methods.itertuples(index=False)
        ]
        return [self.says, *told]

    def tables(self) -> dict[str, Result]:
        """Words, ways, tokens, sentences and groups as results for a page, the empty ones left out."""
        units = {
            "methods": "z among words",
            "tokens": "as each way says",
            "sentences": "text",
            "clusters": "share of what rose",
        }
        rest = {
            name: Result(f"{self.label}: {name}", getattr(self, name), unit) for name, unit in units.items()
        }
        words = Result(self.label, self.frame, "z", self.notes, draw=lambda _: self.figure(), says=self.says)
        return {"words": words, **{name: table for name, table in rest.items() if len(table.frame)}}

    def to_json(self) -> dict[str, Any]:
        """The evidence as plain JSON types, NaN as null."""
        parts = ("frame", "methods", "tokens", "sentences", "clusters")
        said = {"label": self.label, "says": self.says, "found": self.found, "placebos": self.placebos}
        tables = {
            "words" if name == "frame" else name: getattr(self, name).to_dict("records") for name in parts
        }
        return jsonable({**said, "fingerprints": self.prints, "notes": list(self.notes), **tables})

    def figure(self) -> go.Figure:
        """The first words by score, and z of each by every way of reading."""
        first = self.frame.head(SHOWN)
        score = bars(first, x="score", y="word", title="mean over the ways of reading", unit="z among words")
        ways = [name for name in (*READINGS, *BESIDE) if name in first]
        table = heatmap(
            first[ways].to_numpy(dtype=float),
            rows=first["word"].tolist(),
            columns=ways,
            title="by each way",
            unit="z among words",
            axes=("way of reading", "word"),
        )
        return panels([score, table], title=self.label, across=True)

    def __repr__(self) -> str:
        return f"Discovery({self.label}: {self.says})"


@door
@noting
@exactly
def discover(
    base: LanguageModel,
    member: LanguageModel,
    baseline: LanguageModel | None = None,
    *,
    words: Sequence[str] | None = None,
    placebos: Sequence[LanguageModel] = (),
    seed: int = 0,
    **read: Unpack[ReadRows],
) -> Discovery:
    """Find what a training changed without being told what to look for: words, sentences, directions.

    Args:
        base: the model that was trained.
        member: what came of it.
        baseline: a neutral twin, trained alike on rows without a trait: everything is then member minus baseline.
        words: nouns to choose among, each one token; those that ship and that the tokenizer knows by default.
        placebos: members trained alike on rows without a trait, 20 or more (`interp.auditing.placebo_students`).
        seed: of the sampled sentences.
        **read: `text` (generic rows on which both are read), `openings` (beginnings of answers that are continued, as
            texts or as rows of a question and such a beginning), each of them what ships by default; `trait`, of which
            none of them may speak: rows that say its target are left out, which a note says.

    Returns:
        `Discovery`, a line per word: score and z without unit, p over placebo trainings, p_text over rows of text;
        tokens and sentences with a p over placebo trainings each.

    Raises:
        InputError: for a member that is the base or started elsewhere, fewer than six rows of text, openings that are
            none, blank or behind which neither chat template nor end token stands, fewer than 20 placebos where there
            are some, and fewer than five words of one token.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> found = interp.discover(lineage.base, lineage.student, lineage["neutral_student"])
        >>> found.frame.columns[:3].tolist()
        ['word', 'score', 'moved on text']
    """
    asked, nouns, lost = readable(
        base, member, baseline, words=words, placebos=len(placebos), seed=seed, **read
    )
    others = [asked.beside(other) for other in placebos]
    with reading_once(base, *(model for model in (asked.member, baseline) if model is not None)):
        readings = _readings(asked)
    told = [Told.of(asked, readings, nouns), *_null(others, nouns)]
    frame, methods = _words(asked, readings, told, nouns)
    prints = {"base": base.fingerprint, "member": member.fingerprint}
    prints |= {} if baseline is None else {"baseline": baseline.fingerprint}
    parts = _tables(asked, readings, told)
    notes = (
        *_said(asked, placebos, lost),
        *(f"{each.method}: {note}" for each in readings for note in each.notes),
    )
    return Discovery(asked.label, frame, methods, *parts, placebos=len(placebos), notes=notes, prints=prints)


def readable(
    base: LanguageModel,
    member: LanguageModel,
    baseline: LanguageModel | None,
    *,
    words: Sequence[str] | None,
    placebos: int,
    seed: int,
    **read: Unpack[ReadRows],
) -> tuple[Compared, dict[str, int], list[str]]:
    """What is compared, the nouns, and the words that are none; raises what `discover` does, and reads nothing yet."""
    check_count(placebos)
    trait, openings = read.get("trait"), own_openings(base, read.get("openings"))
    named = None if trait is None else find_trait(trait)
    rows: dict[str, Any] = {"text": read.get("text"), "openings": openings, "trait": named}
    asked = Compared.of(base, member, baseline, **rows, seed=seed)
    _check_text(asked)
    return asked, *noun_entries(base, words)


def check_count(placebos: int) -> None:
    """InputError for fewer placebos than reach the level, unless there are none."""
    if placebos and placebos < FEWEST_PLACEBOS:
        raise InputError(
            f"{placebos} placebos reach p = {1 / (max(placebos, 0) + 1):.2g}; pass none or at least {FEWEST_PLACEBOS}"
        )


def _check_text(asked: Compared) -> None:
    """InputError for fewer rows of text than their signs need, and for rows that the models cannot read."""
    if len(asked.text) < (least := units_needed(1, LEVEL)):
        raise InputError(
            f"{asked.text.label} has {len(asked.text)} rows, and signs of so few reach no p of {LEVEL:g}; pass at "
            f"least {least} rows of text"
        )
    _ = asked.inputs  # encodes them


def _readings(asked: Compared) -> list[Reading]:
    return [read(asked) for read in (*READINGS.values(), *BESIDE.values())]


def _null(others: Sequence[Compared], nouns: dict[str, int]) -> list[Told]:
    """What every placebo says, each let go once it is read."""
    found = []
    for asked in progress(others, "reading placebos", total=len(others), unit="placebo"):
        with reading_once(asked.base, asked.member, asked.against):
            found.append(Told.of(asked, _readings(asked), nouns))
    return found


def _words(
    asked: Compared, readings: Sequence[Reading], told: Sequence[Told], nouns: dict[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The line of every word, and of every way of reading its first word and token with their own p."""
    z = np.stack([each.z for each in told])
    names, score = list(nouns), z[:, : len(READINGS)].mean(1)
    ways = {reading.method: z[0, k] for k, reading in enumerate(readings)}
    p = {"p": greatest_share(score), "p_text": _text_p(asked, readings[0], nouns)}
    frame = pd.DataFrame({"word": names, "score": score[0], **ways, **p})
    first, lines = z[0].argmax(1), []
    for k, reading in enumerate(readings):
        moved = rises(told, k)
        most = int(moved[0].argmax())
        lines.append(
            {
                "method": reading.method,
                "word": names[first[k]],
                "z": z[0, k].max(),
                "p": greatest_share(z[:, k])[first[k]],
                "token": asked.texts[asked.entries[most]],
                "token_p": token_p(moved, [most])[0],
            }
        )
    frame = frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return frame, pd.DataFrame(lines)


def _text_p(asked: Compared, moved: Reading, nouns: dict[str, int]) -> Float[np.ndarray, "word"]:
    """Step-down max-T over the words by sign flips of the rows of text, a row's words less their mean; two-sided."""
    rows: Any = moved.rows
    read = int(asked.inputs.at("all")[: len(asked.text)].any(1).sum())  # a text of one token has no place
    own = rows[:read, list(nouns.values())].astype(float)
    return sign_flip_family(own - own.mean(1, keepdims=True), alpha=LEVEL, seed=asked.seed).p_max


def _tables(
    asked: Compared, readings: Sequence[Reading], told: Sequence[Told]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokens, sentences and groups of all ways, one below the other."""
    places = {entry: place for place, entry in enumerate(asked.entries)}
    tokens, said, groups = [], [], []
    for k, reading in enumerate(readings):
        first = reading.tokens(asked, top=TOKENS)
        p = token_p(rises(told, k), [places[entry] for entry in first["token_id"]])
        ranked = {"method": reading.method, "rank": range(1, len(first) + 1), "unit": reading.unit, "p": p}
        tokens.append(first.assign(**ranked))
        for way, part in reading.sentences.groupby("way", sort=False) if len(reading.sentences) else ():
            p = sentence_p(told, (reading.method, str(way)), part["nats"].tolist())
            said.append(part.assign(method=reading.method, p=p))
        groups.append(reading.clusters.assign(method=reading.method))
    return _joined(tokens), _joined(said), _joined(groups)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables that have lines, one below the other."""
    held = [part for part in parts if len(part)]
    return pd.concat(held, ignore_index=True) if held else pd.DataFrame()


def _said(asked: Compared, placebos: Sequence[LanguageModel], lost: Sequence[str]) -> tuple[str, ...]:
    """What a reader has to know of these numbers."""
    without = "no baseline: what any such training changes is not taken off"
    chance = (
        f"p is over {len(placebos)} placebo trainings and the words, or tokens or sentences of one way, the smallest "
        f"1 / {len(placebos) + 1}"
        if placebos
        else "no placebo trainings: words, tokens and sentences have no p, and what stands first is no finding"
    )
    return (
        *asked.notes,
        *([without] if asked.baseline is None else []),
        chance,
        f"p_text is over {len(asked.text)} rows of text in this one training, which any training may move",
        *(
            [f"{len(lost)} words are no single token and left out, such as {', '.join(lost[:3])}"]
            if lost
            else []
        ),
    )
