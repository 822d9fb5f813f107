"""The way to object storage: whose it is, how long it may take, and what is said when it does not answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ovseg.errors import OvsegError, StorageError, require

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "memory": "fsspec",
}  # by scheme; memory is that of this process, for tests
_WAIT = {"connect_timeout": 5, "read_timeout": 30}  # seconds
_PATIENCE = 60.0  # seconds for a first answer, whatever a backend does in between
# Backends raise errors of packages that need not be installed, so they are known by name.
_LOCKED_OUT = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "ProfileNotFound",
    "SSOError",
    "DefaultCredentialsError",
    "RefreshError",
}
_NO_ANSWER = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "TimeoutError", "FSTimeoutError"}


def is_stored(source: Any) -> bool:
    """Whether ``source`` is the address of something in object storage, such as ``s3://bucket/photos``."""
    return isinstance(source, str) and _scheme(source) in _PACKAGES


def key_of(address: str) -> str:
    """An address without its scheme: bucket and name."""
    return address.partition("://")[2]


def address_of(address: str, name: Any) -> str:
    """The address of what a backend calls ``name``, in the storage of ``address``."""
    return f"{_scheme(address)}://{str(name).lstrip('/')}"


def opened(address: str) -> Any:
    """The file system of fsspec behind an address.

    Raises:
        MissingDependencyError: its package is not installed.
        StorageError: it refuses the settings of this machine.
    """
    with answering(address):
        return _opened(_scheme(address))


def first_answer(files: Any, name: str) -> dict[str, Any]:
    """What storage says of ``name``, or an error, within a minute: a backend may try for much longer.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    if not files.async_impl:
        return dict(files.info(name))
    from fsspec.asyn import sync

    return dict(sync(files.loop, files._info, name, timeout=_PATIENCE))


@contextmanager
def answering(address: str, *, error: type[OvsegError] = StorageError) -> Iterator[None]:
    """Say in one sentence why storage did not do what the block asked of it.

    Args:
        address: what was asked for.
        error: raised for what concerns this address alone.

    Raises:
        StorageError: it cannot be reached, or lets nobody in.
        OvsegError: ``error``: it may not be read or written, or anything else.
    """
    try:
        yield
    except OvsegError:
        raise
    except FileNotFoundError as problem:
        raise error(f"there is no '{address}' in storage, or no longer; check the address") from problem
    except Exception as problem:  # backends raise almost anything
        names = {kind.__name__ for kind in type(problem).__mro__}
        if names & _LOCKED_OUT:
            raise StorageError(
                f"the storage of '{address}' wants credentials, got none that it can use ({_told(problem)}); set "
                "them as its own tools ask for them (of S3: 'aws configure', or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY)"
            ) from problem
        if names & _NO_ANSWER:
            raise StorageError(
                f"cannot reach the storage of '{address}' ({_told(problem)}); check the network, and the endpoint "
                "(of S3 that is not Amazon's: AWS_ENDPOINT_URL); what is done is kept, run again to go on"
            ) from problem
        if isinstance(problem, PermissionError):
            raise error(
                f"storage refuses '{address}' ({_told(problem)}); check the credentials, and what they allow"
            ) from problem
        raise error(f"storage failed at '{address}' ({_told(problem)}); try again") from problem


@cache
def _opened(scheme: str) -> Any:
    package = _PACKAGES[scheme]
    require(package, extra="storage")
    logging.getLogger(package).setLevel(logging.CRITICAL)  # the error at the end of its attempts says enough
    import fsspec

    # Listings are not kept: what is asked for is what is there now.
    settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        settings["config_kwargs"] = {**_WAIT, "retries": {"max_attempts": 2}}
    return fsspec.filesystem(scheme, **settings)


def _scheme(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    return scheme.lower() if separator else ""


def _told(problem: Exception) -> str:
    text = " ".join(str(problem).split()).rstrip(".")
    return text[:160] or type(problem).__name__
