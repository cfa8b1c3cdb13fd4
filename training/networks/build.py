"""Networks by configuration: the variants of `model/van.py`, LiteVAN and the comparison networks, one interface."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from model.channel import add_channel_attention
from model.heads import CrossScaleAttention
from model.lite import LITE_VARIANTS, LiteVAN
from model.van import VAN, VARIANTS, Variant
from training.config import ModelConfig, suggest
from training.networks.asaenet import ASAENetLike
from training.networks.dagdnet import dagdnet, dagdnet121
from training.networks.samfn import SAMFNLike
from training.networks.trunks import TIMM_PREFIX, TRUNKS, PooledClassifier, any_timm_classifier, timm_classifier

#: Name → constructor, called with the number of classes and the stochastic depth rate.
COMPARISON_NETWORKS: Mapping[str, Callable[[int, float], PooledClassifier]] = MappingProxyType(
    {name: partial(timm_classifier, name) for name in TRUNKS}
    | {"dagdnet": dagdnet, "dagdnet121": dagdnet121, "asaenet": ASAENetLike, "samfn": SAMFNLike}
)
#: Every valid `model.variant`.
NETWORKS = (*VARIANTS, *LITE_VARIANTS, *COMPARISON_NETWORKS)
#: Networks that training, evaluation and export accept; all have a linear `head` and `attention_scales`.
Network = VAN | LiteVAN | PooledClassifier
#: Properties of a VAN variant that a configuration may change.
CHANGES = ("stem", "fusion", "scales", "gating", "channel_attention", "depths", "mlp_ratios", "embed_dims")


def check_name(name: str) -> None:
    """Check that a network has this name.

    Raises:
        ValueError: none has; suggests similar names.
    """
    if name not in NETWORKS and not name.startswith(TIMM_PREFIX):
        raise ValueError(f"unknown variant {name!r}; {suggest(name, NETWORKS, most=3)}")


def check_model(config: ModelConfig) -> None:
    """Check that the network can be built, without allocating its weights.

    Raises:
        ValueError: see `build`.
    """
    check_name(config.variant)
    if config.variant in VARIANTS or config.variant.startswith(TIMM_PREFIX):
        with torch.device("meta"):
            build(config, num_classes=2)
    else:
        _refuse_changes(config)


def build(config: ModelConfig, num_classes: int) -> Network:
    """The network of a configuration, with random weights.

    Raises:
        ValueError: unknown variant, contradictory numbers, or a change to a network other than VAN.
    """
    check_name(config.variant)
    if config.variant.startswith(TIMM_PREFIX):
        _refuse_changes(config)
        return any_timm_classifier(config.variant.removeprefix(TIMM_PREFIX), num_classes, config.drop_path)
    if config.variant in COMPARISON_NETWORKS:
        _refuse_changes(config)
        return COMPARISON_NETWORKS[config.variant](num_classes, config.drop_path)
    if config.variant in LITE_VARIANTS:
        _refuse_changes(config)
        return LiteVAN(config.variant, num_classes, config.drop_path)
    added = None
    if config.channel_attention != "none":
        added = partial(add_channel_attention, name=config.channel_attention)
    return VAN(van_variant(config), num_classes, config.drop_path, added)


def van_variant(config: ModelConfig) -> Variant:
    """A VAN variant with the configuration's changes.

    Cross-scale attention is as wide as the third stage, rounded down to whole heads, as in all named variants.
    """
    plain = ("stem", "scales", "gating", "depths", "mlp_ratios", "embed_dims")
    changes: dict[str, Any] = {key: value for key in plain if (value := getattr(config, key))}
    changed = replace(VARIANTS[config.variant], **changes)
    fused = bool(changed.fusion_dim) if config.fusion is None else config.fusion
    heads = max(changed.embed_dims[2] // CrossScaleAttention.HEAD_DIM, 1)
    return replace(changed, fusion_dim=heads * CrossScaleAttention.HEAD_DIM if fused else 0)


def variant_title(config: ModelConfig) -> str:
    """Name of the network in the manifest: the variant and its changes, `tiny+depths=1-1-3-1`.

    Equal titles mean equal networks.
    """
    if config.variant not in VARIANTS:
        return config.variant
    named, changed = asdict(VARIANTS[config.variant]), asdict(van_variant(config))
    parts = [f"{key}={_words(changed[key])}" for key in named if changed[key] != named[key]]
    if config.channel_attention != "none":
        parts.append(f"channel_attention={config.channel_attention}")
    return "+".join((config.variant, *parts))


def _words(value: Any) -> str:
    """Format a value: numbers joined by -, kernels of a stage by a comma, stages by /."""
    if not isinstance(value, tuple):
        return str(value)
    kernels = isinstance(value[0], tuple)
    return "/".join(",".join(stage) for stage in value) if kernels else "-".join(map(str, value))


def _refuse_changes(config: ModelConfig) -> None:
    fields = ModelConfig.model_fields
    changed = [key for key in CHANGES if getattr(config, key) != fields[key].default]
    if changed:
        raise ValueError(f"model.{changed[0]} applies to VAN variants only, not to {config.variant!r}")
