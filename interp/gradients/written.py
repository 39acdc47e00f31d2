"""The backward lens: what one step of gradient descent on rows writes and reads, layer by layer, in tokens.

The step of a matrix is ΔW = −(1/n) Σ_t δ_t x_tᵀ = Σ_k σ_k u_k v_kᵀ (Katz, Belinkov, Geva and Wolf, arXiv 2402.12865,
read the δ and x of single prompts; over a data set their sum is read by its singular vectors). A matrix that writes to
the stream writes u_k, read as logits through the final norm's weight, its scale held fixed: W_Uᵀ (γ ∘ u_k). One that
reads the stream reads v_k, read as cosines with the embeddings, the mean one taken out. How much it does is no lens: by
linearity of the derivative, exactly,

    d/dη z(θ + η ΔW) at η = 0  =  Σ_layers d/dη z(θ + η ΔW_layer),    z the mean logits at the questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress
from interp.figures import Shown, bars, captioned
from interp.gradients.directions import trait_gradient
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.forward_mode import derivative_along
from interp.gradients.scores.preparation import prepared, still_network
from interp.gradients.scores.steps import GradientStep, gradient_step
from interp.measures.losses import predicted_logits
from interp.models import low_rank
from interp.models.decomposition import Decomposition, Side, decompose, layer_of, stream_side
from interp.models.low_rank import Entry, LowRank
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.vocabulary import token_texts
from interp.prompts.notes import noting
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel
    from interp.models.seam import Unembedding
    from interp.prompts.text import Prompts

WORDS = 5
PIECE = 2**22  # numbers of the embedding centred at once
SHOWN = 20  # bars in a figure
TINY = torch.finfo(torch.float64).tiny
UNIT = "logits per unit step"


@dataclass(frozen=True, eq=False, repr=False)
class BackwardLens(Shown):
    """What the step on some rows writes, reads and does; a unit step is −∇ of the mean loss of a row, in nats.

    `frame`, a line per module and singular direction: module, layer, norm (of the module's step), side ("writes",
    "reads" or None), direction (1 is the largest), share (of the step's energy), toward and away (the tokens at either
    end of it, its sign such that the mean of what is written lies along it). With questions also moved (root mean
    square over the vocabulary of the change of logits there, its mean taken out) and the tokens that rose and fell
    most; with a trait also margin, in nats. `step` is the step itself, a direction in effective weights; `effects`
    [module, vocab] are changes of the mean logits at the questions, `whole` [vocab] that of all modules at once.
    """

    label: str
    frame: pd.DataFrame
    step: ParameterDirection = field(repr=False)
    effects: Float[Tensor, "module vocab"] | None = field(repr=False, default=None)
    whole: Float[Tensor, "vocab"] | None = field(repr=False, default=None)
    notes: tuple[str, ...] = ()
    unit: str = UNIT

    @property
    def residual(self) -> float:
        """The largest part of the whole effect that the modules' effects leave, over its largest entry.

        NaN without questions.
        """
        if self.effects is None or self.whole is None:
            return float("nan")
        left = self.effects.double().sum(0) - self.whole.double()
        return float(left.abs().max() / self.whole.double().abs().max())

    @property
    def shown(self) -> pd.DataFrame:
        """The largest of what is known of every module first: margin, effect on logits or norm."""
        return self.frame.sort_values(self._ranked, key=abs, ascending=False, kind="stable")

    @property
    def _ranked(self) -> str:
        return next(name for name in ("margin", "moved", "norm") if name in self.frame)

    def figure(self) -> go.Figure:
        """A bar per module: its part of the margin, else its effect on logits, else the norm of its step."""
        units = {"margin": "nats per unit step", "moved": UNIT, "norm": "norm of the unit step"}
        column = self._ranked
        first = self.shown.loc[self.shown["direction"] == 1].head(SHOWN)
        drawn = bars(first, x=column, y="module", title=self.label, unit=units[column])
        return captioned(drawn, self._said)

    def __repr__(self) -> str:
        return f"BackwardLens({self.label}: {self._said})"

    @property
    def _said(self) -> str:
        modules = self.frame["module"].nunique()
        said = [f"{modules} modules", f"step of norm {self.step.norm():.3g}"]
        if self.effects is not None:
            said.append(f"modules leave {self.residual:.0e} of the effect on logits")
        return ", ".join(said)


@door
@noting
@exactly
def backward_lens(
    model: LanguageModel,
    rows: Prompts | Encoded,
    trait: AnyTrait | None = None,
    *,
    questions: Prompts | Encoded | None = None,
    top: int = 1,
    batch_size: int = 64,
) -> BackwardLens:
    """Read what one gradient step on rows writes and reads, in tokens, and what every layer's part does to the logits.

    The step goes to the linear layers of the body (not embeddings, norms and unembedding), with their biases, or to the
    live adapters where the model has some: then a layer's step is s (ΔB A + B ΔA). It costs one forward and backward
    pass over the rows, and one forward pass with tangents over the questions for every module. The gradients of all
    matrices are held at once; of logits no more than a few rows' at a time.

    Args:
        model: where the step is taken.
        rows: rows with answers, or their tokens.
        trait: whose margin every module's part is told of; its questions are asked where `questions` are not given.
        questions: where effects on logits are read, at the last token; without them and a trait there are none.
        top: singular directions read of every module.
        batch_size: rows per pass.

    Returns:
        `BackwardLens`. A unit step is −∇ of the mean over rows of −Σ log p(answer and end tokens), in nats: a training
        whose loss is a mean per token takes steps in proportion.

    Raises:
        InputError: for `top` below 1, rows without answers, a loss that is not finite, dropout left on, quantised
            weights, adapters other than plain LoRA, and where `trait_gradient` does.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> lens = interp.gradients.backward_lens(lineage.base, lineage.numbers[:8], "owl")
        >>> lens.residual < 1e-4
        True
    """
    if top < 1:
        raise InputError(f"top {top} leaves no direction; give at least 1")
    step = gradient_step(model, model.encode(rows), batch_size=batch_size)
    modules = by_module(step.direction)
    reader = TokenReader.of(model)
    frame = pd.DataFrame([line for name in modules for line in _lines(step, name, reader, top)])
    found = BackwardLens(
        f"{step.direction.label} at {model.name}", frame.astype({"layer": "Int64"}), step.direction
    )
    if trait is not None:
        trait = find_trait(trait)
        found = replace(found, frame=_with_margin(found.frame, model, trait, modules, batch_size))
        questions = trait.prompts() if questions is None else questions
    if questions is None:
        return found
    asked = model.encode(questions)
    effects, whole = effects_on_logits(model, asked, modules, step.direction, batch_size=batch_size)
    frame = found.frame.merge(_moved(list(modules), effects, reader), on="module", how="left")
    note = f"effects on the mean logits at the last token of {len(asked)} rows of {asked.label}"
    return replace(found, frame=frame, effects=effects, whole=whole, notes=(note,))


def by_module(step: ParameterDirection) -> dict[str, ParameterDirection]:
    """The part of every module, weight and bias together, in the order of the step."""
    names = dict.fromkeys(name.rpartition(".")[0] for name in step.tensors)
    return {
        module: replace(
            step,
            tensors={name: each for name, each in step.tensors.items() if name.rpartition(".")[0] == module},
            label=f"{step.label} at {module}",
        )
        for module in names
    }


@torch.no_grad()
def effects_on_logits(
    model: LanguageModel,
    asked: Encoded,
    modules: Mapping[str, ParameterDirection],
    step: ParameterDirection,
    *,
    batch_size: int = 64,
) -> tuple[Float[Tensor, "module vocab"], Float[Tensor, "vocab"]]:
    """d/dη of the mean logits at the last token of the rows asked, along every module's part and along the whole step.

    Raises InputError for rows without a prompt.
    """
    if not len(asked) or not asked.at("last").any(1).all():
        raise InputError(
            f"a row of {asked.label} has no prompt to ask; pass questions with at least one token each"
        )
    parts = list(modules.values())
    network = prepared(model, [step])
    derivatives = partial(_derivatives, network, asked, batch_size=batch_size)
    return torch.stack(list(derivatives(parts))), next(derivatives([step]))


def _derivatives(
    network: Any, asked: Encoded, directions: Sequence[ParameterDirection], *, batch_size: int
) -> Iterator[Float[Tensor, "vocab"]]:
    sites = find_sites(network, directions)
    for k in progress(range(len(directions)), "effects on logits", total=len(directions), unit="module"):
        found = [
            derivative_along(_last_logits, network, batch, sites, k)[1] for batch in asked.batches(batch_size)
        ]
        yield sum(found[1:], found[0]).cpu() / len(asked)


def _last_logits(network: Any, batch: Encoded) -> Float[Tensor, "vocab"]:
    """Logits after the last token of every row, added up."""
    return predicted_logits(network, batch, batch.at("last")).sum(0)


def _with_margin(
    frame: pd.DataFrame,
    model: LanguageModel,
    trait: Any,
    modules: Mapping[str, ParameterDirection],
    batch_size: int,
) -> pd.DataFrame:
    """The frame with what every module's part adds to the trait's margin."""
    gradient = trait_gradient(model, trait, batch_size=batch_size)
    gains = {name: gradient.dot(part) for name, part in modules.items()}
    return frame.assign(margin=[gains[name] for name in frame["module"]])


@dataclass(frozen=True, eq=False)
class TokenReader:
    """Scores of the vocabulary along a vector of the residual stream, as one writes it and as one reads it."""

    texts: list[str]
    unembedding: Unembedding
    embeddings: Float[Tensor, "token d_model"]

    @classmethod
    def of(cls, model: LanguageModel) -> TokenReader:
        """That of a model's own embedding, final norm and unembedding."""
        embeddings = still_network(model, merge=True).get_input_embeddings().weight.detach()
        unembedding = model.unembedding()
        return cls(
            token_texts(model, max(len(embeddings), unembedding.W_U.shape[1])), unembedding, embeddings
        )

    def ends(self, vector: Float[Tensor, "d_model"], side: Side) -> tuple[str, str]:
        """The tokens at either end, the furthest first, each with its score."""
        scores = self.written(vector) if side == "writes" else self.read(vector)
        return self.words(scores), self.words(-scores, sign=-1.0)

    def written(self, vector: Float[Tensor, "d_model"]) -> Float[Tensor, "token"]:
        """<W_U e_j, γ ∘ u> less its mean over tokens: logits per unit of the stream at the final norm's scale."""
        seen = self.unembedding.centred(vector.to(self.unembedding.weight)) * self.unembedding.weight
        logits = seen.detach() @ self.unembedding.W_U.detach()
        return logits - logits.mean()

    def read(self, vector: Float[Tensor, "d_model"]) -> Float[Tensor, "token"]:
        """Cosines with the embeddings, the mean embedding taken out."""
        unit = torch.nn.functional.normalize(vector, dim=0).to(self.embeddings)
        mean = self.embeddings.mean(0)
        parts = []
        for block in self.embeddings.split(max(1, PIECE // len(unit))):
            centred = self.unembedding.centred(block - mean)
            parts.append(torch.nn.functional.normalize(centred, dim=1) @ unit)
        return torch.cat(parts)

    def words(self, scores: Float[Tensor, "token"], *, sign: float = 1.0) -> str:
        """The tokens of the largest scores."""
        best = scores.topk(min(WORDS, len(scores)))
        pairs = zip(best.indices.tolist(), (sign * best.values).tolist(), strict=True)
        return ", ".join(f"{self.texts[index]!r} {value:+.2g}" for index, value in pairs)


def leading(change: Entry, top: int) -> tuple[Decomposition, float]:
    """The `top` largest singular directions of a change in fp64, and Σ σ² of all.

    By these eigenvectors alone of the smaller of Δ Δᵀ and Δᵀ Δ, a fraction of the cost of all; of factors by theirs.
    """
    if isinstance(change, LowRank) or not change.any():
        parts = decompose(change)
        first = Decomposition(parts.values[:top], parts.left[:, :top], parts.right[:, :top])
        return first, max(float(parts.values.square().sum()), TINY)
    from scipy.linalg import eigh

    delta = change.double()
    wide = delta.shape[0] <= delta.shape[1]
    narrow = delta if wide else delta.T
    size = len(narrow)
    found: Any = eigh((narrow @ narrow.T).numpy(), subset_by_index=[max(0, size - top), size - 1])
    vectors = torch.from_numpy(found[1]).flip(1)
    others = narrow.T @ vectors
    values = others.norm(dim=0)
    others = others / values.clamp_min(TINY)
    left, right = (vectors, others) if wide else (others, vectors)
    return Decomposition(values, left, right), float(delta.square().sum())


def _lines(step: GradientStep, name: str, reader: TokenReader, top: int) -> Iterator[dict[str, Any]]:
    """A line per singular direction of a module's weight."""
    weight = step.direction.tensors[f"{name}.weight"]
    parts, energy = leading(low_rank.on_cpu(weight), top)
    if name in step.transposed:
        parts = replace(parts, left=parts.right, right=parts.left)
    side = stream_side(name, parts, len(reader.unembedding.weight))
    written = step.written[name].to(parts.left)
    for index in range(max(1, parts.directions(top))):
        sign = -1.0 if parts.left[:, index] @ written < 0 else 1.0
        vector = sign * (parts.left if side == "writes" else parts.right)[:, index]
        toward, away = ("", "") if side is None else reader.ends(vector, side)
        yield {
            "module": name,
            "layer": layer_of(name),
            "norm": low_rank.norm(weight),
            "side": side,
            "direction": index + 1,
            "share": float(parts.values[index].square() / energy),
            "toward": toward,
            "away": away,
        }


def _moved(names: Sequence[str], effects: Float[Tensor, "module vocab"], reader: TokenReader) -> pd.DataFrame:
    """How far every module moves the logits, and which tokens most."""
    centred = effects - effects.mean(1, keepdim=True)
    return pd.DataFrame(
        {
            "module": list(names),
            "moved": centred.square().mean(1).sqrt().tolist(),
            "rose": [reader.words(each) for each in centred],
            "fell": [reader.words(-each, sign=-1.0) for each in centred],
        }
    )
