"""Jina v2's encoder: BERT without a position table, with symmetric ALiBi and gated feed-forward layers.

Günther et al. 2023, "Jina Embeddings 2: 8192-Token General-Purpose Text Embeddings for Long Documents",
arXiv:2310.19923, section 3; ALiBi is Press et al. 2021, arXiv:2108.12409, section 3, with the slopes of its
code for head counts that are no power of two. Parameters are called as in the published weights
(jinaai/jina-embeddings-v2-small-en, -base-en), whose own code is remote and never run. Differences: neither
dropout nor padding, and the bias is made for one block of queries at a time, so that 8,192 tokens do not
take gigabytes. The variant with normalised queries and keys (the code models) is another architecture.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import BertConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from rag_embed.errors import UnsupportedModelError

_QUERY_BLOCK = 512


def alibi_slopes(heads: int) -> Float[Tensor, " heads"]:
    """How fast each head's attention falls with distance: 2^(-8/n), 2^(-16/n), ... for n heads.

    If n is no power of two, the next lower one's slopes come first, then every other of the next higher's.
    """
    lower = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / lower) for i in range(lower)]
    between = [2 ** (-8 * (i + 1) / (2 * lower)) for i in range(0, 2 * lower, 2)]
    return torch.tensor((slopes + between)[:heads])


class JinaBertEmbeddings(nn.Module):
    """Words and the first token type."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts tokens dim"]:
        """Look up the states of tokens."""
        states: Tensor = self.LayerNorm(
            self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        )
        return states


class JinaBertSelfAttention(nn.Module):
    """Every token attends to every other, the less the farther it is, on both sides alike."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
        """Attend, a block of queries at a time."""
        queries, keys, values = (
            linear(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        # Made here, not kept: weights are loaded onto modules without storage, where a buffer would be lost.
        slopes = alibi_slopes(self.heads).to(states.device)[:, None, None]
        positions = torch.arange(states.shape[1], device=states.device)
        attended = []
        for block, asked in zip(
            queries.split(_QUERY_BLOCK, dim=2), positions.split(_QUERY_BLOCK), strict=True
        ):
            bias = -slopes * (asked[:, None] - positions[None, :]).abs()
            attended.append(scaled_dot_product_attention(block, keys, values, attn_mask=bias.to(block.dtype)))
        return torch.cat(attended, dim=2).transpose(1, 2).flatten(2)


class JinaBertAttentionOutput(nn.Module):
    """Projection, residual and norm behind the attention."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class JinaBertAttention(nn.Module):
    """Attention with what follows it, under the names that BERT's weights have."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = JinaBertSelfAttention(config)
        self.output = JinaBertAttentionOutput(config)

    def forward(self, states: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
        """Attend, project, add, normalise."""
        output = self.output
        attended: Tensor = output.LayerNorm(output.dense(self.self(states)) + states)
        return attended


class JinaBertFeedForward(nn.Module):
    """GEGLU: the first half of the hidden units, through GELU, gates the second."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
        """Gate, project, add, normalise."""
        gate, hidden = self.gated_layers(states).chunk(2, dim=-1)
        fed: Tensor = self.layernorm(self.wo(gelu(gate) * hidden) + states)
        return fed


class JinaBertLayer(nn.Module):
    """One of the stacked layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = JinaBertAttention(config)
        self.mlp = JinaBertFeedForward(config)

    def forward(self, states: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
        """Attend, then feed forward."""
        fed: Tensor = self.mlp(self.attention(states))
        return fed


class JinaBertEncoder(nn.Module):
    """The stack, under the name that BERT's weights have."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(JinaBertLayer(config) for _ in range(config.num_hidden_layers))


class JinaBertModel(PreTrainedModel):
    """The encoder without head; loads safetensors like any model of transformers."""

    config_class = BertConfig
    base_model_prefix = "bert"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        kind = getattr(config, "feed_forward_type", "geglu")
        if kind != "geglu":
            raise UnsupportedModelError(
                f"config.json has feed_forward_type {kind!r}; expected 'geglu', as in the published models"
            )
        self.embeddings = JinaBertEmbeddings(config)
        self.encoder = JinaBertEncoder(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.embeddings.word_embeddings

    def forward(
        self, input_ids: Int[Tensor, "texts tokens"], attention_mask: Tensor | None = None
    ) -> BaseModelOutput:
        """Last states of texts of one length.

        Args:
            input_ids: Vocabulary ids with special tokens.
            attention_mask: Ones; there is no padding to mask.
        """
        states = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            states = layer(states)
        return BaseModelOutput(last_hidden_state=states)
