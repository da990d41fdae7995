"""The head of a multi-vector model: token states become the token vectors that it was trained to compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles.dense_layer import DenseLayer


class TokenHead(torch.nn.Module):
    """Layers one behind the other, and unit vectors at the end.

    Args:
        layers: In their order; none leaves the states as they are but for their length.

    Raises:
        UnsupportedModelError: The weights are damaged, or not those that the layers declare.
    """

    def __init__(self, layers: Sequence[DenseLayer]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(_Layer(layer) for layer in layers)

    def forward(self, token_states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch token_dim"]:
        """Make unit token vectors of token states, in their precision."""
        for layer in self.layers:
            token_states = layer(token_states)
        return torch.nn.functional.normalize(token_states, dim=-1)


class _Layer(torch.nn.Module):
    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        # Without memory until the file has been found to hold what is declared.
        self.linear = torch.nn.Linear(layer.in_dim, layer.out_dim, bias=layer.has_bias, device="meta")
        self.activation = getattr(torch.nn, layer.activation)()
        self.is_residual = layer.is_residual
        if layer.is_residual and layer.in_dim != layer.out_dim:
            self.residual = torch.nn.Linear(layer.in_dim, layer.out_dim, bias=False, device="meta")
        self.load_state_dict(_load_weights(layer, self.state_dict()), assign=True)

    def forward(self, vectors: Tensor) -> Tensor:
        found: Tensor = self.activation(self.linear(vectors))
        if not self.is_residual:
            return found
        return found + (self.residual(vectors) if hasattr(self, "residual") else vectors)


def _load_weights(layer: DenseLayer, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load exactly the tensors of a layer, all of them finite."""
    try:
        with safe_open(layer.weights, framework="pt") as file:
            names = file.keys() if layer.is_alone else wanted.keys()
            found = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(
            f"{layer.weights} could not be loaded: {error}; expected the weights of a Dense layer. The file "
            "is damaged: download it again"
        ) from error
    shapes, expected = ({name: tuple(t.shape) for name, t in each.items()} for each in (found, wanted))
    if shapes != expected:
        raise UnsupportedModelError(
            f"{layer.weights} holds {shapes}; expected {expected}, as the config.json beside it declares. "
            "The file is incomplete, or belongs to another layer"
        )
    if broken := [name for name, tensor in found.items() if not bool(tensor.isfinite().all())]:
        raise UnsupportedModelError(
            f"{layer.weights} holds NaN or infinite numbers in {broken[0]!r}; expected finite weights. The "
            "file is damaged, or its training diverged"
        )
    return found
