"""The vocabulary of a head of kind ``tags``, given as a text file with one tag per line."""

from __future__ import annotations

from pix2score.errors import ConfigError
from pix2score.heads.text_labels import composed
from pix2score.storage.folder import Folder

MAX_TAGS = 30_000  # tags are int16 in shards


def read_vocabulary(place: str, head: str) -> list[str]:
    """Tags of the file at ``place``, once each, in its order; ``head`` is named in errors.

    Raises ``ConfigError``: no such file, no UTF-8, no tag or more than ``MAX_TAGS``.
    """
    file = Folder(place)
    try:
        text = file.parent.read(file.name).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ConfigError(f"head {head!r}: vocabulary {place} is no file") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"head {head!r}: vocabulary {place} is not UTF-8: {exc}") from None
    names = list(dict.fromkeys(name for line in text.splitlines() if (name := composed(line))))
    if not 1 <= len(names) <= MAX_TAGS:
        raise ConfigError(f"head {head!r}: vocabulary {place} has {len(names)} tags; 1 to {MAX_TAGS} can be")
    return names
