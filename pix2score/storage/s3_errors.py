"""What a store refuses for good, or what the standard AWS chain lacks: named in one line, never a key or
secret in it.

Own words for each, as botocore's and the stores' own texts quote key ids and tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

REFUSED = {
    "AccountProblem": "there is a problem with the account",
    "NotSignedUp": "the account is not signed up for S3",
    "InvalidAccessKeyId": (
        "the store does not know this access key id (AWS_ACCESS_KEY_ID): a typing error, "
        "or a key of another store"
    ),
    "SignatureDoesNotMatch": (
        "the secret key (AWS_SECRET_ACCESS_KEY) does not belong to the access key id, "
        "or the region is another"
    ),
    "ExpiredToken": "the credentials have expired; get new ones",
    "ExpiredTokenException": "the credentials have expired; get new ones",
    "TokenRefreshRequired": "the credentials have expired; get new ones",
    "InvalidToken": "the session token (AWS_SESSION_TOKEN) is not valid for this key",
    "InvalidSecurity": "the credentials are not valid",
    "InvalidClientTokenId": "the store does not know this access key id (AWS_ACCESS_KEY_ID)",
    "UnrecognizedClientException": "the store does not know these credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "RequestExpired": "the clock of this machine is wrong: set it",
    "AuthorizationHeaderMalformed": "the region is another than AWS_REGION or the profile says",
    "InvalidRegion": "the region is another than AWS_REGION or the profile says",
    "PermanentRedirect": (
        "the bucket is in another region than AWS_REGION or the profile says, or at another endpoint"
    ),
    "301": "the bucket is in another region than AWS_REGION or the profile says, or at another endpoint",
    "InvalidPayer": "the bucket's owner lets others pay: requester pays is not supported",
}
"""Code of an answer -> what is wrong. Asking again changes nothing."""

_LOGIN = "the login (SSO) has expired or was never made: `aws sso login`"
_CHAIN = {
    boto.NoCredentialsError: "no AWS credentials; set them by the standard AWS chain",
    boto.ProfileNotFound: "the AWS configuration has no profile {profile!r}, which AWS_PROFILE names",
    boto.PartialCredentialsError: (
        "half of the AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together"
    ),
    boto.SSOError: _LOGIN,
    boto.TokenRetrievalError: _LOGIN,
    boto.NoAuthTokenError: _LOGIN,
    boto.LoginError: "the AWS login has expired or is incomplete: log in again",
    boto.CredentialRetrievalError: (
        "the AWS credentials could not be fetched, by the profile's process, role or login"
    ),
    boto.MetadataRetrievalError: (
        "the AWS credentials could not be fetched from the machine's metadata service"
    ),
    boto.RefreshWithMFAUnsupportedError: "the profile's role wants a code (MFA) for every refresh",
    boto.UnknownCredentialError: "the profile names a source of credentials that is not known",
    boto.ConfigParseError: "the AWS configuration {path} cannot be read: it is no valid INI file",
    boto.ConfigNotFound: "the AWS configuration {path} is not there",
    boto.InvalidConfigError: "the profile in the AWS configuration is incomplete or wrong",
    boto.NoRegionError: "no region; set AWS_REGION",
    boto.InvalidRegionError: (
        "{region_name!r} (AWS_REGION, AWS_DEFAULT_REGION or the profile's region) is no region"
    ),
    boto.UnknownRegionError: (
        "{region_name!r} (AWS_REGION, AWS_DEFAULT_REGION or the profile's region) is no region"
    ),
    boto.EndpointProviderError: "no endpoint fits the region and the settings",
    boto.InvalidEndpointConfigurationError: "the endpoint's settings are wrong",
    boto.MissingDependencyException: "the way of the AWS credentials needs a package that is not installed",
    boto.InvalidProxiesConfigError: "the proxy's settings are wrong",
    boto.InvalidRetryConfigurationError: "the retry settings of the AWS configuration are wrong",
    boto.InvalidDefaultsMode: "defaults_mode of the AWS configuration (AWS_DEFAULTS_MODE) is not known",
    boto.InvalidIMDSEndpointError: "the metadata service's endpoint is wrong",
}


def access_problem(exc: BaseException) -> str | None:
    """What is wrong with the credentials, the region or the endpoint, if that is it and asking again changes
    nothing.

    None for anything else; also for a plain refusal, which says no more than that.
    """
    return next((problem for one in _chain(exc) if (problem := _one_problem(one))), None)


def is_without_reason(exc: BaseException) -> bool:
    """Whether a HEAD was refused: its answer has no body that could say why."""
    heads = (
        one for one in _chain(exc) if isinstance(one, ClientError) and one.operation_name.startswith("Head")
    )
    return any(_code(one) in ("400", "403") for one in heads)


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code"))


def _one_problem(exc: BaseException) -> str | None:
    if isinstance(exc, ClientError):
        if _code(exc) == "400" and exc.operation_name.startswith("Head"):
            return "the credentials have expired or are malformed, or the region is another"
        return REFUSED.get(_code(exc))
    if isinstance(exc, boto.EndpointConnectionError):
        return _unknown_region() if "amazonaws" in str(exc) else None
    if isinstance(exc, BotoCoreError):
        text = next((text for kind, text in _CHAIN.items() if isinstance(exc, kind)), None)
        return text.format_map(_Known(exc.kwargs)) if text else None
    if isinstance(exc, ValueError) and "Invalid endpoint" in str(exc):
        url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "of the profile"
        return f"the endpoint {url} is no URL: expected http://host or https://host, with its port"
    return None


class _Known(dict[str, Any]):
    """What an exception tells of itself."""

    def __missing__(self, name: str) -> str:
        return "?"


def _unknown_region() -> str | None:
    """A host of AWS that cannot be reached: perhaps because its region does not exist."""
    import botocore.session  # 0.1 s, which a run without S3 does not need

    session = botocore.session.get_session()
    region = session.get_config_variable("region")
    try:
        session.get_partition_for_region(region or "us-east-1")
    except boto.UnknownRegionError as exc:
        return _one_problem(exc)
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
