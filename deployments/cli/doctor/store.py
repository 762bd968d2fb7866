"""Does the store answer, and is its schema this release's? Nothing is changed in it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deployments.cli.doctor.clock import agreement
from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn
from deployments.cli.options import with_store, without_password
from deployments.jobs.inspect import Look, look_at
from deployments.jobs.open import MEMORY, SQLITE
from deployments.jobs.store import Store

T = TypeVar("T")
SLOW_S = 0.05  # each submit waits for several answers


def store(subject: Subject) -> Verdict:
    """The store of the settings."""
    url = subject.settings.store.url
    if url == MEMORY:
        return warn("kept in memory alone", "give store.url, or a restart forgets every request")
    if is_out_of_sight(subject):
        return skip(f"{without_password(url)} is a file on the service's own node")
    found = asyncio.run(look_at(subject.settings.store))
    if found is None:
        return ok(f"{without_password(url)} is made at the first start")
    return judged(without_password(url), found)


def is_out_of_sight(subject: Subject) -> bool:
    """Whether it lives where the service does, and that is elsewhere."""
    return subject.is_elsewhere and not subject.settings.store.url.startswith("postgres")


def judged(url: str, found: Look) -> Verdict:
    """What it means that this was seen."""
    said = f"{url}, {found.server}, schema {found.schema}"
    if found.schema > found.latest:
        remedy = "run the newer release, or name another store"
        return fail(f"{said} of a newer release, this one knows {found.latest}", remedy)
    if found.schema == 0:
        return ok(f"{url}, {found.server}: empty, the first start makes its tables")
    if not found.is_current:
        remedy = "back it up; the first start migrates it, and older releases then refuse it"
        return warn(f"{said} of {found.latest}", remedy)
    if found.answer_s > SLOW_S:
        return warn(f"{said}, answers in {found.answer_s * 1000:.0f} ms", "move it nearer")
    return ok(said + (f", answers in {found.answer_s * 1000:.1f} ms" if found.answer_s else ""))


def clock(subject: Subject) -> Verdict:
    """Whether the database's clock, by which leases and keys end, agrees with this machine's."""
    if subject.settings.store.url.startswith((SQLITE, MEMORY)):
        return skip(
            "the store has this machine's" if not subject.is_elsewhere else "not to be seen"
        )
    ahead_s = read_store(subject, how_far_ahead)
    if ahead_s is None:
        return skip("the store has no tables of this release yet")
    return agreement("the database", ahead_s)


async def how_far_ahead(opened: Store) -> float:
    """How far the store's clock is before this machine's, in seconds."""
    await opened.now()  # the first one may have to connect
    before = time.time()
    there = await opened.now()
    return there - (before + time.time()) / 2


def read_store(subject: Subject, read: Callable[[Store], Awaitable[T]]) -> T | None:
    """What `read` makes of the store; None where opening it would make or migrate it.

    Raises:
        SetupError: it does not answer.
    """
    settings = subject.settings.store

    async def look_and_read() -> T | None:
        found = await look_at(settings)
        return await with_store(settings.url, read) if found and found.is_current else None

    if settings.url == MEMORY or is_out_of_sight(subject):
        return None
    return asyncio.run(look_and_read())
