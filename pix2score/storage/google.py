"""Google Cloud Storage: how it is reached, and what its refusals mean.

Credentials are Google's application default ones (``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's, the machine's
own), an emulator is ``STORAGE_EMULATOR_HOST``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode
from urllib.request import Request
from xml.etree import ElementTree

from pix2score.errors import AccessError
from pix2score.storage import google_auth
from pix2score.storage.remote import RemoteFileSystem
from pix2score.storage.remote_stores import answers
from pix2score.storage.verbatim import Found, ListingNotPossibleError, ListingQuery, Page

_URL = "https://storage.googleapis.com"
METADATA_HOST = "metadata.google.internal"
_OF_GCLOUD = Path(".config/gcloud/application_default_credentials.json")
_KINDS = ("service_account", "authorized_user")
_BY_LIBRARY = ("external_account", "external_account_authorized_user", "impersonated_service_account")
"""Types of credentials that obstore does not read."""
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
        options["client_options"]["allow_http"] = os.environ.get("GOOGLE_BASE_URL", "").startswith("http:")
        if _check_credentials(bucket, (*_OF_ALL, "GOOGLE_BEARER_TOKEN")) in _BY_LIBRARY:
            google_auth.token()  # what is wrong is told here; obstore would tell of a refusal
            return GCSStore(bucket, credential_provider=google_auth.token, **options)
        return GCSStore(bucket, **options)

    def rust_options(self, bucket: str) -> dict[str, str]:
        """As ``RemoteStores.rust_options``."""
        if url := _emulator():
            account = {"gcs_base_url": url, "disable_oauth": True}
            none = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            return {"google_service_account_key": json.dumps(account | none), "allow_http": "true"}
        if (kind := _check_credentials(bucket, _OF_ALL)) in _BY_LIBRARY:
            raise AccessError(
                f"Google credentials of type {kind!r} are not read by the libraries of tables; {_SET}"
            )
        names = (*_OF_ALL, "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE")
        return {name.lower(): value for name in names if (value := os.environ.get(name))}

    def listing_request(self, bucket: str, query: ListingQuery) -> Request:
        """As ``verbatim.Lister``."""
        words = {"list-type": "2", "prefix": query.prefix}
        words |= {"delimiter": "/"} if query.is_level else {}
        words |= {"continuation-token": query.mark} if query.mark else {}
        words |= {"max-keys": str(query.most)} if query.most else {}
        url = _emulator() or os.environ.get("GOOGLE_BASE_URL", "").rstrip("/") or _URL
        headers = {"Authorization": f"Bearer {token}"} if (token := _token()) else {}
        return Request(f"{url}/{quote(bucket, safe='')}?{urlencode(words)}", headers=headers)

    def read_listing(self, body: bytes) -> Page:
        """As ``verbatim.Lister``."""
        root = ElementTree.fromstring(body)
        space = root.tag.rpartition("ListBucketResult")[0]
        objects = [_found(item, space) for item in root.iterfind(f"{space}Contents")]
        folders = [item.findtext(f"{space}Prefix", "") for item in root.iterfind(f"{space}CommonPrefixes")]
        return Page(objects, folders, root.findtext(f"{space}NextContinuationToken", ""))

    def problem(self, text: str) -> str | None:
        """As ``RemoteStores.problem``."""
        if "oauth2" in text or "token" in text.lower():
            return f"Google gives no token for the credentials; {_SET}"
        return None


def _found(item: ElementTree.Element, space: str) -> Found:
    key, size, tag, changed = (
        item.findtext(space + name, "") for name in ("Key", "Size", "ETag", "LastModified")
    )
    return Found(key, int(size), tag, datetime.fromisoformat(changed))


def _token() -> str | None:
    """For a request of our own; None where no credentials are sent.

    Raises ``ListingNotPossibleError`` where it takes Google's library, and that is not there.
    """
    if _emulator() or _is_unsigned():
        return None
    if given := os.environ.get("GOOGLE_BEARER_TOKEN"):
        return given
    if not google_auth.is_installed():
        raise ListingNotPossibleError(f"{google_auth.INSTALL} lets such buckets be listed")
    return str(google_auth.token()["token"])


def _emulator() -> str:
    """URL of an emulator; empty for Google's own service."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if "://" in host or not host else f"http://{host}"


def _any() -> Any:
    """Credentials of an emulator, which asks for none."""
    return {"token": "emulator", "expires_at": None}


def _check_credentials(bucket: str, names: Sequence[str]) -> str:
    """The type of credentials that a file has; empty where there is none.

    ``names``: variables of which one is enough. Raises ``AccessError`` where no credentials can be found,
    which would be known only after minutes otherwise.
    """
    if any(os.environ.get(name) for name in names) or _is_unsigned():
        return ""
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    path = Path(given) if given else Path.home() / _OF_GCLOUD
    if given or path.is_file():
        return _check_file(path, bucket)
    if not answers(METADATA_HOST):
        raise AccessError(f"no Google credentials for bucket {bucket!r}; {_SET}")
    return ""


def _is_unsigned() -> bool:
    return os.environ.get("GOOGLE_SKIP_SIGNATURE", "").lower() in ("1", "true")


def _check_file(path: Path, bucket: str) -> str:
    where = f"the Google credentials {path} for bucket {bucket!r}"
    try:
        kind = json.loads(path.read_bytes()).get("type")
    except (OSError, ValueError, AttributeError):
        raise AccessError(f"{where} cannot be read; {_SET}") from None
    if kind in _BY_LIBRARY and not google_auth.is_installed():
        raise AccessError(f"{where} are of type {kind!r}, which takes an extra: {google_auth.INSTALL}")
    if kind not in (*_KINDS, *_BY_LIBRARY):
        read = ", ".join((*_KINDS, *_BY_LIBRARY))
        raise AccessError(f"{where} are of type {kind!r}; read are {read}; {_SET}")
    return str(kind)
