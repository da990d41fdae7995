"""Two forward passes written out: every head and position on its own, in float64, from the weights' names.

Jina v2: Günther et al. 2023, arXiv:2310.19923 (ALiBi on both sides, GEGLU). Bidirectional Qwen3: the stock
architecture (RMS norms, normalised queries and keys, rotary positions, grouped keys, SwiGLU) without a mask.
Nothing here comes from the implementation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Forward = Callable[[Sequence[int]], list[list[float]]]


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict]:
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    return weights, json.loads((folder / "config.json").read_text())


def attend(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], bias: Tensor) -> Tensor:
    """One position of one head: values weighted by softmax(query · key / sqrt(size) + bias)."""
    scores = torch.stack(list(keys)) @ query / math.sqrt(len(query)) + bias
    return scores.softmax(dim=0) @ torch.stack(list(values))


# ---------------------------------------------------------------- Jina v2


def alibi_slope(head: int, heads: int) -> float:
    """Press et al. 2021: a geometric sequence; with 6 heads that of 4, then every other of that of 8."""
    lower = 1
    while 2 * lower <= heads:
        lower *= 2
    if head < lower:
        return 2.0 ** (-8.0 * (head + 1) / lower)
    return 2.0 ** (-8.0 * (2 * (head - lower) + 1) / (2 * lower))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + eps).sqrt() * weight + bias


def jina_forward(folder: Path, prefix: str = "") -> Forward:
    weights, config = read_weights(folder)
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def linear(x: Tensor, name: str) -> Tensor:
        product = weights[f"{prefix}{name}.weight"] @ x
        bias = weights.get(f"{prefix}{name}.bias")
        return product if bias is None else product + bias

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"], eps)

    def forward(ids: Sequence[int]) -> list[list[float]]:
        words = weights[f"{prefix}embeddings.word_embeddings.weight"]
        kind = weights[f"{prefix}embeddings.token_type_embeddings.weight"][0]
        states = [norm(words[i] + kind, "embeddings.LayerNorm") for i in ids]
        for number in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{number}."
            queries, keys, values = (
                [linear(state, f"{layer}attention.self.{part}").reshape(heads, -1) for state in states]
                for part in ("query", "key", "value")
            )
            after = []
            for i, state in enumerate(states):
                mixed = []
                for head in range(heads):
                    bias = torch.tensor([-alibi_slope(head, heads) * abs(i - j) for j in range(len(ids))])
                    own_keys, own_values = ([each[head] for each in part] for part in (keys, values))
                    mixed.append(attend(queries[i][head], own_keys, own_values, bias))
                attended = linear(torch.cat(mixed), f"{layer}attention.output.dense")
                after.append(norm(attended + state, f"{layer}attention.output.LayerNorm"))
            states = []
            for state in after:
                gated = linear(state, f"{layer}mlp.gated_layers")
                half = len(gated) // 2
                gate = 0.5 * gated[:half] * (1 + torch.erf(gated[:half] / math.sqrt(2)))
                states.append(
                    norm(linear(gate * gated[half:], f"{layer}mlp.wo") + state, f"{layer}mlp.layernorm")
                )
        return [state.tolist() for state in states]

    return forward


# ---------------------------------------------------------------- Qwen3 without a mask


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * weight


def rotate(x: Tensor, position: int, theta: float) -> Tensor:
    """Turn each pair (i, i + half) by its own angle."""
    half = len(x) // 2
    result = x.clone()
    for i in range(half):
        angle = position / theta ** (2 * i / len(x))
        result[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        result[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return result


def qwen_forward(folder: Path) -> Forward:
    weights, config = read_weights(folder)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    eps, theta = config["rms_norm_eps"], config["rope_parameters"]["rope_theta"]

    def forward(ids: Sequence[int]) -> list[list[float]]:
        states = [weights["embed_tokens.weight"][i] for i in ids]
        for number in range(config["num_hidden_layers"]):
            layer = f"layers.{number}."
            queries, keys, values = [], [], []
            for position, state in enumerate(states):
                x = rms_norm(state, weights[layer + "input_layernorm.weight"], eps)
                q, k, v = (weights[f"{layer}self_attn.{part}_proj.weight"] @ x for part in "qkv")
                q, k = q.reshape(heads, -1), k.reshape(groups, -1)
                q_norm, k_norm = (weights[f"{layer}self_attn.{part}_norm.weight"] for part in "qk")
                queries.append([rotate(rms_norm(each, q_norm, eps), position, theta) for each in q])
                keys.append([rotate(rms_norm(each, k_norm, eps), position, theta) for each in k])
                values.append(v.reshape(groups, -1))
            after = []
            for i, state in enumerate(states):
                mixed = []
                for head in range(heads):
                    group = head * groups // heads
                    own_keys, own_values = ([each[group] for each in part] for part in (keys, values))
                    mixed.append(attend(queries[i][head], own_keys, own_values, torch.zeros(len(ids))))
                attended = state + weights[layer + "self_attn.o_proj.weight"] @ torch.cat(mixed)
                x = rms_norm(attended, weights[layer + "post_attention_layernorm.weight"], eps)
                gate = weights[layer + "mlp.gate_proj.weight"] @ x
                hidden = gate * torch.sigmoid(gate) * (weights[layer + "mlp.up_proj.weight"] @ x)
                after.append(attended + weights[layer + "mlp.down_proj.weight"] @ hidden)
            states = after
        return [rms_norm(state, weights["norm.weight"], eps).tolist() for state in states]

    return forward
