"""The encoder in other libraries: the same weights, whole sequences in, token states out.

A library that is not installed raises ImportError when its encoder is made.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed import Encoder

TokenIds = Int[np.ndarray, " tokens"]
Read = Callable[[Sequence[TokenIds], int], list[Float[np.ndarray, "tokens dim"]]]
"""Sequences, shortest first, and the most positions of one pass; gives the states of each."""

THREADS = os.cpu_count() or 1
OURS = "rag-embed, torch float32"


def ours(encoder: Encoder, folder: Path) -> Read:
    """Packed passes, as everywhere in the package."""

    def read(texts: Sequence[TokenIds], pass_tokens: int) -> list[Float[np.ndarray, "tokens dim"]]:
        shared = encoder.share(batch_tokens=pass_tokens, insist=encoder.insist)
        return [states.numpy() for states in shared.encode(texts, adds_special_tokens=False)]

    return read


def torch_int8(encoder: Encoder, folder: Path) -> Read:
    """Our packed passes with the linear layers in torch's own dynamic int8, a scale per output channel."""
    quantised = copy.copy(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants to be rid of it
        # Named, so that no default chooses: FBGEMM has kernels for AVX2.
        torch.backends.quantized.engine = "fbgemm"
        quantised._model = torch.ao.quantization.quantize_dynamic(
            encoder._model, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        )
    return ours(quantised, folder)


def torchao_int8(encoder: Encoder, folder: Path) -> Read:
    """Our packed passes with torchao's int8 weights and activations, without compilation."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantised = copy.copy(encoder)
    quantised._model = copy.deepcopy(encoder._model)
    quantize_(quantised._model, Int8DynamicActivationInt8WeightConfig())
    return ours(quantised, folder)


def onnx_runtime(
    encoder: Encoder, folder: Path, *, is_int8: bool = False, reduce_range: bool = False
) -> Read:
    """ONNX Runtime with its fused operators for BERT; int8 is dynamic, with a scale per output channel.

    Args:
        encoder: Whose weights.
        folder: Where the exported files are kept.
        is_int8: Whether matrix products and attention are quantised.
        reduce_range: Weights of 7 bits: without VNNI the 16-bit sums of 8-bit products may overflow.
    """
    import onnxruntime

    path = folder / "fused.onnx"
    if not path.exists():
        _export_fused(encoder, path)
    if is_int8:
        whole, path = path, folder / f"int{7 if reduce_range else 8}.onnx"
        _quantise_onnx(whole, path, reduce_range=reduce_range)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(
        ids: Int[np.ndarray, "texts length"], lengths: Int[np.ndarray, " texts"]
    ) -> Float[np.ndarray, "texts length dim"]:
        is_seen = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": is_seen})
        return states

    return partial(_read_padded, forward)


def ctranslate2(encoder: Encoder, folder: Path, *, compute_type: str) -> Read:
    """CTranslate2's BERT, converted from the checkpoint's own folder."""
    import ctranslate2 as library

    converted = folder / "ctranslate2"
    if not converted.exists():
        library.converters.TransformersConverter(str(encoder.profile.folder)).convert(str(converted))
    model = library.Encoder(
        str(converted), device="cpu", compute_type=compute_type, intra_threads=THREADS, inter_threads=1
    )

    def forward(
        ids: Int[np.ndarray, "texts length"], lengths: Int[np.ndarray, " texts"]
    ) -> Float[np.ndarray, "texts length dim"]:
        view = library.StorageView.from_array
        return np.array(model.forward_batch(view(ids), view(lengths)).last_hidden_state)

    return partial(_read_padded, forward)


MAKERS: Mapping[str, Callable[[Encoder, Path], Read]] = {
    OURS: ours,
    "torch dynamic int8": torch_int8,
    "torchao int8": torchao_int8,
    "ONNX Runtime float32": onnx_runtime,
    "ONNX Runtime int8": partial(onnx_runtime, is_int8=True),
    "ONNX Runtime int8, weights of 7 bits": partial(onnx_runtime, is_int8=True, reduce_range=True),
    "CTranslate2 float32": partial(ctranslate2, compute_type="float32"),
    "CTranslate2 int8": partial(ctranslate2, compute_type="int8"),
}
"""Every encoder; the first is what the others are compared with."""


class _TokenStates(torch.nn.Module):
    """The model with nothing but its last layer's states."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "texts length"], attention_mask: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length dim"]:
        states: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def _export_fused(encoder: Encoder, path: Path) -> None:
    """Export the token states, and fuse attention, GELU and layer norms the way ONNX Runtime does for BERT.

    By the older exporter: the fusion does not know the attention that the newer one writes.
    """
    import onnx  # noqa: F401 - torch asks for it late, with an error of its own
    from onnxruntime.transformers import optimizer

    model = copy.deepcopy(encoder._model)
    model.set_attn_implementation("eager")
    ids = torch.full((2, 16), 1000)
    axes = {0: "texts", 1: "length"}
    plain = path.with_name("plain.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _TokenStates(model).eval(),
            (ids, torch.ones_like(ids)),
            str(plain),
            input_names=["input_ids", "attention_mask"],
            output_names=["states"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "states": axes},
            opset_version=17,
            dynamo=False,
        )
    config = model.config
    fused = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    count = fused.get_fused_operator_statistics()["Attention"]
    if count != config.num_hidden_layers:
        raise RuntimeError(
            f"{count} fused attentions for {config.num_hidden_layers} layers: an unfair export"
        )
    fused.change_graph_inputs_to_int32()
    fused.save_model_to_file(str(path))


def _quantise_onnx(whole: Path, path: Path, *, reduce_range: bool) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        whole,
        path,
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        # Types behind a fused operator are not inferred.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _read_padded(
    forward: Callable[[Int[np.ndarray, "_ _"], Int[np.ndarray, " _"]], Float[np.ndarray, "_ _ dim"]],
    texts: Sequence[TokenIds],
    pass_tokens: int,
) -> list[Float[np.ndarray, "tokens dim"]]:
    """Read texts in padded batches; as they are sorted, little is padding."""
    states = []
    for batch in _batches(texts, pass_tokens):
        lengths = np.array([len(text) for text in batch], dtype=np.int32)
        ids = np.zeros((len(batch), lengths.max()), dtype=np.int32)
        for row, text in zip(ids, batch, strict=True):
            row[: len(text)] = text
        found = forward(ids, lengths)
        states += [row[:length] for row, length in zip(found, lengths, strict=True)]
    return states


def _batches(texts: Sequence[TokenIds], pass_tokens: int) -> Iterator[Sequence[TokenIds]]:
    start = 0
    for end in range(1, len(texts) + 1):
        if end == len(texts) or (end + 1 - start) * len(texts[end]) > pass_tokens:
            yield texts[start:end]
            start = end
