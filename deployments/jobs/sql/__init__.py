"""SQL in files, a folder for each dialect: named statements and numbered migrations."""

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
NAME = re.compile(r"^-- name: (\w+)[^\n]*\n", re.MULTILINE)


@cache
def statements(dialect: str) -> dict[str, str]:
    """The statements of `dialect`, each under the name in the comment `-- name: …` above it."""
    _, *parts = NAME.split((FOLDER / dialect / "queries.sql").read_text())
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


@cache
def migrations(dialect: str) -> tuple[tuple[int, str], ...]:
    """The migrations of `dialect`, `NNN_what.sql`, in the order of their numbers from 1."""
    files = sorted((FOLDER / dialect).glob("[0-9][0-9][0-9]_*.sql"))
    found = tuple((int(file.name[:3]), file.read_text()) for file in files)
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return found
