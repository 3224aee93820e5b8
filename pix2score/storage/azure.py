"""Azure Blob Storage: how it is reached, and what its refusals mean.

One account: ``AZURE_STORAGE_CONNECTION_STRING``, or ``AZURE_STORAGE_ACCOUNT`` (or ``…_NAME``) with
``AZURE_STORAGE_KEY`` (or ``…_ACCOUNT_KEY``), a SAS token, a service principal, a workload identity, the Azure
CLI's login or the machine's identity.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, ClassVar
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request
from xml.etree import ElementTree

from pix2score.errors import AccessError
from pix2score.storage.remote import RemoteFileSystem
from pix2score.storage.remote_stores import answers
from pix2score.storage.verbatim import Found, ListingNotPossibleError, ListingQuery, Page

METADATA_HOST = "169.254.169.254"
HOST_SUFFIX = ".dfs.core.windows.net"
_VERSION = "2021-08-06"  # of the service's interface, of which a listing is all that is used
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_GIVEN = (
    *("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_TOKEN"),
    *(
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_MASTER_KEY",
        "AZURE_MSI_ENDPOINT",
        "AZURE_IDENTITY_ENDPOINT",
    ),
    *("IDENTITY_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USE_AZURE_CLI", "AZURE_SKIP_SIGNATURE"),
    *("AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"),
)
_SET = (
    "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, a SAS token "
    "(AZURE_STORAGE_SAS_TOKEN), or AZURE_USE_AZURE_CLI=true after `az login`"
)


class AzureFileSystem(RemoteFileSystem):
    """Blobs of the containers of one storage account."""

    protocol = "az"
    container = "container"
    refused: ClassVar[dict[str, str]] = {
        "AuthenticationFailed": (
            "the key (AZURE_STORAGE_KEY) or token does not belong to the account, or has expired, or this "
            "machine's clock is wrong"
        ),
        "AuthorizationFailure": (
            "the key (AZURE_STORAGE_KEY), the account's firewall or what the SAS token allows does not fit"
        ),
        "AuthorizationPermissionMismatch": (
            "the identity has no right to it: give it the role Storage Blob Data Contributor, or the SAS "
            "token more permissions"
        ),
        "AuthorizationResourceTypeMismatch": "the SAS token is for resources of another type",
        "InsufficientAccountPermissions": "the identity has no right to it",
        "AccountIsDisabled": "the account is disabled",
        "NoAuthenticationInformation": f"no credentials were sent; {_SET}",
        "PublicAccessNotPermitted": f"the account gives nothing without credentials; {_SET}",
    }

    def new_store(self, bucket: str, options: dict[str, Any]) -> Any:
        """As ``RemoteStores.new_store``."""
        from obstore.store import AzureStore

        config = _complete(bucket)
        options["client_options"]["allow_http"] = config.get("endpoint", "").startswith("http:")
        return AzureStore(bucket, **config, **options)

    def rust_options(self, bucket: str) -> dict[str, str]:
        """As ``RemoteStores.rust_options``."""
        config = _complete(bucket)
        given = {
            name.lower(): value
            for name, value in os.environ.items()
            if name.startswith(("AZURE_", "IDENTITY_")) and name != _CONNECTION_STRING
        }
        own = {f"azure_storage_{name}": value for name, value in config.items()}
        is_plain_http = config.get("endpoint", "").startswith("http:") or "use_emulator" in config
        return given | own | ({"allow_http": "true"} if is_plain_http else {})

    def listing_request(self, bucket: str, query: ListingQuery) -> Request:
        """As ``verbatim.Lister``."""
        config = _complete(bucket)
        words = {"restype": "container", "comp": "list", "prefix": query.prefix}
        words |= {"delimiter": "/"} if query.is_level else {}
        words |= {"marker": query.mark} if query.mark else {}
        words |= {"maxresults": str(query.most)} if query.most else {}
        account, key = config["account_name"], config.get("account_key")
        endpoint = config.get("endpoint", f"https://{account}.blob.core.windows.net").rstrip("/")
        url = f"{endpoint}/{bucket}?{urlencode(words)}"
        if key:
            return Request(url, headers=_signed(account, key, urlsplit(url).path, words))
        sas = config.get("sas_key") or _first("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
        if not sas:
            raise ListingNotPossibleError("with the account's key or a SAS token such containers are listed")
        return Request(f"{url}&{sas.lstrip('?')}", headers={"x-ms-version": _VERSION})

    def read_listing(self, body: bytes) -> Page:
        """As ``verbatim.Lister``."""
        root = ElementTree.fromstring(body)
        objects = [_found(blob) for blob in root.iterfind("Blobs/Blob")]
        folders = [_name(prefix) for prefix in root.iterfind("Blobs/BlobPrefix")]
        return Page(objects, folders, root.findtext("NextMarker") or "")

    def problem(self, text: str) -> str | None:
        """As ``RemoteStores.problem``."""
        if "dns error" in text or "failed to lookup address" in text:
            return f"there is no storage account {settings().get('account_name')!r}, or no network"
        if "/token" in text or "token request" in text.lower() or "Azure CLI" in text:
            return f"Azure gives no token for the credentials; {_SET}"
        return None


def _signed(account: str, key: str, path: str, query: dict[str, str]) -> dict[str, str]:
    """Headers of a GET with the account's key (Shared Key, version 2009-09-19 and later)."""
    own = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
    lines = ["GET", *[""] * 11, *(f"{name}:{value}" for name, value in own.items()), f"/{account}{path}"]
    text = "\n".join([*lines, *(f"{name}:{query[name]}" for name in sorted(query))])
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return {**own, "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}


def _found(blob: ElementTree.Element) -> Found:
    size, tag, changed = (
        blob.findtext(f"Properties/{name}", "") for name in ("Content-Length", "Etag", "Last-Modified")
    )
    return Found(_name(blob), int(size), tag, parsedate_to_datetime(changed))


def _name(element: ElementTree.Element) -> str:
    """Its name, which is percent-encoded where XML cannot hold it."""
    text = element.findtext("Name", "")
    is_encoded = element.find("Name[@Encoded='true']") is not None
    return unquote(text) if is_encoded else text


def _complete(container: str) -> dict[str, Any]:
    """The settings. Raises ``AccessError`` where they have no account or no credentials."""
    config = settings()
    if not config.get("account_name"):
        raise AccessError(f"no storage account for container {container!r}: {_SET}")
    if not any(name in config for name in ("account_key", "sas_key", "use_emulator")) and not (
        any(os.environ.get(name) for name in _GIVEN) or answers(METADATA_HOST)
    ):
        raise AccessError(f"no Azure credentials for container {container!r}; {_SET}")
    return config


def settings() -> dict[str, Any]:
    """``account_name``, ``account_key``, ``sas_key`` and ``endpoint``, those that the environment gives."""
    text = os.environ.get(_CONNECTION_STRING)
    if text:
        return _of_connection_string(text)
    named = {
        "account_name": _first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        "account_key": _first("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
        "endpoint": _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }
    return {name: value for name, value in named.items() if value}


def _first(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _of_connection_string(text: str) -> dict[str, Any]:
    """Of the form that Azure's portal shows: ``Name=value;…``. Raises ``AccessError``, without the text."""
    parts = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
    if parts.get("UseDevelopmentStorage", "").lower() == "true":
        return {"account_name": "devstoreaccount1", "use_emulator": "true"}
    named = {
        "account_name": parts.get("AccountName"),
        "account_key": parts.get("AccountKey"),
        "sas_key": parts.get("SharedAccessSignature"),
        "endpoint": parts.get("BlobEndpoint") or _endpoint(parts),
    }
    config = {name: value for name, value in named.items() if value}
    host = config.get("endpoint", "").partition("://")[2].rstrip("/")
    if "account_name" not in config and host:  # as in the string of a SAS
        config["account_name"] = host.partition("/")[2] or host.partition(".")[0]
    return config


def _endpoint(parts: dict[str, str]) -> str | None:
    name, suffix = parts.get("AccountName"), parts.get("EndpointSuffix")
    return f"{parts.get('DefaultEndpointsProtocol', 'https')}://{name}.blob.{suffix}" if suffix else None


def canonical(place: str) -> str:
    """``az://container/…`` of ``abfs[s]://container/…`` and ``abfs[s]://container@account…/…``.

    Raises ``AccessError`` if that names another account than the environment does.
    """
    rest = place.partition("://")[2]
    name, slash, key = rest.partition("/")
    container, at, host = name.partition("@")
    own = settings().get("account_name")
    account = host.partition(".")[0]
    if at and account != own:
        raise AccessError(
            f"place {place!r} is of the account {account!r}, the environment's is {own!r}: {_SET}"
        )
    return f"az://{container}{slash}{key}"
