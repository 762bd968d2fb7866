"""How jobs enter the queue: in groups, and no more than the queue may hold."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from asyncpg import Record

from deployments.errors import IdempotencyConflict, QueueFull
from deployments.jobs import job_log as logs
from deployments.jobs.coalescer import Coalescer
from deployments.jobs.job import Submission, Submitted
from deployments.jobs.postgres.database import (
    SUBMITS,
    Database,
    DatabaseStore,
    Transaction,
    columns,
)
from deployments.jobs.store import POSITION_CAP
from deployments.jobs.store_retry import retried
from deployments.jobs.transitions import fingerprint

Count = Callable[[], Awaitable[int]]
Given = Mapping[int, Submission]  # by their places in the group
Answers = dict[int, Submitted | Exception]

FAR_S = 1.0  # how old a count may be while the bound is far
NEAR_S = 0.1  # and when it is near: counting 100,000 takes a fortieth of a second
SOME_TIME = 1.5  # the place in the log's first line where the database writes its own time
PLAIN = attrgetter(
    "id",
    "key_id",
    "path",
    "input",
    "base_url",
    "priority",
    "start_timeout_s",
    "max_attempts",
    "webhook_url",
    "idempotency_key",
    "files_ttl_s",
)
NAMES = attrgetter("id", "key_id", "idempotency_key")
BEFORE, AFTER = logs.encode([logs.RECEIVED], SOME_TIME).split(str(SOME_TIME))


class Depth:
    """How many jobs are queued: the last count, and what this process has added since.

    A long queue is not counted for each job that is added.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_at = float("-inf")
        self._depth = 0

    async def read(self, count: Count, max_age_s: float) -> int:
        """The depth, from a count of at most `max_age_s` ago."""
        if self._clock() - self._counted_at > max_age_s:
            started_at, self._depth = self._clock(), await count()
            self._counted_at = started_at
        return self._depth

    def add(self, num: int) -> None:
        self._depth += num


class Submits(DatabaseStore):
    """Submits of one process, which share transactions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._depth = Depth()
        self._submits = Coalescer(self._submit_all, "store-submits")

    @retried
    async def submit(self, submission: Submission) -> Submitted:
        return await self._submits(submission)

    async def _submit_all(self, group: Sequence[Submission]) -> list[Submitted | Exception]:
        answers: Answers = {}
        while len(answers) < len(group):
            rest = {nth: given for nth, given in enumerate(group) if nth not in answers}
            answers |= await self._submit_some(distinct(rest))
        return [answers[nth] for nth in range(len(group))]

    async def _submit_some(self, given: Given) -> Answers:
        """Those left without an answer met a job that was then gone: they are submitted again."""
        if not await self._is_far_from_full(given):
            return await self.database.together(partial(self._submit_nearly_full, given))
        added = await self._add(self.database, given)
        return added | await repeated(self.database, without(given, added))

    async def _is_far_from_full(self, given: Given) -> bool:
        bound = min(self._bound(submission) for submission in given.values())
        margin = max(POSITION_CAP, bound // 20)
        if bound <= margin:
            return False
        depth = await self._depth.read(self._counting(self.database), FAR_S)
        return depth + len(given) + margin <= bound

    async def _submit_nearly_full(self, given: Given, transaction: Transaction) -> Answers:
        """One process at a time, so that no two take the last place."""
        await transaction.value("lock", SUBMITS)
        answers = await repeated(transaction, given)
        depth = await self._depth_of_all(transaction)
        wanted: dict[int, Submission] = {}
        for nth, submission in without(given, answers).items():
            if depth + len(wanted) >= self._bound(submission):
                answers[nth] = QueueFull()
            else:
                wanted[nth] = submission
        return answers | await self._add(transaction, wanted)

    async def _depth_of_all(self, transaction: Transaction) -> int:
        """Exact up to POSITION_CAP, beyond it from a moment ago."""
        depth = int(await transaction.value("depth", POSITION_CAP))
        if depth < POSITION_CAP:
            return depth
        return max(depth, await self._depth.read(self._counting(transaction), NEAR_S))

    async def _add(self, database: Database | Transaction, given: Given) -> Answers:
        if not given:
            return {}
        priorities = sorted({submission.priority for submission in given.values()})
        values = columns(map(values_of, given.values()))
        rows = await database.rows("submit", *values, BEFORE, AFTER, priorities, POSITION_CAP)
        self._depth.add(len(rows))
        places = {submission.id: nth for nth, submission in given.items()}
        return {
            places[row["id"]]: Submitted(row["id"], min(row["ahead"] + before, POSITION_CAP), True)
            for row, before in zip(rows, befores([row["priority"] for row in rows]), strict=True)
        }

    def _bound(self, submission: Submission) -> int:
        bound = submission.max_queue_length
        return self.rules.max_queued if bound is None else min(bound, self.rules.max_queued)

    def _counting(self, database: Database | Transaction) -> Count:
        return partial(database.value, "depth", self.rules.max_queued)


async def repeated(database: Database | Transaction, given: Given) -> Answers:
    """Answers for those that are there already, queued or ended."""
    if not given:
        return {}
    names = zip(*map(NAMES, given.values()), strict=True)
    rows = await database.rows("repeated", *names, POSITION_CAP)
    places = list(given)
    found = {places[row["nth"] - 1]: row for row in rows}
    return {nth: answer_for(given[nth], row) for nth, row in found.items()}


def answer_for(submission: Submission, known: Record) -> Submitted | Exception:
    """The answer to a submit whose id or idempotency key is `known`."""
    if not known["by_id"] and known["fingerprint"] != fingerprint_of(submission):
        return IdempotencyConflict()
    return Submitted(known["id"], known["position"], created=False)


def distinct(given: Given) -> Given:
    """Those that repeat none before them; the others wait until that one is there."""
    seen: set[object] = set()
    kept = {}
    for nth, one in given.items():
        names: set[object] = {one.id}
        if one.idempotency_key is not None:
            names.add((one.key_id, one.idempotency_key))
        if seen.isdisjoint(names):
            kept[nth] = one
        seen |= names
    return kept


def without(given: Given, answers: Answers) -> Given:
    return {nth: submission for nth, submission in given.items() if nth not in answers}


def befores(priorities: Iterable[int]) -> list[int]:
    """For each of a group, how many of those before it are also ahead of it in the queue."""
    seen: Counter[int] = Counter()
    found = []
    for priority in priorities:
        found.append(sum(num for other, num in seen.items() if other <= priority))
        seen[priority] += 1
    return found


def values_of(submission: Submission) -> tuple[Any, ...]:
    return (
        *PLAIN(submission),
        int(submission.keeps_input),
        fingerprint_of(submission),
        submission.trace,
    )


def fingerprint_of(submission: Submission) -> str | None:
    """What a repeated idempotency key is compared by."""
    if submission.idempotency_key is None:
        return None
    return fingerprint(submission.path, submission.input)
