"""Private Ed25519 keys in a folder: one PEM file (PKCS8) each, whose name is the key's id."""

import base64
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.errors import SetupError

SUFFIX = ".pem"
REMEDY = "put a key there, as `openssl genpkey -algorithm ed25519 -out NAME.pem` makes it"


@dataclass(frozen=True)
class PrivateKey:
    """A key to sign with, and the id under which its public half is published."""

    kid: str
    private: Ed25519PrivateKey

    @property
    def x(self) -> str:
        """The public half: base64url with its padding, without which fal's verifier fails."""
        return base64.urlsafe_b64encode(self.private.public_key().public_bytes_raw()).decode()

    @property
    def pem(self) -> bytes:
        """The private half as text."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def read_keys(folder: Path) -> dict[str, PrivateKey]:
    """The keys in `folder` by id, in the order of their names; none when it does not exist.

    Raises:
        SetupError: a PEM file is no Ed25519 key, or cannot be read.
    """
    files = sorted(file for file in folder.glob(f"*{SUFFIX}") if not file.name.startswith("."))
    return {file.stem: PrivateKey(file.stem, read_key(file)) for file in files}


def read_key(file: Path) -> Ed25519PrivateKey:
    """The key in `file`.

    Raises:
        SetupError: there is none that can be read.
    """
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SetupError(f"cannot read the webhook key {file} ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise no_key(file) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise no_key(file)
    return key


def no_key(file: Path) -> SetupError:
    """The error for a file that holds something else."""
    return SetupError(f"{file} is no Ed25519 key without a password: remove it, and {REMEDY}")


def make_key(folder: Path) -> PrivateKey:
    """A new key in `folder`, readable by its owner alone, whole or not at all.

    Raises:
        SetupError: the folder cannot be written.
    """
    key = PrivateKey(secrets.token_hex(8), Ed25519PrivateKey.generate())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(folder / f"{key.kid}{SUFFIX}", key.pem)
    except OSError as error:
        raise SetupError(
            f"no webhook key can be made in {folder} ({error.strerror}): {REMEDY}"
        ) from None
    return key


def write(file: Path, content: bytes) -> None:
    """Write a private file that survives a crash once it has its name."""
    temporary = file.with_name(f".{file.name}")
    temporary.touch(mode=0o600, exist_ok=False)
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
