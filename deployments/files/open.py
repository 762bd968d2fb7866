"""Opens the file store that the settings name."""

from deployments.errors import SetupError
from deployments.files.base import FileStore
from deployments.files.local import LocalFileStore
from deployments.settings import FileSettings

SCHEMES = ("s3", "gs", "az")


def open_file_store(settings: FileSettings) -> FileStore:
    """The store at `settings.root`.

    Raises:
        SetupError: it cannot be used; the message names the remedy.
    """
    scheme, separator, _ = settings.root.partition("://")
    if not separator:
        return LocalFileStore(settings)
    if scheme in SCHEMES:
        from deployments.files.object_store import ObjectFileStore

        return ObjectFileStore(settings)
    known = ", ".join(f"{known}://" for known in SCHEMES)
    raise SetupError(f"setting files.root: {settings.root} is neither a folder nor one of {known}")
