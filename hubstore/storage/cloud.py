"""Connections to object stores with the credentials of their providers' own tools; their errors as hubstore's.

Credentials come from the environment, from the files of the provider's own tools or from the machine that a provider
runs; they are held by the client alone, and no message repeats what a server said beyond its code.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubstore.errors import (
    MissingDependencyError,
    StorageUnreachableError,
    StoreAccessError,
    StoreError,
    StoreNotFoundError,
)
from hubstore.storage.location import WEB, Url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PATIENCE = datetime.timedelta(seconds=45)
"""How long one request is tried again while its server is away or broken."""

FIRST_PATIENCE = datetime.timedelta(seconds=8)
"""As long as no request was answered: then the endpoint is wrong more often than the server is away."""

READ_AGAIN = datetime.timedelta(minutes=5)
"""How long the keys of a file are used before it is read again: other tools renew them there."""

EXPIRES_EARLY = datetime.timedelta(minutes=5)
"""How long before keys expire the client asks for others."""

BY_ITSELF = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables from which obstore's client takes credentials without help."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
REMEDIES = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with a profile of ~/.aws/credentials, or "
    "AWS_SKIP_SIGNATURE=true to read what is public",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account, or run `gcloud auth "
    "application-default login`, or set GOOGLE_SKIP_SIGNATURE=true to read what is public",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_SKIP_SIGNATURE=true to read what is public",
}
"""Where the credentials of each kind of object store may be."""

UNKNOWN = ("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "AuthenticationFailed", "InvalidSecurity")


def connect(url: Url, patience: datetime.timedelta | None = None) -> ObjectStore:
    """A client for everything below a URL; nothing is asked of the server yet.

    Args:
        url: the URL.
        patience: how long a request is tried again; `PATIENCE` by default.

    Raises:
        StoreAccessError: no credentials are found, or a setting of the environment is not valid.
        MissingDependencyError: obstore is not installed.
    """
    stores = _stores()
    from obstore.exceptions import BaseError

    try:
        return _client(stores, url, patience or PATIENCE)
    except StoreError:
        raise
    except (BaseError, ValueError) as error:
        raise _not_valid(url, error) from None  # its text may repeat what is set


def _client(stores: Any, url: Url, patience: datetime.timedelta) -> ObjectStore:
    options: Any = {
        "retry_config": {
            "max_retries": 40,
            "retry_timeout": patience,
            "backoff": {
                "init_backoff": datetime.timedelta(milliseconds=100),
                "max_backoff": datetime.timedelta(seconds=3),
                "base": 2,
            },
        }
    }
    client: Any = {"connect_timeout": "5s", "timeout": "120s", "user_agent": "hubstore"}
    prefix = url.path or None
    found: ObjectStore
    if url.scheme == "s3":
        config = {"disable_bulk_delete": True, **s3_config(url)}
        client["allow_http"] = config.get("endpoint", "").startswith("http://")
        found = stores.S3Store(url.host, prefix=prefix, client_options=client, **config, **options)
    elif url.scheme == "gs":
        found = stores.GCSStore(url.host, prefix=prefix, client_options=client, **options)
    elif url.scheme == "az":
        found = stores.AzureStore(url.host, prefix=prefix, client_options=client, **options)
    else:
        client["allow_http"] = url.scheme == "http"
        found = stores.HTTPStore.from_url(str(url), client_options=client, **options)
    return found


def s3_config(url: Url) -> dict[str, Any]:
    """What the client does not find in the environment by itself: the profile's credentials, region and endpoint.

    Raises:
        StoreAccessError: there are no credentials anywhere, or the profile is not there or not valid.
        MissingDependencyError: they have to be looked up, and boto3 is not installed.
    """
    itself = any(os.environ.get(name) for name in BY_ITSELF)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = next((found for name in ENDPOINTS if (found := os.environ.get(name))), None)
    config: dict[str, Any] = {}
    if not itself or (_has_profile() and not (region and endpoint)):
        session, profile = _session(url)
        region, endpoint = region or profile.get("region"), endpoint or profile.get("endpoint_url")
        if not itself:
            _require_credentials(url, session)
            config["credential_provider"] = lambda: _credential(url)
    if region:
        config["region"] = region
    if endpoint:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", endpoint, re.IGNORECASE):
            raise StoreAccessError(
                f"{url}: its endpoint, AWS_ENDPOINT_URL or endpoint_url of the profile, is no URL; give one such as "
                "http://127.0.0.1:9000 or https://s3.example.org"
            )
        config["endpoint"] = endpoint
    return config


@contextlib.contextmanager
def translate_errors(what: str, root: Url | Path) -> Iterator[None]:
    """Turn what an object store's client raises into hubstore's errors.

    FileNotFoundError, AlreadyExistsError and PreconditionError of a key are raised as they are: the caller knows what
    they mean.

    Args:
        what: what is being done, to what: "reading s3://bucket/x.hub/zarr.json".
        root: the store, for the remedy.

    Raises:
        StoreAccessError: the credentials are missing, wrong, expired or not allowed to do it.
        StoreNotFoundError: there is no such bucket.
        StorageUnreachableError: the server did not answer, or answered with its own failure, in all of `PATIENCE`.
    """
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(what, root) from None
        raise
    except StoreError:
        raise
    except (exceptions.BaseError, PermissionError, ValueError) as error:
        raise _translated(what, root, error) from None  # its text may repeat a key's id or a signed request


def _translated(what: str, root: Url | Path, error: Exception) -> StoreError:
    from obstore import exceptions

    text = str(error)
    found = re.search(r"<Code>\s*(\w+)", text)
    code = found[1] if found else ""
    if code == "NoSuchBucket":
        return _no_bucket(what, root)
    if isinstance(error, exceptions.NotSupportedError):
        return StoreError(f"{what}: the server cannot do that; reading needs byte ranges (HTTP's Range)")
    if isinstance(error, ValueError | exceptions.InvalidPathError):
        return StoreError(f"{what}: no object can have this name; check its spelling")
    return _refused(what, root, error, code) or _unreachable(what, text, code)


def _refused(what: str, root: Url | Path, error: Exception, code: str) -> StoreAccessError | None:
    """What is wrong with the credentials, if that is what the server said."""
    from obstore import exceptions

    if code in EXPIRED:
        return StoreAccessError(
            f"{what}: the credentials have expired ({code}); renew them and run the same command again: "
            "what was committed stays"
        )
    if code in UNKNOWN or isinstance(error, exceptions.UnauthenticatedError):
        check = "the keys, AWS_ENDPOINT_URL and AWS_REGION" if _scheme(root) == "s3" else "them"
        return StoreAccessError(
            f"{what}: the server does not know these credentials ({code or 'unauthenticated'}); check {check}"
        )
    if isinstance(error, exceptions.PermissionDeniedError | PermissionError):
        return StoreAccessError(
            f"{what}: the credentials do not allow it ({code or 'permission denied'}); use others, or have them "
            f"allowed to do so below {root}"
        )
    if re.search(r"[Cc]redential|instance metadata|169\.254\.169\.254", str(error)):
        return StoreAccessError(f"{what}: {_without(root)}")
    return None


def _unreachable(what: str, text: str, code: str) -> StorageUnreachableError:
    status = re.search(r"\b([45]\d\d)\b [A-Z][a-z]", text)
    why = code or (f"HTTP {status[1]}" if status else "no answer")
    return StorageUnreachableError(
        f"{what}: the server failed or cannot be reached ({why}, tried again and again); check that it "
        "runs, and the endpoint, then run the same command again: what was committed stays"
    )


def no_place(what: str) -> StorageUnreachableError:
    """The error of a server that answers 404 to what needs no object."""
    return StorageUnreachableError(
        f"{what}: the server answers that there is no such place (HTTP 404); check the endpoint and the bucket, then "
        "run the same command again: what was committed stays"
    )


def _no_bucket(what: str, root: Url | Path) -> StoreNotFoundError:
    return StoreNotFoundError(f"{what}: there is no such bucket; make it, or check the name {root}")


def _without(root: Url | Path) -> str:
    return f"no credentials for {root} are found; {_remedy(root)}"


def _not_valid(url: Url, error: Exception) -> StoreError:
    """What the client says of a URL or of a setting, by its name instead of its value."""
    if url.scheme in WEB:
        return StoreError(f"{url}: is no URL that can be asked for ({error}); check its spelling")
    why = (str(error).splitlines() or [""])[0].rpartition(" error: ")[2]
    for name, value in os.environ.items():
        if value and name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            why = why.replace(f'"{value}"', name)
    why = re.sub(r'"[^"]*"', "a value", why)
    return StoreAccessError(
        f"{url}: what the environment sets for it is not valid: {why}; correct it, or {_remedy(url)}"
    )


def _remedy(root: Url | Path) -> str:
    return REMEDIES.get(_scheme(root), "give a URL that needs none: web servers are sent no credentials")


def _scheme(root: Url | Path) -> str:
    return root.scheme if isinstance(root, Url) else ""


def _has_profile() -> bool:
    """Whether a file of settings is there to be read: looking for it costs less than what reads it."""
    files = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    found = (os.path.expanduser(os.environ.get(name) or usual) for name, usual in files)
    return bool(os.environ.get("AWS_PROFILE")) or any(map(os.path.exists, found))


def _session(url: Url) -> tuple[Any, Mapping[str, Any]]:
    """botocore's session, and what the chosen profile says."""
    with _profile_errors(url):
        from botocore.session import Session

        session = Session()
        return session, session.get_scoped_config()


def _require_credentials(url: Url, session: Any) -> None:
    with _profile_errors(url):
        if session.get_credentials() is None:
            raise StoreAccessError(_without(url))


def _credential(url: Url) -> Any:
    """Credentials of obstore's provider, looked up anew, since other tools renew them in their files."""
    session, _ = _session(url)
    _require_credentials(url, session)
    with _profile_errors(url):
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider(session, ttl=READ_AGAIN + EXPIRES_EARLY)()


@contextlib.contextmanager
def _profile_errors(url: Url) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"{url}: profiles of ~/.aws, roles and a machine's credentials need boto3, which is not installed; install "
            "it with: pip install 'hubstore[remote]'"
        ) from error
    except StoreError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith("botocore"):
            raise
        raise StoreAccessError(
            f"{url}: the credentials of the profile {os.environ.get('AWS_PROFILE') or 'default'!r} cannot be had "
            f"({type(error).__name__}); log in again (`aws sso login`) or correct the profile, or {_remedy(url)}"
        ) from None  # its text may repeat what a process printed


def _stores() -> Any:
    try:
        import obstore.store
    except ImportError as error:
        raise MissingDependencyError(
            "object stores need obstore, which is not installed; install it with: pip install 'hubstore[remote]'"
        ) from error
    return obstore.store
