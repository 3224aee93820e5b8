"""Settings of ``jobs.catalog``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pix2score.errors import ConfigError

OWN_COLUMNS = ("illust_id", "page", "uri", "image", "path", "size", "fingerprint", "modified")
"""Columns that every catalog made here has, or those with embedded images; labels have other names."""
_WORKING = ("id", "file", "suffix", "cls")
"""And what else columns are called while it is made, or are in a catalog of archives."""
GROUPS = ("id", "page")
"""Named groups of an id pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogConfig:
    """Settings of ``jobs.catalog``."""

    images: str
    """Where the pictures lie: a local folder or s3://bucket/prefix, looked through with all that is below."""
    out: str
    """The catalog: a file whose name ends in .parquet, or a folder for several files."""
    id: Literal["name", "number", "path"] = "name"
    """What the id is: 123_p0.jpg has id 123, page 0, other files their name without suffix (name); the first
    number in the name, files without one are left out (number); the path below images without suffix
    (path)."""
    id_pattern: str | None = None
    """Regular expression that finds id, and perhaps page, in the path below images, such as
    '(?P<id>\\d+)_p(?P<page>\\d+)'; files without a match are left out."""
    same_id: Literal["refuse", "newest"] = "refuse"
    """Of several files with one id and page: end the run and name them, or take the one written last."""
    suffix: tuple[str, ...] = ()
    """Names of pictures end in it (default: every format that is decoded); none takes names without one; may
    be repeated."""
    label_from_folder: str | None = None
    """Column for the first folder below images (good/1.jpg: good)."""
    labels: str | None = None
    """Table of labels, local or on S3: CSV, JSON lines or Parquet; its columns are added to the rows of the
    pictures that it names."""
    labels_key: str | None = None
    """Column of labels that names the picture, by id, path, file name, or that without suffix, whichever
    fits most rows (default: illust_id, id, path, file, file_name, filename, name or image)."""
    tags_from_text: str | None = None
    """Column for the comma-separated tags in text files beside the pictures (1.jpg: 1.txt or 1.jpg.txt)."""
    archives: bool = False
    """List the pictures inside tar (WebDataset), tar.gz and ZIP files instead of those that lie there as
    files; the catalog, a folder, then holds their bytes."""
    json_label: tuple[str, ...] = ()
    """Of archives: key of the JSON beside each picture (000.json) that becomes a column; may be repeated."""

    def __post_init__(self) -> None:
        self._check_pattern()
        given = (self.label_from_folder, self.tags_from_text, *self.json_label)
        names = [name for name in given if name is not None]
        folded = [name.casefold() for name in names]
        for name in names:
            known = name.casefold() in (*OWN_COLUMNS, *_WORKING)
            if not name or known or folded.count(name.casefold()) > 1:
                raise ConfigError(
                    f"a column of labels cannot be called {name!r}; give each a name of its own"
                )
        if self.labels_key is not None and self.labels is None:
            raise ConfigError("--labels-key names a column of --labels, which is not given")
        if self.json_label and not self.archives:
            raise ConfigError("--json-label is for --archives; of files use --labels")
        if self.archives and (self.labels or self.label_from_folder):
            raise ConfigError("--labels and --label-from-folder are for files, not for --archives")
        if self.archives and self.same_id == "newest":
            raise ConfigError("--same-id newest is for files, not for --archives")
        if self.archives and self.out.endswith(".parquet"):
            raise ConfigError(
                f"out {self.out}: of archives the catalog is a folder, as it holds their pictures"
            )

    def _check_pattern(self) -> None:
        if self.id_pattern is None:
            return
        try:
            groups = re.compile(self.id_pattern).groupindex
        except re.error as exc:
            raise ConfigError(f"id_pattern {self.id_pattern!r} is no regular expression: {exc}") from None
        if "id" not in groups or set(groups) - set(GROUPS):
            raise ConfigError(
                f"id_pattern {self.id_pattern!r}: expected a group (?P<id>…), perhaps (?P<page>…), and no "
                "other named one"
            )
