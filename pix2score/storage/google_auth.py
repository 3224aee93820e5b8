"""Google credentials by Google's own library (extra ``google``): of the types that obstore does not read, and
tokens for requests that are not obstore's."""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC
from typing import Any

from pix2score.errors import AccessError

_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]
INSTALL = "pip install 'pix2score[google]'"


def is_installed() -> bool:
    """Whether the library is there."""
    try:
        import google.auth
        import google.auth.transport.requests  # noqa: F401
    except ImportError:
        return False
    return True


def token() -> Any:
    """A token of the application default credentials: ``token`` and ``expires_at``, as obstore asks for.

    Raises ``AccessError`` where there is none.
    """
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials = _credentials(os.getpid())
        if not credentials.valid:
            credentials.refresh(Request())
    except (GoogleAuthError, OSError, ValueError) as exc:
        raise AccessError(
            f"Google gives no token for the credentials ({type(exc).__name__}); `gcloud auth "
            "application-default print-access-token` says more"
        ) from None
    expiry = credentials.expiry
    return {"token": credentials.token, "expires_at": expiry.replace(tzinfo=UTC) if expiry else None}


@functools.lru_cache(maxsize=1)
def _credentials(_pid: int) -> Any:
    import google.auth
    from google.oauth2 import service_account

    of_account: Any = service_account.Credentials
    if key := os.environ.get("GOOGLE_SERVICE_ACCOUNT_KEY"):
        return of_account.from_service_account_info(json.loads(key), scopes=_SCOPES)
    if path := os.environ.get("GOOGLE_SERVICE_ACCOUNT") or os.environ.get("GOOGLE_SERVICE_ACCOUNT_PATH"):
        return of_account.from_service_account_file(path, scopes=_SCOPES)
    return google.auth.default(scopes=_SCOPES)[0]
