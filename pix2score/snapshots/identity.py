"""What answered a row: a model's version, with the engine behind a ``+`` where its numbers are its own.

``0a1b2c3d4e5f`` is the model in float32, ``0a1b2c3d4e5f+int8-openvino-89abcdef`` the same model in 8 bits:
another model to a plan, for rows of the two do not mix.
"""

from __future__ import annotations

import re

_ENGINE = re.compile(r"[0-9a-f]{12}(\+[a-z0-9-]+)?")


def with_engine(version: str, engine: str | None) -> str:
    """``version`` as rows have it that ``engine`` answered; None: float32."""
    return f"{version}+{engine}" if engine else version


def model_of(version: str) -> str:
    """``version`` as the model's card has it."""
    return version.partition("+")[0]


def is_version(text: str) -> bool:
    """Whether a snapshot could have it as its ``model_version``."""
    return _ENGINE.fullmatch(text) is not None
