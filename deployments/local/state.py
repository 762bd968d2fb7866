"""The state folder: what a service on this machine keeps between runs."""

import json
import os
import secrets
from pathlib import Path

from deployments.errors import SetupError
from deployments.settings import api_key_from_environment, hash_key, store_from_environment

KEY_PREFIX = "florence-"
URL_LABEL = "__florence_url"


class StateFolder:
    """A private folder. With `make=False` it is only read.

    Raises:
        SetupError: it cannot be made or written.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self.folder = folder.expanduser().absolute()
        if make:
            self._make()

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'queue.db'}"

    @property
    def webhooks(self) -> Path:
        return self.folder / "webhooks"

    @property
    def targets(self) -> Path:
        """The file with the addresses of a running service's metrics, for Prometheus."""
        return self.folder / "targets.json"

    def service_url(self) -> str | None:
        """Where the service of this folder answers, if one runs."""
        try:
            [group] = json.loads(self.targets.read_text())
            return str(group["labels"][URL_LABEL])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def tls(self) -> Path:
        return self.folder / "tls"

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """Store, keys and files in this folder, as settings. FLORENCE_STORE goes first."""
        return {
            "store": {"url": store_from_environment() or self.store},
            "webhooks": {"keys": str(self.webhooks)},
            "files": {"root": str(self.files)},
        }

    def api_key(self) -> str:
        """The API key: from the environment, else the one made at the first start."""
        return api_key_from_environment() or self.stored_key() or self._new_key()

    def key_hashes(self) -> tuple[str, ...]:
        """The hashes of the accepted keys; the environment's key is added by the application.

        Raises:
            SetupError: the file that holds them is broken.
        """
        if api_key_from_environment():
            return ()
        self.api_key()
        return self.kept_hashes()

    def kept_hashes(self) -> tuple[str, ...]:
        """The hashes of the keys made at earlier starts.

        Raises:
            SetupError: the file that holds them is broken.
        """
        if not self._hashes.is_file():
            return ()
        try:
            return tuple(json.loads(self._hashes.read_text())["hashes"])
        except (ValueError, KeyError, TypeError):
            raise SetupError(
                f"{self._hashes} is broken: remove it, and the next start makes a new key"
            ) from None

    def stored_key(self) -> str | None:
        """The key made at an earlier start, if its file is still here."""
        if not self._key.is_file() or not self._hashes.is_file():
            return None
        return self._key.read_text().strip() or None

    def _make(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise SetupError(f"{self.folder} cannot be written: choose another folder with --state")

    @property
    def _key(self) -> Path:
        return self.folder / "api_key"

    @property
    def _hashes(self) -> Path:
        return self.folder / "keys.json"

    def _new_key(self) -> str:
        key = f"{KEY_PREFIX}{secrets.token_hex(4)}:{secrets.token_hex(16)}"
        write_private(self._hashes, json.dumps({"hashes": [hash_key(key)]}) + "\n")
        write_private(self._key, key + "\n")
        return key


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read. It is written whole or not at all.

    Raises:
        SetupError: the folder cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(text)
        temporary.replace(file)
    except OSError as error:
        raise unwritable(file, error) from None


def unwritable(path: Path, error: OSError) -> SetupError:
    return SetupError(f"cannot write {path} ({error.strerror}): choose another folder with --state")
