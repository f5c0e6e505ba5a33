"""A BERT as Hugging Face's tools save it: a folder of `config.json` and `model.safetensors`, never downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.models.bert import Shape
from edgekd.models.weights import read_tensors
from edgekd.models.zoo import spec_for

HEAD = "net.classifier."
"""Beginning of the names of the weights that an encoder alone lacks."""

VOCABULARY_FILE = "vocab.txt"
"""Where such a folder keeps the tokens that its weights were trained on."""

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"
_FIXED: Mapping[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "is_decoder": False,
}
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
_ENCODER = ("net.bert.embeddings.", "net.bert.encoder.")
_POOLER = "net.feature."
_POSITIONS = "net.bert.embeddings.position_embeddings.weight"
_CLASSIFIER = f"{HEAD}weight"
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class BertFolder:
    """What such a folder holds.

    Attributes:
        shape: Sizes of its encoder, its longest text among them.
        num_classes: Classes of its classifier; 0 when it brings none.
        state: Weights by name in a network of the zoo: encoder, and pooler and classifier where it brings both.
    """

    shape: Shape
    num_classes: int
    state: Mapping[str, Tensor]


def read_bert_folder(folder: Path, *, length: int) -> BertFolder:
    """Read a BERT encoder, with its classifier where it brings one.

    Args:
        folder: Holds `config.json` and `model.safetensors`.
        length: Longest text in tokens that the network is for; positions beyond it are left out.

    Returns:
        Sizes and weights.

    Raises:
        ConfigError: The folder or one of the files is missing, it is no such BERT, or its texts are shorter.
        StorageError: A file cannot be read or is damaged.
    """
    config = _config(folder)
    shape = _shape(config, folder)
    if length > shape.length:
        raise ConfigError(f"{folder} takes texts of {shape.length} tokens, not of {length}: set data.length")
    found = {_own_name(name): tensor for name, tensor in read_tensors(folder / _WEIGHTS_FILE).items()}
    wanted = (*_ENCODER, _POOLER, HEAD) if _CLASSIFIER in found else _ENCODER
    state = {
        name: tensor for name, tensor in found.items() if name.startswith(wanted) and not name.endswith("position_ids")
    }
    if _POSITIONS not in state:
        raise ConfigError(f"{folder / _WEIGHTS_FILE} holds no BERT encoder: {_POSITIONS} is missing")
    state[_POSITIONS] = state[_POSITIONS][:length]
    return BertFolder(shape, len(state[_CLASSIFIER]) if _CLASSIFIER in state else 0, state)


def spec_of_folder(found: BertFolder, facts: NetSpec, *, origin: str) -> NetSpec:
    """Describe the network of such a folder for a data set.

    Args:
        found: The folder's content.
        facts: Length, classes and vocabulary of the data set.
        origin: The folder, for messages.

    Raises:
        ConfigError: Its vocabulary or classes are not those of the data.
    """
    if found.shape.vocabulary != facts.vocabulary:
        raise ConfigError(
            f"{origin} knows {found.shape.vocabulary} tokens, the data have {facts.vocabulary}: "
            f"set data.vocabulary={origin}/{VOCABULARY_FILE}"
        )
    if found.num_classes not in (0, facts.num_classes):
        raise ConfigError(
            f"{origin} classifies into {found.num_classes} classes, the data have {facts.num_classes}: save its "
            "encoder alone (BertModel.save_pretrained) to train a classifier on it"
        )
    return spec_for(
        "bert",
        depth=found.shape.layers,
        width=found.shape.width,
        in_channels=0,
        num_classes=facts.num_classes,
        resolution=facts.resolution,
        mean=(),
        std=(),
        options={
            "heads": str(found.shape.heads),
            "hidden": str(found.shape.hidden),
            "pooling": "pooler" if found.num_classes else "cls",
        },
        vocabulary=facts.vocabulary,
    )


def _config(folder: Path) -> dict[str, Any]:
    for name in (_CONFIG_FILE, _WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: no {name}; expected a folder as transformers' save_pretrained writes it")
    try:
        config = json.loads((folder / _CONFIG_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / _CONFIG_FILE} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / _CONFIG_FILE} is no configuration but a {type(config).__name__}")
    return config


def _shape(config: Mapping[str, Any], folder: Path) -> Shape:
    problems = [
        f"{key} is {config[key]!r}, only {wanted!r} is known"
        for key, wanted in _FIXED.items()
        if config.get(key, wanted) != wanted
    ]
    sizes = [config.get(key) for key in _SIZES]
    problems += [
        f"{key} is {size!r}, it must be a number above 0"
        for key, size in zip(_SIZES, sizes, strict=True)
        if not isinstance(size, int) or size < 1
    ]
    if "model_type" not in config:
        problems.append("model_type is missing")
    if problems:
        raise ConfigError(f"{folder} holds no network of the bert family: {'; '.join(problems)}")
    return Shape(*(int(size or 0) for size in sizes))


def _own_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    if re.match(r"(embeddings|encoder|pooler)\.", name):
        name = f"bert.{name}"
    return f"net.{name.replace('bert.pooler.', 'feature.', 1)}"
