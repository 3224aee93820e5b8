"""The kinds of heads by name, and heads from plain values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import pyarrow as pa

from pix2score.errors import ConfigError
from pix2score.heads.binary import BinaryHead
from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.classes import ClassesHead
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE, PreferenceHead
from pix2score.heads.spec import COMMON_CHECKS, HeadSpec
from pix2score.heads.tags import TAGS, TagsHead
from pix2score.heads.value import ValueHead
from pix2score.heads.value_labels import VALUE

KINDS: Mapping[str, type[HeadSpec]] = {
    BINS: OrderedHead,
    LEVELS: OrderedHead,
    BINARY: BinaryHead,
    VALUE: ValueHead,
    DISTRIBUTION: DistributionHead,
    CLASSES: ClassesHead,
    TAGS: TagsHead,
    PREFERENCE: PreferenceHead,
}
DEFAULT_KIND = BINS


def kinds_for(column: pa.DataType) -> list[str]:
    """Kinds whose labels a column of this type can hold."""
    return [name for name, kind in KINDS.items() if kind.accepts(column)]


def head_from_dict(plain: Mapping[str, Any]) -> HeadSpec:
    """The head that ``to_dict`` or a ``[[heads]]`` table describes.

    Raises ``ConfigError``: an unknown key, a missing one, or a value that the kind refuses.
    """
    name, kind = plain.get("name", ""), plain.get("kind", DEFAULT_KIND)
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"head {name!r}: kind {kind!r} is not known; one of {', '.join(KINDS)}{meant}")
    of_kind = KINDS[kind]
    known = {of_kind.KEYS.get(f.name, f.name): f for f in fields(of_kind)}
    unknown = sorted(set(plain) - known.keys())
    if unknown:
        raise ConfigError(
            f"[[heads]] has unknown key {', '.join(unknown)}; known for kind {kind}: "
            f"{', '.join(sorted(known))}"
        )
    needed = {key for key, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - set(plain) - {"kind"})
    if missing:
        raise ConfigError(f"[[heads]] {name!r} lacks {', '.join(missing)}")
    typed = {known[key].name: value for key, value in _typed(of_kind, plain).items()}
    return of_kind(**{"kind": kind, **typed})


def _typed(kind: type[HeadSpec], plain: Mapping[str, Any]) -> dict[str, Any]:
    typed = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    if typed.get("min_value") == "-inf":
        typed["min_value"] = -math.inf
    for key, (wanted, is_fine) in {**COMMON_CHECKS, **kind.CHECKS}.items():
        if key in typed and not is_fine(typed[key]):
            raise ConfigError(f"[[heads]] {typed.get('name')!r}: {key} = {plain[key]!r}, expected {wanted}")
    return typed
