"""From the last hidden state to a model's own logits, which is more than its output matrix for many architectures.

logits = softcap(scale · (h W + b)), softcap(x) = c tanh(x / c): Granite divides, Cohere and Falcon-H1 multiply, Gemma
caps (arXiv 2408.00118). Scale and cap are not read from a configuration, where one name means opposite things to two
families, but measured: the model's own forward pass is run behind a stand-in for its body and for its output matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.models.seam import Unembedding
from interp.models.views import unwrapped

COLUMNS = 8  # of the output matrix's stand-in that are not zero
SIZES = (1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6)  # of the hidden states a forward pass is measured on
AGREES = 1e-4  # relative; architectures that compute their logits in fp32 leave 1e-6
NORMS = (
    "norm",
    "ln_f",
    "norm_f",
    "layer_norm",
    "final_norm",
    "final_layer_norm",
    "final_layernorm",
    "embedding_norm",
)
NORM_AGREES = {torch.float64: 1e-5, torch.float32: 1e-4}
HALF_NORM_AGREES = 0.05


@dataclass(frozen=True)
class Head:
    """What a model does to the output of its output matrix."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, raw: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row vocab"]:
        """Logits from what the output matrix gives."""
        scaled = raw if self.scale == 1 else raw * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


_KNOWN: WeakKeyDictionary[nn.Module, Head] = WeakKeyDictionary()
_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def own_logits(
    network: Any, hidden: Float[Tensor, "*row width"], *, dtype: torch.dtype | None = None
) -> Float[Tensor, "*row vocab"]:
    """The logits the network's own forward pass makes of its last hidden states, by whole rows or tokens picked out.

    `dtype` is that of scale and softcap, by default the network's. Raises InputError as `head_of` does.
    """
    raw = network.get_output_embeddings()(hidden)
    return head_of(network)(raw if dtype is None else raw.to(dtype))


def last_logits(
    network: Any, ids: Int[Tensor, "row pos"], cache: Any = None, *, dtype: torch.dtype | None = None
) -> tuple[Float[Tensor, "row vocab"], Any]:
    """Logits after the last token of every row, and the key-value cache grown by `ids`, None where none is kept.

    `dtype` as in `own_logits`.
    """
    output = network.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    logits = own_logits(network, output.last_hidden_state[:, -1], dtype=dtype)
    return logits, getattr(output, "past_key_values", None)


def head_of(network: Any) -> Head:
    """Scale and softcap of a network (a PeftModel's are those of what it wraps).

    Raises InputError for one whose forward pass does anything else between last hidden state and logits.
    """
    known = _KNOWN.get(network)
    if known is None:
        known = _KNOWN[network] = _measured(unwrapped(network))
    return known


def has_plain_head(network: Any) -> bool:
    """Whether `own_logits` are those of the network's own forward pass; asked once of each network."""
    if network not in _PLAIN:
        try:
            head_of(network)
            _PLAIN[network] = True
        except InputError:
            _PLAIN[network] = False
    return _PLAIN[network]


@torch.no_grad()
def _measured(network: Any) -> Head:
    matrix = network.get_output_embeddings()
    slot = next((name for name, module in network._modules.items() if module is matrix), None)
    if matrix is None or slot is None or network.base_model is network:
        raise _unsupported(network, "its output matrix is not its last layer")
    rows, width = matrix.weight.shape
    probe = _Matrix(rows, width, biased=getattr(matrix, "bias", None) is not None)
    wave = torch.sin(torch.arange(3 * width, dtype=torch.float64) + 1).reshape(1, 3, width)
    hidden = torch.cat([size * wave for size in SIZES], dim=1)
    try:
        own = _forward(network, {network.base_model_prefix: _Body(network.base_model, hidden), slot: probe})
    except Exception as error:
        raise _unsupported(network, f"{type(error).__name__}: {error}") from error
    if own.shape[-1] != rows:
        raise _unsupported(network, f"it gives {own.shape[-1]} logits from {rows} rows of its output matrix")
    return _fitted(network, probe(hidden)[0, :, :COLUMNS], own[0, :, :COLUMNS].double())


def _forward(network: Any, stand_ins: dict[str, Any]) -> Tensor:
    """Logits of the network's own forward pass with some of its modules replaced, the network left alone."""
    shell = object.__new__(type(network))
    vars(shell).update({**vars(network), "_modules": {**network._modules, **stand_ins}})
    body = next(module for module in stand_ins.values() if isinstance(module, _Body))
    ids = torch.zeros(body.hidden.shape[:2], dtype=torch.long)
    return type(network).forward(shell, input_ids=ids, use_cache=False).logits


def _fitted(network: Any, raw: Float[Tensor, "row column"], own: Float[Tensor, "row column"]) -> Head:
    """Scale from the smallest hidden states, softcap from the largest; InputError where these do not explain all."""
    scale = float((own[:3] / raw[:3]).median())
    scale = 1.0 if abs(scale - 1) < AGREES / 100 else scale
    straight = torch.allclose(own[-3:], scale * raw[-3:], rtol=AGREES, atol=0)
    head = Head(scale, None if straight else float(own[-3:].abs().max()))
    if not torch.allclose(own, head(raw), rtol=AGREES, atol=1e-9):
        raise _unsupported(network, "a scale and a softcap do not explain what its forward pass does to them")
    return head


def _unsupported(network: Any, reason: str) -> InputError:
    return InputError(
        f"{type(network).__name__} does more to its logits than scale and cap what its output matrix gives ({reason}), "
        "which is not supported; use a model of another architecture"
    )


class _Matrix(nn.Module):
    """Stands in for an output matrix, in fp64: a few columns of known numbers, zeros for all others."""

    def __init__(self, rows: int, width: int, *, biased: bool) -> None:
        super().__init__()
        self.spare = max(0, rows - COLUMNS)
        wave = torch.cos(torch.arange((rows - self.spare) * width, dtype=torch.float64) * 1.7)
        self.weight = nn.Parameter(wave.reshape(-1, width), requires_grad=False)
        self.bias = nn.Parameter(1e-4 * self.weight[:, 0].clone(), requires_grad=False) if biased else None

    def forward(self, hidden: Tensor) -> Tensor:
        made = nn.functional.linear(hidden.double(), self.weight, self.bias)
        return nn.functional.pad(made, (0, self.spare))


class _Body:
    """Stands in for what lies before the output matrix, and for whatever part of it is called: gives `hidden`."""

    def __init__(self, real: Any, hidden: Float[Tensor, "example pos width"]) -> None:
        self.real, self.hidden = real, hidden

    def __call__(self, *args: Any, **kwargs: Any) -> _Output:
        return _Output(self.hidden)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.real, name)
        return self if isinstance(value, nn.Module) else value


class _Output:
    """A body's output that holds its last hidden state and None under every other name."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, key: int | str) -> Tensor | None:
        return self.last_hidden_state if key in (0, "last_hidden_state") else None

    def __getattr__(self, name: str) -> None:
        return None


def read_unembedding(hf: Any, layers: nn.ModuleList) -> Unembedding:
    """What a plain module does to its last residual stream, in the dtype of its weights; a scale is inside W_U and b_U.

    Raises InputError as `head_of` does, and for a last norm that is none of those an `Unembedding` has.
    """
    body = next(module for module in hf.base_model.modules() if layers in module.children())
    norm = next((module for name, module in body.named_children() if name in NORMS), None)
    head, matrix, narrow = head_of(hf), hf.get_output_embeddings(), getattr(body, "project_out", None)
    weight = matrix.weight.detach() if narrow is None else matrix.weight.detach() @ narrow.weight.detach()
    b_U = weight.new_zeros(len(weight)) if matrix.bias is None else matrix.bias.detach()
    if head.scale != 1:
        weight, b_U = weight * head.scale, b_U * head.scale
    kind, factor, bias, eps = _read_norm(norm, like=weight)
    return Unembedding(weight.T, b_U, kind, factor, bias, eps, head.softcap)


@torch.no_grad()
def _read_norm(norm: Any, *, like: Float[Tensor, "vocab d_model"]) -> tuple[Any, Tensor, Tensor, float]:
    """Kind, effective factor, bias and eps, told apart by running the norm: some store w and apply 1 + w."""
    width = like.shape[1]
    zeros, ones = like.new_zeros(width), like.new_ones(width)
    if norm is None:
        return "none", ones, zeros, 0.0
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    stored = ones if weight is None else weight.detach()
    given = zeros if bias is None else bias.detach()
    eps = float(
        next((getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), 1e-5)
    )
    wave = torch.sin(torch.arange(width, device=like.device) + 1.0).to(like.dtype) + 0.5
    rows = torch.stack([wave, 0.01 * wave])  # one so small that eps counts
    found: dict[float, tuple[Any, Tensor, Tensor, float]] = {}
    for kind in ("rms", "layer"):
        for factor in (stored, 1 + stored):
            made = Unembedding(like.T, like[:, 0], kind, factor, given, eps).normed(rows)
            found[float((made - norm(rows)).abs().max())] = (kind, factor, given, eps)
    apart = min(found)
    if not apart <= NORM_AGREES.get(like.dtype, HALF_NORM_AGREES) * max(1.0, float(stored.abs().max())):
        raise InputError(
            f"{type(norm).__name__}, the last norm, is neither a root mean square nor a layer norm (its output is "
            f"{apart:.1e} away), which is not supported; use a model of another architecture"
        )
    return found[apart]
