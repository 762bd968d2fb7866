"""The whole store: its parts over one database."""

from typing import Self

from deployments.jobs.postgres.claiming import Claiming
from deployments.jobs.postgres.closing import Closing
from deployments.jobs.postgres.copying import Copying
from deployments.jobs.postgres.database import Database
from deployments.jobs.postgres.deliveries import Deliveries
from deployments.jobs.postgres.keys import Keys
from deployments.jobs.postgres.reading import Reading
from deployments.jobs.postgres.submitting import Submitting
from deployments.settings import QueueSettings


class PostgresStore(Submitting, Claiming, Closing, Reading, Deliveries, Keys, Copying):
    """Requests, webhooks and keys in PostgreSQL; see Store for what the methods mean."""

    @classmethod
    async def open(cls, url: str, rules: QueueSettings, pool_size: int) -> Self:
        """The store at `url`, its schema brought up to date.

        Raises:
            SetupError: it cannot be used; the message names the remedy, never the password.
        """
        return cls(await Database.open(url, pool_size), rules)

    async def now(self) -> float:
        """The store's clock."""
        return float(await self._database.value("now"))

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`."""
        return bytes.fromhex(await self._database.value("secret", name, fresh.hex()))

    async def close(self) -> None:
        """Finish what is under way, and let go of the connections."""
        await self._submits.finished()
        await self._finishes.finished()
        await self._database.close()
