"""What the service stands on goes away for a while: the database, the object store."""

from loadtest.drills.drill import Drill
from loadtest.drills.site import Site
from loadtest.drills.tally import Tally


class DatabaseRestarted(Drill):
    """PostgreSQL is stopped and started at once, as for an update."""

    what = "PostgreSQL restarted"

    def strike(self, site: Site) -> None:
        """Stop it, cutting every connection."""
        site.database.stop()

    def mend(self, site: Site) -> None:
        """Start it."""
        site.database.start()


class DatabaseAway(DatabaseRestarted):
    """The same, but it takes a while: a failover."""

    what = "PostgreSQL away for 6 s"
    away_s = 6.0


class FilesAway(Drill):
    """The object store refuses connections; answers come without their pictures."""

    what = "object store away for 6 s"
    away_s = 6.0

    def strike(self, site: Site) -> None:
        """Kill it."""
        site.bucket.stop()

    def mend(self, site: Site) -> None:
        """Start it."""
        site.bucket.start()


class FilesFrozen(Drill):
    """The object store takes connections and says nothing."""

    what = "object store silent for 15 s"
    away_s = 15.0

    def strike(self, site: Site) -> None:
        """Freeze it."""
        site.bucket.freeze()

    def mend(self, site: Site) -> None:
        """Let it go on."""
        site.bucket.thaw()

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """Nobody waited until it came back."""
        waited = tally.longest_s >= self.away_s
        return super().complaints(site, tally) + (["requests waited for it"] if waited else [])
