"""The blocks of a Ray Data pipeline as they stream out: references to them, and which rows of each count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import ray

from pix2score.cluster.ray_patches.lookup import lacking

Slice: TypeAlias = tuple[int, int] | None
"""First row and the one behind the last; None for a whole block."""
_ITERATE = "ray.data:Dataset.iter_internal_ref_bundles"
_BUNDLE = "ray.data._internal.execution.interfaces.ref_bundle"


def bundles_of(dataset: ray.data.Dataset) -> Callable[[], Iterator[Any]]:
    """What runs the pipeline: called, it gives every bundle as it is finished.

    Raises ``ConfigError``, before anything runs, if this Ray gives none.
    """
    iterate: Callable[[], Iterator[Any]] | None = getattr(dataset, _ITERATE.rpartition(".")[2], None)
    if iterate is None:
        raise lacking(_ITERATE)
    return iterate


def block_refs(bundle: Any) -> list[Any]:
    """References to the blocks of a bundle. Raises ``ConfigError`` if this Ray has none."""
    try:
        return list(bundle.block_refs)
    except AttributeError:
        raise lacking(f"{_BUNDLE}:RefBundle.block_refs") from None


def block_slices(bundle: Any) -> list[Slice]:
    """The rows that count of each block. Raises ``ConfigError`` if this Ray does not say it."""
    try:
        slices = bundle.slices
    except AttributeError:
        raise lacking(f"{_BUNDLE}:RefBundle.slices") from None
    return [None if one is None else _bounds(one) for one in slices]


def _bounds(one: Any) -> tuple[int, int]:
    try:
        return one.start_offset, one.end_offset
    except AttributeError:
        raise lacking(f"{_BUNDLE}:BlockSlice.start_offset") from None
