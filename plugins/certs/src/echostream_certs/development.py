"""The development pair: one self-signed certificate per user, made on first use and kept in a private folder.

Every process of one user finds the same pair, so a client can pin what a server shows without any set-up. The pair
is no secret from other programs of that user, and nobody else trusts it: it is for development, never for production.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from echostream_certs.browser import MOST_DAYS, browser_validity
from echostream_certs.certificate import pair_expiry, pin_of_der, self_signed
from echostream_core.errors import ConfigError

__all__ = ["DevelopmentPair", "development_directory", "development_pair"]

VALIDITY: Final = browser_validity(MOST_DAYS)
"""As long as browsers accept by its hash, so that pages can use the pair too."""
RENEW_BEFORE: Final = timedelta(days=4)
"""A pair with less than this left is replaced, so that a server started now can run for a few days."""

_KEY = "tls.dev"
_CERTIFICATE_NAME: Final = "certificate.pem"
_PRIVATE_KEY_NAME: Final = "private_key.pem"
_LOCK_NAME: Final = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevelopmentPair:
    """A self-signed certificate and its private key, as files."""

    certificate_path: Path
    """The certificate, PEM."""
    private_key_path: Path
    """Its private key, PEM, readable by this user only."""
    pin: str
    """``sha256:<64 hex digits>`` of the certificate: what a client pins."""
    certificate_der: bytes = field(repr=False)


def development_directory() -> Path:
    """Where the pair is kept: ``ECHOSTREAM_DEV_DIR``, else ``echostream/dev`` in the user's cache directory."""
    chosen = os.environ.get("ECHOSTREAM_DEV_DIR")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative XDG_CACHE_HOME is to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
        base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError as error:
        raise ConfigError(
            f"{_KEY}: this user has no home directory for the development certificate; set ECHOSTREAM_DEV_DIR",
            key=_KEY,
        ) from error
    return base / "echostream" / "dev"


def development_pair(directory: Path | None = None, *, now: datetime | None = None) -> DevelopmentPair:
    """The development certificate and key of this user; made when there is none, or fewer than 4 days remain.

    ``directory`` defaults to :func:`development_directory`. It is made with mode 0700; one that belongs to somebody
    else or that others may enter is refused. Safe against other processes that do the same at the same moment.
    Valid for localhost, 127.0.0.1, ::1 and this host's name. Raises ConfigError, which says what to do.
    """
    folder = directory if directory is not None else development_directory()
    now = now or datetime.now(UTC)
    try:
        _private_folder(folder)
        with _locked(folder / _LOCK_NAME):
            return _load(folder, now) or _make(folder, now)
    except OSError as error:
        raise ConfigError(
            f"{_KEY}: the development certificate cannot be kept in {str(folder)!r}: {error.strerror or error}; "
            "set ECHOSTREAM_DEV_DIR to a folder that this user can write to",
            key=_KEY,
        ) from error


def _private_folder(folder: Path) -> None:
    """Make ``folder`` with mode 0700, or check that the one that exists is ours alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    status = folder.lstat()  # not stat: a link could be turned to another place after the check
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{_KEY}: {str(folder)!r} is not a folder (nor may it be a link to one)", key=_KEY)
    if os.name != "posix":
        return
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{_KEY}: {str(folder)!r} belongs to another user (uid {status.st_uid}), who could exchange the key; "
            "set ECHOSTREAM_DEV_DIR to a folder of your own",
            key=_KEY,
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{_KEY}: {str(folder)!r} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}), "
            f"and keys are kept in it: chmod 700 {folder}",
            key=_KEY,
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; the operating system frees it if the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]  # Windows only
        yield
    finally:
        os.close(descriptor)


def _load(folder: Path, now: datetime) -> DevelopmentPair | None:
    """The pair in ``folder``; None when there is none that can be used for a while."""
    key_path = folder / _PRIVATE_KEY_NAME
    try:
        certificate = (folder / _CERTIFICATE_NAME).read_bytes()
        if os.name == "posix" and key_path.stat().st_mode & 0o077:
            return None  # somebody has opened the key's permissions: a new one costs nothing
        found = pair_expiry(certificate, key_path.read_bytes())
    except FileNotFoundError:
        return None
    if found is None or not RENEW_BEFORE <= found[1] - now <= VALIDITY:
        return None  # too old, or made by a version that made them for longer
    return _pair(folder, found[0])


def _make(folder: Path, now: datetime) -> DevelopmentPair:
    """Make a new pair. Called with the lock held: who reads without it sees an old or a new file, never half of one."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    certificate, private_key = self_signed(names, validity=VALIDITY, now=now)
    _replace(folder / _PRIVATE_KEY_NAME, private_key)
    _replace(folder / _CERTIFICATE_NAME, certificate)
    found = pair_expiry(certificate, private_key)
    assert found is not None  # it was made a moment ago
    return _pair(folder, found[0])


def _replace(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path`` in one step, readable by this user only."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # left over by a process that died here; the lock is ours
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _pair(folder: Path, certificate_der: bytes) -> DevelopmentPair:
    return DevelopmentPair(
        certificate_path=folder / _CERTIFICATE_NAME,
        private_key_path=folder / _PRIVATE_KEY_NAME,
        pin=pin_of_der(certificate_der),
        certificate_der=certificate_der,
    )
