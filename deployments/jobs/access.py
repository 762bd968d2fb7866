"""What a process may do to the schema of a store, and what it is told when that is not enough.

The service makes and migrates its store. A command that writes takes it as it is, if it has this
release's schema. A command that reads changes nothing, and reads older schemas, too.
"""

from enum import Enum, auto

ABSENT = (
    "there is none; name the service's with --store or --state, "
    "or make one with `florence serve` or `florence store migrate`"
)


class Access(Enum):
    """MIGRATE makes the store and brings it up to date, WRITE and READ do neither."""

    MIGRATE = auto()
    WRITE = auto()
    READ = auto()


def older(schema: int, latest: int) -> str:
    """What is said of a store that a command would have to migrate before it writes."""
    return (
        f"an older release wrote it (schema {schema}, this one writes {latest}); "
        "use that release, or call `florence store migrate`, after which that release refuses it"
    )
