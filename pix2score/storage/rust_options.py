"""How libraries on Rust's object store reach a place: a local path as it is, S3 by the standard AWS chain,
Google and Azure as ``google`` and ``azure`` do."""

from __future__ import annotations

import botocore.session
from botocore.exceptions import BotoCoreError

from pix2score.storage.folder import Folder
from pix2score.storage.places import filesystem, is_remote, is_s3, named_errors, split

_RENEWED_BY_ITSELF = ("iam-role", "container-role", "assume-role-with-web-identity")
"""Ways of credentials that Rust's object store knows too, and renews."""


def storage_options(place: str) -> dict[str, str]:
    """Options of a library on Rust's object store: of S3 credentials, region and endpoint as botocore finds
    them, of others what the environment gives.

    Credentials of a profile last as long as they do. Raises ``AccessError`` as ``storage`` does.
    """
    if not is_s3(place):
        return filesystem(place).rust_options(split(place)[0]) if is_remote(place) else {}
    with named_errors(place):
        fs = Folder(place).fs
        fs.connect()
        meta, credentials = fs.s3.meta, botocore.session.get_session().get_credentials()
    options = {"aws_region": meta.region_name, "aws_endpoint": meta.endpoint_url}
    if meta.endpoint_url.startswith("http:"):
        options["aws_allow_http"] = "true"
    if credentials is None or credentials.method in _RENEWED_BY_ITSELF:
        return options
    with named_errors(place):
        try:
            frozen = credentials.get_frozen_credentials()
        except BotoCoreError:
            return options
    options |= {"aws_access_key_id": frozen.access_key, "aws_secret_access_key": frozen.secret_key}
    return options | ({"aws_session_token": frozen.token} if frozen.token else {})
