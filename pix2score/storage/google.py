"""Google Cloud Storage: how it is reached, and what its refusals mean.

Credentials are Google's application default ones (``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's, the machine's
own), an emulator is ``STORAGE_EMULATOR_HOST``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pix2score.errors import AccessError
from pix2score.storage.remote import RemoteFileSystem
from pix2score.storage.remote_stores import answers

METADATA_HOST = "metadata.google.internal"
_OF_GCLOUD = Path(".config/gcloud/application_default_credentials.json")
_KINDS = ("service_account", "authorized_user")
_OF_ALL = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY")
"""Credentials that libraries on earlier versions of the object store know too, unlike a bearer token."""
_SET = (
    "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or log in by "
    "`gcloud auth application-default login`"
)


class GoogleFileSystem(RemoteFileSystem):
    """Objects of Google Cloud Storage."""

    protocol = "gs"
    refused: ClassVar[dict[str, str]] = {
        "AccessDenied": "the account has no right to it: give it the role Storage Object User on the bucket",
        "InvalidSecurity": f"the credentials are not valid; {_SET}",
        "ExpiredToken": f"the credentials have expired; {_SET}",
        "UserProjectMissing": "the bucket's owner lets others pay: requester pays is not supported",
        "UserProjectAccountProblem": "there is a problem with the project's billing",
    }

    def new_store(self, bucket: str, options: dict[str, Any]) -> Any:
        """As ``RemoteStores.new_store``."""
        from obstore.store import GCSStore

        if url := _emulator():
            options["client_options"]["allow_http"] = url.startswith("http:")
            return GCSStore(bucket, base_url=url, credential_provider=_any, **options)
        _check_credentials(bucket, (*_OF_ALL, "GOOGLE_BEARER_TOKEN"))
        return GCSStore(bucket, **options)

    def rust_options(self, bucket: str) -> dict[str, str]:
        """As ``RemoteStores.rust_options``."""
        if url := _emulator():
            account = {"gcs_base_url": url, "disable_oauth": True}
            none = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            return {"google_service_account_key": json.dumps(account | none), "allow_http": "true"}
        _check_credentials(bucket, _OF_ALL)
        names = (*_OF_ALL, "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE")
        return {name.lower(): value for name in names if (value := os.environ.get(name))}

    def problem(self, text: str) -> str | None:
        """As ``RemoteStores.problem``."""
        if "oauth2" in text or "token" in text.lower():
            return f"Google gives no token for the credentials; {_SET}"
        return None


def _emulator() -> str:
    """URL of an emulator; empty for Google's own service."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if "://" in host or not host else f"http://{host}"


def _any() -> Any:
    """Credentials of an emulator, which asks for none."""
    return {"token": "emulator", "expires_at": None}


def _check_credentials(bucket: str, names: Sequence[str]) -> None:
    """Raise ``AccessError`` where none can be found, which would be known only after minutes otherwise.

    ``names``: variables of which one is enough.
    """
    if any(os.environ.get(name) for name in names) or _is_unsigned():
        return
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    path = Path(given) if given else Path.home() / _OF_GCLOUD
    if given or path.is_file():
        _check_file(path, bucket)
    elif not answers(METADATA_HOST):
        raise AccessError(f"no Google credentials for bucket {bucket!r}; {_SET}")


def _is_unsigned() -> bool:
    return os.environ.get("GOOGLE_SKIP_SIGNATURE", "").lower() in ("1", "true")


def _check_file(path: Path, bucket: str) -> None:
    try:
        kind = json.loads(path.read_bytes()).get("type")
    except (OSError, ValueError, AttributeError):
        raise AccessError(
            f"the Google credentials {path} for bucket {bucket!r} cannot be read; {_SET}"
        ) from None
    if kind not in _KINDS:
        raise AccessError(
            f"the Google credentials {path} for bucket {bucket!r} are of type {kind!r}; read are "
            f"{' and '.join(_KINDS)}"
        )
