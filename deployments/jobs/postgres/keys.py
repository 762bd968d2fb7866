"""API keys, their limits on rate and concurrency, and what they have used."""

from collections.abc import Sequence
from dataclasses import astuple

from asyncpg import UniqueViolationError

from deployments.jobs.api_key import ApiKey, Usage, rate_limit
from deployments.jobs.postgres.database import CLAIMS, DatabaseStore, Transaction, columns
from deployments.jobs.rows import key_in
from deployments.jobs.store_retry import retried


class Keys(DatabaseStore):
    """Who may call, and how much."""

    @retried
    async def add_key(self, key: ApiKey) -> None:
        limits = key.concurrency, key.rate, key.expires_at, key.revoked_at, key.adapter
        try:
            await self.database.rows("add_key", key.id, key.hash, key.name, *limits)
        except UniqueViolationError as error:
            raise taken(key, error) from None

    @retried
    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        row = await self.database.row("key_by_hash", key_hash)
        return None if row is None else key_in(row)

    @retried
    async def keys(self) -> list[ApiKey]:
        return [key_in(row) for row in await self.database.rows("keys")]

    @retried
    async def revoke_key(self, key_id: str) -> bool:
        return await self.database.value("revoke_key", key_id) is not None

    @retried
    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        try:
            found = await self.database.value("replace_key_hash", key_id, key_hash)
        except UniqueViolationError:
            raise ValueError("there is a key with this hash already") from None
        return found is not None

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        async def work(transaction: Transaction) -> tuple[str, float]:
            row = await transaction.row("rate_due", key_id)
            assert row
            wait_s, due = rate_limit(row["due"], row["now"], rate, burst)
            if wait_s == 0.0:
                await transaction.rows("put_rate_due", key_id, due)
            return row["transaction"], wait_s

        return await self.database.counted(work, self.retry_s)

    @retried
    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Under the lock of the claims, if the key has a limit."""

        async def work(transaction: Transaction) -> bool:
            bound = await transaction.value("bound", key_id)
            if bound is not None:
                await transaction.value("lock", CLAIMS)
            await transaction.rows("release_slot", run_id)  # a run that asks again keeps one slot
            if bound is not None and await transaction.value("busy", key_id) >= bound:
                return False
            await transaction.rows("acquire_slot", run_id, key_id, ttl_s)
            return True

        return await self.database.together(work)

    @retried
    async def release_slot(self, run_id: str) -> None:
        await self.database.rows("release_slot", run_id)

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        if not usages:
            return
        values = columns(map(astuple, usages))

        async def work(transaction: Transaction) -> tuple[str, None]:
            return await transaction.value("add_usage", *values), None

        await self.database.counted(work, self.retry_s)

    @retried
    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        return [Usage(**row) for row in await self.database.rows("usage", since_day, key_id)]


def taken(key: ApiKey, error: UniqueViolationError) -> ValueError:
    if error.constraint_name == "api_key_hash":
        return ValueError("there is a key with this hash already")
    return ValueError(f"there is a key {key.id} already")
