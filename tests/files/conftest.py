"""What more than one test of files needs."""

from pathlib import Path

import pytest

from deployments.files.local import LocalFileStore
from deployments.settings import FileSettings


@pytest.fixture
def store(tmp_path: Path) -> LocalFileStore:
    """An empty folder."""
    return LocalFileStore(FileSettings(root=str(tmp_path)))
