"""A direction in weight space: one tensor per weight, dense or a product of two thin factors, and vectors at hooks.

<u, v> = Σ_weights Σ_ij u_ij v_ij. A low-rank tensor L R is never multiplied out: <L R, M S> = Σ (Lᵀ M) ∘ (R Sᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, in the orientation in which the weight is stored."""

    left: Float[Tensor, "rows rank"]
    right: Float[Tensor, "rank columns"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the product."""
        return (self.left.shape[0], self.right.shape[1])

    @property
    def rank(self) -> int:
        """Number of columns of `left`."""
        return self.left.shape[1]

    def dense(self) -> Float[Tensor, "rows columns"]:
        """The product."""
        return self.left @ self.right


@dataclass(frozen=True, eq=False)
class ParameterDirection:
    """Tensors by weight name and vectors by hook name, with the weights they belong to.

    Names are those of `Model.parameters()`; what is absent is zero. `biases` are vectors added to the residual stream
    at every position (a steering vector as a virtual bias). All fp32. `fingerprint` is of the weights the direction
    starts from and may be scored at, `lineage` that of their first ancestor.
    """

    tensors: dict[str, Tensor | LowRank]
    label: str
    fingerprint: str
    lineage: str
    biases: dict[str, Float[Tensor, "d_model"]] = field(default_factory=dict)
