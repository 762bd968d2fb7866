"""The folder that a command writes its pictures to."""

from pathlib import Path

from deployments.errors import SetupError


def make_folder(folder: Path) -> None:
    """Make the folder for pictures.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {folder} ({error.strerror}): choose another --out") from None
