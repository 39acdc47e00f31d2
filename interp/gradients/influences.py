"""Influence of training rows on a trait's answer as published: EK-FAC and TrackStar, computed by bergson (EleutherAI).

    τ_i = <P ∇ℓ_q, P ∇ℓ_i>,  ℓ_q the mean over the trait's questions of −log p(its word), ℓ_i the summed loss of row i

Gradients are of the linear layers below the unembedding, without biases, at the base. "ekfac" (Grosse and others,
arXiv 2308.03296): PᵀP inverts the Gauss-Newton matrix in its Kronecker-factored eigenbasis, labels drawn from the base,
damped by a tenth of the mean eigenvalue. "trackstar" (Chang and others, arXiv 2410.17413): projected gradients,
whitened by their second moments over the rows and scaled to length 1, each question's too. Two parts of it are left
out: a base has no optimiser's state to divide by, and a few questions make no matrix of their own. "dot": P = 1.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.core.progress import working
from interp.figures import Result
from interp.measures.words import spelling, trait_candidates
from interp.models.members import write_member
from interp.models.precision import exactly
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.prompts.tokens import Encoded

UNITS = {
    "ekfac": "nats of the answer's loss, up to one factor",
    "trackstar": "cosine of whitened gradients",
    "dot": "product of gradients, squared nats per squared weight",
}
"""Ways of scoring, and what their scores are in."""
TOKENS = 2048  # of a batch, where the context is as long
ABSENT = (
    "{} scores are computed by bergson, which is not installed{}; run pip install -e '.[bergson]' in the clone, or as "
    "docs/methods.md says beside a torch without CUDA"
)


@door
@exactly
def influence(
    base: LanguageModel, rows: Prompts, trait: AnyTrait, *, method: str = "ekfac", seed: int = 0
) -> Result:
    """Score rows by their influence on the loss of the trait's word, by bergson's own pipelines.

    Columns: row, score (positive where training on the row lowers that loss, 0 for a row without an answer, which
    enters no matrix), tokens. The word is written as the base answers. Needs `pip install -e '.[bergson]'`.

    Args:
        base: where gradients are taken, adapters merged in.
        rows: what a student is trained on.
        trait: its questions, answered by its target, are the query.
        method: "ekfac", "trackstar", or "dot", the plain product of gradients.
        seed: of the labels that "ekfac" draws.

    Returns:
        `Result`: one line per row.

    Raises:
        InputError: where bergson is not installed, for an unknown method, rows without answers or that the base cannot
            read, a trait whose word it cannot write, and scores that are not finite.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> found = interp.gradients.influence(lineage.base, lineage.numbers, "owl")  # doctest: +SKIP
    """
    if method not in UNITS:
        raise InputError(f"Method {nearest(method, UNITS)}; pass one of {', '.join(UNITS)}.")
    given, query = base.encode(rows), _query(base, find_trait(trait))
    answered = given.at("answer+end").any(1)
    if not answered.any():
        raise InputError(
            f"no row of {given.label} holds an answer, so that none has a gradient; give completions"
        )
    with tempfile.TemporaryDirectory(prefix="interp-influence-") as name, working(f"{method} scores"):
        folder = Path(name)
        _import_quietly(method)
        write_member(base, folder / "model", hosts={})
        _write_rows(given[answered], "answer+end", folder / "rows")
        _write_rows(query, "answer", folder / "query")
        scores = np.zeros(len(given))  # a row without an answer trains nothing
        with _unheard(seed):
            scores[answered.numpy()] = _scored(method, folder, _batch_size(base, given, query))
    if not np.isfinite(scores).all():
        row = int((~np.isfinite(scores)).argmax())
        raise InputError(
            f"{base.name} scores row {row + 1} with {scores[row]} by {method}; check its weights for overflow"
        )
    tokens = given.at("answer+end").sum(1).numpy()
    frame = pd.DataFrame({"row": range(len(scores)), "score": scores, "tokens": tokens})
    note = f"query: {len(query)} questions; linear layers below the unembedding alone"
    return Result(
        f"{base.name}: {method} scores of {given.label}", frame, UNITS[method], (note, *given.notes)
    )


def _query(base: LanguageModel, trait: Any) -> Encoded:
    """The questions answered by the target, as the base spells it; InputError for a word it cannot write."""
    answers = trait_candidates(base, trait)
    if trait.target in answers.unknown:
        raise InputError(
            f"{base.name} cannot write {trait.target!r}, the word of the trait {trait.name}; pass a trait whose word "
            "its tokenizer knows"
        )
    return base.encode(trait.prompts(spelling(base, answers)[trait.target]))


def _write_rows(inputs: Encoded, counted: str, folder: Path) -> None:
    """Token ids as bergson reads them; labels are −100 where the loss does not look."""
    from datasets import Dataset

    labels = inputs.ids.masked_fill(~inputs.at(counted), -100)
    ids, labels = (
        [row[kept].tolist() for row, kept in zip(each, inputs.mask, strict=True)]
        for each in (inputs.ids, labels)
    )
    table = Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]})
    with _unheard():
        table.save_to_disk(str(folder))


def _batch_size(base: LanguageModel, *inputs: Encoded) -> int:
    """Tokens of a batch: bergson takes no more than the context, and at least the longest row has to fit."""
    context = min(base.context or TOKENS, base.tokenizer.model_max_length)
    return max(min(TOKENS, context), *(int(each.lengths.max()) for each in inputs))


@contextmanager
def _unheard(seed: int | None = None) -> Iterator[None]:
    """While open, what is printed is dropped; torch draws from `seed`, if any, and goes on afterwards as before."""
    with torch.random.fork_rng(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _import_quietly(method: str) -> None:
    """Import bergson, which replaces and closes the handlers of all logs; InputError where a part is missing."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        import bergson.cli.trackstar
        import bergson.hessians.pipeline  # noqa: F401
    except ImportError as error:
        name = (error.name or "bergson").partition(".")[0]
        missing = "" if name == "bergson" else f" ({name} is missing)"
        raise InputError(ABSENT.format(method, missing)) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _scored(method: str, folder: Path, tokens: int) -> Float[np.ndarray, "row"]:
    """The pipeline of that name on the model, rows and query of the folder, in this process."""
    from bergson.build import build_query
    from bergson.cli.trackstar import trackstar
    from bergson.config import config as c
    from bergson.data import load_scores
    from bergson.hessians.pipeline import hessian_pipeline
    from bergson.score.score import score_dataset

    def index(name: str, kind: Any = c.IndexConfig) -> Any:
        return kind(
            str(folder / name),
            model=str(folder / "model"),
            data=c.DataConfig(dataset=str(folder / "rows")),
            distributed=c.DistributedConfig(nnode=1, nproc_per_node=1, node_rank=0),
            token_batch_size=tokens,
        )

    query = c.QuerySetConfig(dataset=str(folder / "query"), aggregation="mean")
    plain, scored = c.PreprocessConfig(), c.ScoreConfig(query_path=str(folder / "query index"))
    try:
        if method == "ekfac":
            fitted = c.HessianConfig(method="kfac", ev_correction=True)
            hessian_pipeline(index("run"), fitted, scored, plain, c.HessianPipelineConfig(query=query))
        elif method == "trackstar":
            cosine = c.PreprocessConfig(unit_normalize=True)
            asked = c.TrackstarConfig(
                query=query, preprocess_cfg=cosine, mix_hessians=False, stats_sample_size=None
            )
            trackstar(index("run", c.TrackstarIndexConfig), asked)
        else:
            build_query(index("query index"), query, plain)
            score_dataset(index("run/scores"), scored, plain)
    except ValueError as error:
        raise InputError(
            f"bergson refuses to compute {method} scores: {error} Check the weights for overflow"
        ) from error
    return load_scores(folder / "run" / "scores")[:].astype(float)[:, 0]
