"""What every part of the store stands on."""

from deployments.jobs.postgres.database import Database
from deployments.settings import QueueSettings

CLAIMS = 1  # the lock under which requests start, queued and synchronous ones
SUBMITS = 2  # the lock under which a queue that is nearly full grows


class Part:
    """Some of the methods of Store."""

    def __init__(self, database: Database, rules: QueueSettings) -> None:
        self._database = database
        self._rules = rules
