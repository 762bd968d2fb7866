"""A look at a store that changes nothing in it: does it answer, and which schema has it?"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from deployments.jobs.open import SQLITE
from deployments.jobs.statements import migrations
from deployments.settings import StoreSettings


@dataclass(frozen=True)
class Look:
    """What was seen: the server, its schema, the one that this release has, and how fast it was."""

    server: str
    schema: int
    latest: int
    answer_s: float = 0.0

    @property
    def is_current(self) -> bool:
        """Whether this release can open it without changing it."""
        return self.schema == self.latest


async def look_at(settings: StoreSettings) -> Look | None:
    """What is at `settings.url`; None for a file that is not there, and can be made.

    Raises:
        SetupError: it does not answer, or cannot be used; the message names the remedy.
    """
    if settings.url.startswith(SQLITE):
        from deployments.jobs.sqlite.inspect import version_in

        version = await asyncio.to_thread(version_in, Path(settings.url.removeprefix(SQLITE)))
        return None if version is None else Look("SQLite", version, len(migrations("sqlite")))
    from deployments.jobs.postgres.inspect import ask

    server, version, answer_s = await ask(settings.url)
    return Look(server, version, len(migrations("postgres")), answer_s)
