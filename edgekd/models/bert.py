"""Text classifiers on transformers' BERT encoder, made from a configuration and never from downloaded weights.

The network takes token numbers alone, 0 where a text is filled up, and finds the attention mask itself, so that the
exported model has one input. Attention is written out in matrix products: it can be differentiated twice, which
gradient distillation needs, and exports to plain operators.

Reference: arXiv 1810.04805.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, missing_package
from edgekd.models.family import Family
from edgekd.models.torchvision_repair import import_beside_torchvision

_AUTO = "auto"
_HEAD_WIDTH = 32
_PADDING = 0
_STD = 0.02
_MASKED = -1e4  # its exponential is 0 in float32 and float16, and it is finite in both
_TOKEN_KINDS = 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a BERT encoder.

    Attributes:
        layers: Transformer layers.
        width: Length of a token's state, `D`.
        heads: Attention heads; they divide `width`.
        hidden: Width between the two products of a layer's feed-forward part.
        vocabulary: Token numbers, 0 for padding among them.
        length: Longest text in tokens.
        dropout: Share of values dropped while training, everywhere that BERT drops.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    length: int
    dropout: float = 0.0


class ClsState(nn.Module):
    """The state of the first token, `[CLS]`: `[B, L, D]` to `[B, D]`."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the first token's state."""
        return states[:, 0]


class PooledCls(nn.Module):
    """BERT's pooler: a linear layer and tanh on the state of the first token, `[B, L, D]` to `[B, D]`.

    Args:
        width: `D`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = _linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Return the pooled feature."""
        return torch.tanh(self.dense(states[:, 0]))


class BertClassifier(nn.Module):
    """BERT's encoder and a linear classifier.

    Module paths to tap: `embedded` (word, position and kind embeddings added up, before their normalisation,
    `[B, L, D]`), `states.0` and so on (the state after each layer, `[B, L, D]`), `feature` (`[B, D]`, what the
    classifier reads).

    Args:
        shape: Sizes of the encoder.
        num_classes: Length of the logits.
        is_pooled: Whether the classifier reads `PooledCls`, as `BertForSequenceClassification` does, or `ClsState`.
        trains_tables: Whether a gradient reaches the tables of words, positions and kinds.

    Raises:
        ConfigError: Sizes that make no encoder.
        PreconditionError: `transformers` is not installed.
    """

    def __init__(self, shape: Shape, num_classes: int, *, is_pooled: bool = False, trains_tables: bool = True) -> None:
        super().__init__()
        self.bert = _encoder(shape)
        self.embedded = nn.Identity()
        self.states = nn.ModuleList(nn.Identity() for _ in range(shape.layers))
        self.feature = PooledCls(shape.width) if is_pooled else ClsState()
        self.classifier = _linear(shape.width, num_classes)
        self._trains_tables = trains_tables

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify texts.

        Args:
            tokens: int64 `[B, L]`, 0 after the end of a text.

        Returns:
            Logits `[B, num_classes]`.
        """
        states = self._embed(tokens)
        mask = torch.where(tokens == _PADDING, _MASKED, 0.0).to(states.dtype)[:, None, None, :]
        for layer, state in zip(self.bert.encoder.layer, self.states, strict=True):
            states = state(_tensor(layer(states, mask)))
        return cast(Tensor, self.classifier(self.feature(states)))

    def _embed(self, tokens: Tensor) -> Tensor:
        parts = self.bert.embeddings
        places = parts.position_embeddings.weight[: tokens.shape[1]] + parts.token_type_embeddings.weight[0]
        total = parts.word_embeddings(tokens) + places
        embedded = self.embedded(total if self._trains_tables else total.detach())
        return cast(Tensor, parts.dropout(parts.LayerNorm(embedded)))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=_STD)
    nn.init.zeros_(linear.bias)
    return linear


def _encoder(shape: Shape) -> Any:
    transformers = _import()
    if problems := _problems(shape):
        raise ConfigError("; ".join(problems))
    config = transformers.BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden,
        max_position_embeddings=shape.length,
        type_vocab_size=_TOKEN_KINDS,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        pad_token_id=_PADDING,
        attn_implementation="eager",
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def _problems(shape: Shape) -> list[str]:
    problems = []
    if min(shape.layers, shape.width, shape.heads, shape.hidden, shape.length) < 1:
        problems.append(f"sizes must be at least 1: {shape}")
    elif shape.width % shape.heads:
        problems.append(f"width {shape.width} is not a multiple of {shape.heads} attention heads")
    if not 0 <= shape.dropout < 1:
        problems.append(f"dropout is {shape.dropout}, it must be in 0..1")
    if shape.vocabulary < _PADDING + 2:
        problems.append(f"a vocabulary of {shape.vocabulary} tokens holds nothing beside padding")
    return problems


def _tensor(output: Any) -> Tensor:
    """Return a layer's states, which older versions of transformers wrap in a tuple."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def _import() -> ModuleType:
    try:
        return import_beside_torchvision("transformers.models.bert.modeling_bert")
    except ImportError as error:
        raise missing_package("transformers", "text", "a network of the bert family") from error


def shape_of_spec(spec: NetSpec) -> Shape:
    """Return the sizes that a spec of the family stands for."""
    options = spec.options
    heads, hidden = options.get("heads", _AUTO), options.get("hidden", _AUTO)
    return Shape(
        layers=spec.depth,
        width=spec.width,
        heads=max(1, spec.width // _HEAD_WIDTH) if heads == _AUTO else int(heads),
        hidden=4 * spec.width if hidden == _AUTO else int(hidden),
        vocabulary=spec.vocabulary,
        length=spec.resolution,
        dropout=float(options.get("dropout", "0")),
    )


def _build(spec: NetSpec) -> nn.Module:
    return BertClassifier(
        shape_of_spec(spec),
        spec.num_classes,
        is_pooled=spec.options.get("pooling", "cls") == "pooler",
        trains_tables=spec.options.get("embeddings", "trained") == "trained",
    )


def _default_taps(spec: NetSpec) -> tuple[str, ...]:
    return tuple(f"net.states.{layer}" for layer in range(spec.depth))


BERT = Family(
    build=_build,
    depth_rule="1 or more",
    has_depth=lambda depth: depth >= 1,
    depths=(1, 2, 3, 4, 6, 8, 12),
    widths=(32, 64, 96, 128, 192, 256, 384, 512, 768),
    standard=(4, 128),
    default_taps=_default_taps,
    options={
        "heads": (_AUTO,),
        "hidden": (_AUTO,),
        "pooling": ("cls", "pooler"),
        "embeddings": ("trained", "frozen"),
        "dropout": ("0", "0.1"),
    },
    penultimate="net.feature",
    takes="tokens",
    numbers=("heads", "hidden"),
    embedded="net.embedded",
    least_opset=17,
)
"""Depth is layers, width is the length of a token's state; a head is 32 wide and the feed-forward part 4 times as wide
as a state unless `heads` and `hidden` say otherwise. Nothing is dropped by default: distillation compares two
functions, not two samples of them."""
