"""API keys, their limits on rate and concurrency, and what they have used."""

from collections.abc import Sequence
from dataclasses import astuple

from asyncpg import Record, UniqueViolationError

from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.columns import COLUMNS
from deployments.jobs.postgres.database import Transaction
from deployments.jobs.postgres.outcomes import columns
from deployments.jobs.postgres.part import CLAIMS, Part
from deployments.jobs.rate_limit import pace


class Keys(Part):
    """Who may call, and how much."""

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        limits = key.concurrency, key.rate, key.expires_at, key.revoked_at
        try:
            await self._database.rows("add_key", key.id, key.hash, key.name, *limits)
        except UniqueViolationError as error:
            raise taken(key, error) from None

    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash."""
        row = await self._database.row("key_by_hash", key_hash)
        return None if row is None else key_in(row)

    async def keys(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return [key_in(row) for row in await self._database.rows("keys")]

    async def revoke_key(self, key_id: str) -> bool:
        """Let the key open nothing any more."""
        return await self._database.value("revoke_key", key_id) is not None

    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Give the key another secret."""
        try:
            found = await self._database.value("replace_key_hash", key_id, key_hash)
        except UniqueViolationError:
            raise ValueError("there is a key with this hash already") from None
        return found is not None

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one request against a rate."""

        async def work(transaction: Transaction) -> float:
            row = await transaction.row("pace", key_id)
            assert row
            wait, due = pace(row["due"], row["now"], rate, burst)
            if due != row["due"]:
                await transaction.rows("keep_pace", key_id, due)
            return wait

        return await self._database.together(work)

    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Take a place; under the lock of the claims, if places are counted at all."""

        async def work(transaction: Transaction) -> bool:
            bound = await transaction.value("bound", key_id)
            if bound is not None:
                await transaction.value("lock", CLAIMS)
            await transaction.rows("release_slot", run_id)  # a run that asks again keeps one place
            if bound is not None and await transaction.value("busy", key_id) >= bound:
                return False
            await transaction.rows("acquire_slot", run_id, key_id, ttl_s)
            return True

        return await self._database.together(work)

    async def release_slot(self, run_id: str) -> None:
        """Give the place back."""
        await self._database.rows("release_slot", run_id)

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used."""
        if usages:
            await self._database.rows("add_usage", *columns(astuple(used) for used in usages))

    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        """What was used."""
        return [Usage(**row) for row in await self._database.rows("usage", since_day, key_id)]


def taken(key: ApiKey, error: UniqueViolationError) -> ValueError:
    """What to tell when a key is there already."""
    if error.constraint_name == "api_key_hash":
        return ValueError("there is a key with this hash already")
    return ValueError(f"there is a key {key.id} already")


def key_in(row: Record) -> ApiKey:
    """The key in `row`."""
    return ApiKey(**{column: row[column] for column in COLUMNS["api_key"]})
