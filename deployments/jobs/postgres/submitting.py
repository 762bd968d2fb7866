"""How requests come into the queue: in groups, and no more than may wait."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from asyncpg import Record

from deployments.errors import IdempotencyConflict, QueueFull
from deployments.jobs import endings, logs
from deployments.jobs.job import Submission, Submitted
from deployments.jobs.postgres.database import Database, Transaction
from deployments.jobs.postgres.depth import FAR_S, NEAR_S, Count, Depth
from deployments.jobs.postgres.group_commit import Gatherer
from deployments.jobs.postgres.part import SUBMITS, Part
from deployments.jobs.store import POSITION_CAP
from deployments.settings import QueueSettings

Given = Mapping[int, Submission]  # by their places in the group
Answers = dict[int, Submitted | Exception]

SOME_TIME = 1.5  # where the log's first line is parted, for the database to put in its own time
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


class Submitting(Part):
    """Submits of one process travel together, at the price of one commit."""

    def __init__(self, database: Database, rules: QueueSettings) -> None:
        super().__init__(database, rules)
        self._depth = Depth()
        self._submits = Gatherer(self._submit_all, "store-submits")

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a request, if it is not there."""
        return await self._submits.ask(submission)

    async def _submit_all(self, group: Sequence[Submission]) -> list[Submitted | Exception]:
        answers: Answers = {}
        while len(answers) < len(group):
            rest = {nth: given for nth, given in enumerate(group) if nth not in answers}
            answers |= await self._submit_some(distinct(rest))
        return [answers[nth] for nth in range(len(group))]

    async def _submit_some(self, given: Given) -> Answers:
        """Those without an answer met a request that was then gone: they are tried again."""
        if not await self._is_far_from_full(given):
            return await self._database.together(partial(self._squeeze_in, given))
        added = await self._add(self._database, given)
        return added | await repeated(self._database, without(given, added))

    async def _is_far_from_full(self, given: Given) -> bool:
        bound = min(self._bound(submission) for submission in given.values())
        margin = max(POSITION_CAP, bound // 20)
        if bound <= margin:
            return False
        depth = await self._depth.read(self._counting(self._database), FAR_S)
        return depth + len(given) + margin <= bound

    async def _squeeze_in(self, given: Given, transaction: Transaction) -> Answers:
        """One after the other with all processes, so that no two take the last place."""
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
        """Those that were not there yet."""
        if not given:
            return {}
        priorities = sorted({submission.priority for submission in given.values()})
        rows = await database.rows(
            "submit", *columns(given), BEFORE, AFTER, priorities, POSITION_CAP
        )
        self._depth.add(len(rows))
        places = {submission.id: nth for nth, submission in given.items()}
        return {
            places[row["id"]]: Submitted(row["id"], min(row["ahead"] + before, POSITION_CAP), True)
            for row, before in zip(rows, befores([row["priority"] for row in rows]), strict=True)
        }

    def _bound(self, submission: Submission) -> int:
        bound = submission.max_queue_length
        return self._rules.max_queued if bound is None else min(bound, self._rules.max_queued)

    def _counting(self, database: Database | Transaction) -> Count:
        return partial(database.value, "depth", self._rules.max_queued)


async def repeated(database: Database | Transaction, given: Given) -> Answers:
    """Answers for those that are there already, queued or long ended."""
    if not given:
        return {}
    names = zip(*map(NAMES, given.values()), strict=True)
    rows = await database.rows("repeated", *names, POSITION_CAP)
    places = list(given)
    found = {places[row["nth"] - 1]: row for row in rows}
    return {nth: answer_for(given[nth], row) for nth, row in found.items()}


def answer_for(submission: Submission, known: Record) -> Submitted | Exception:
    """What a submit is told for which there is a request already."""
    if not known["by_id"] and known["fingerprint"] != fingerprint_of(submission):
        return IdempotencyConflict()
    return Submitted(known["id"], known["position"], created=False)


def distinct(given: Given) -> Given:
    """Those that do not repeat one before them: such a one waits until that is there."""
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
    """Those that have no answer yet."""
    return {nth: submission for nth, submission in given.items() if nth not in answers}


def befores(priorities: Iterable[int]) -> list[int]:
    """For each of a group, how many of those before it are also ahead of it in the queue."""
    seen: Counter[int] = Counter()
    found = []
    for priority in priorities:
        found.append(sum(num for other, num in seen.items() if other <= priority))
        seen[priority] += 1
    return found


def columns(given: Given) -> list[Sequence[Any]]:
    """A list for each column of `submit`."""
    rows = (
        (*PLAIN(one), int(one.keeps_input), fingerprint_of(one), one.trace)
        for one in given.values()
    )
    return list(zip(*rows, strict=True))


def fingerprint_of(submission: Submission) -> str | None:
    """What a repeated idempotency key is compared by."""
    if submission.idempotency_key is None:
        return None
    return endings.fingerprint(submission.path, submission.input)
