"""What a training says of single heads, over what ``prepare`` was told: ``[heads.NAME]`` in ``--config``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pix2score.errors import ConfigError
from pix2score.heads.spec import HeadSpec

NUMBERS = ("weight", "label_noise")
OPTIONS = (*NUMBERS, "loss")


def check_head_options(heads: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``ConfigError`` for an option that is not known, or a value that none may have."""
    for name, options in heads.items():
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ConfigError(
                f"[heads.{name}] has unknown key {', '.join(unknown)}; train sets {', '.join(OPTIONS)}"
            )
        for key in NUMBERS:
            value = options.get(key, 0)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and value >= 0):
                raise ConfigError(f"[heads.{name}] {key} = {value!r}: expected a number, 0 or more")
        if not isinstance(options.get("loss", ""), str):
            raise ConfigError(f"[heads.{name}] loss = {options['loss']!r}: expected a string")


def with_options(heads: Sequence[HeadSpec], options: Mapping[str, Mapping[str, Any]]) -> tuple[HeadSpec, ...]:
    """The heads with weights and losses of their own.

    Raises ``ConfigError`` for a head that does not exist, or a loss that is not its kind's.
    """
    names = [head.name for head in heads]
    for name in options:
        if name not in names:
            raise ConfigError(f"[heads.{name}]: the dataset has no such head; it has {', '.join(names)}")
    if options and not any(options.get(h.name, {}).get("weight", h.weight) for h in heads):
        raise ConfigError("[heads]: every weight is 0; there is nothing to learn")
    return tuple(replace(head, **_of_spec(options.get(head.name, {}))) for head in heads)


def _of_spec(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: options[key] for key in ("weight", "loss") if key in options}
    return found | ({"weight": float(found["weight"])} if "weight" in found else {})
