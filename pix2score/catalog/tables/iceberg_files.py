"""How ``pyiceberg`` reads the files of a table: on a disk and S3 by its own ways, in other stores by ours."""

from __future__ import annotations

from typing import Any

from pyiceberg.io.fsspec import FsspecFileIO

from pix2score.storage.places import canonical, filesystem


class PlaceFiles(FsspecFileIO):
    """pyiceberg's files over fsspec, those of ``gs://`` and ``az://`` by the filesystems of ``storage``.

    Raises ``AccessError`` for a location in a storage account that the environment does not name.
    """

    def new_input(self, location: str) -> Any:
        """As ``FileIO``."""
        return super().new_input(canonical(location))

    def new_output(self, location: str) -> Any:
        """As ``FileIO``."""
        return super().new_output(canonical(location))

    def _get_fs(self, scheme: str, hostname: str | None = None) -> Any:
        return filesystem(f"{scheme}://") if scheme in ("gs", "az") else super()._get_fs(scheme, hostname)
