"""Webhooks that wait for their delivery, and the public keys that receivers check them with."""

from collections.abc import Sequence

from deployments.jobs.postgres.database import DatabaseStore
from deployments.jobs.rows import webhook_in
from deployments.jobs.store_retry import retried
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState


class Webhooks(DatabaseStore):
    """Leases on webhooks."""

    @retried
    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        rows = await self.database.rows("claim_webhooks", limit, lease_s)
        return [webhook_in(row) for row in rows]

    @retried
    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        values = result.state, result.status, result.error, result.retry_s
        recorded = await self.database.value("record_delivery", webhook_id, token, *values)
        return recorded is not None

    @retried
    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        if state is None:
            rows = await self.database.rows("webhooks", limit)
        else:
            rows = await self.database.rows("webhooks_in", limit, state)
        return [webhook_in(row) for row in rows]

    @retried
    async def retry_webhook(self, webhook_id: str) -> bool:
        return await self.database.value("retry_webhook", webhook_id) is not None

    @retried
    async def signing_keys(self) -> list[PublicKey]:
        return [PublicKey(**row) for row in await self.database.rows("signing_keys")]

    @retried
    async def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        last = list({key.kid: key for key in keys}.values())
        kids, xs = [key.kid for key in last], [key.x for key in last]
        await self.database.rows("put_signing_keys", kids, xs, [key.state for key in last])
