"""The process that makes the load, with Locust: `python -m loadtest.kit.generator < job.json`.

Locust patches the standard library when it is imported, so it has processes of its own. Alone, one
walks the whole schedule. Otherwise a master tells its workers of the plan, each walks its share,
and the master gathers their records. The API key comes in FLORENCE_API_KEY.
"""

from locust.env import Environment  # isort: skip  # first, since it patches what others import

import sys

from deployments.errors import SetupError
from loadtest.kit.job import Job, Role
from loadtest.kit.master import lead
from loadtest.kit.post import prepared
from loadtest.kit.tally import Tally
from loadtest.kit.walker import Walker
from loadtest.kit.worker import work

LOOK_EVERY_S = 0.5


def main() -> None:
    """Do what the job on standard input says; what cannot be done is a line and exit code 2."""
    job = Job.model_validate_json(sys.stdin.read())
    try:
        do(job)
    except SetupError as error:
        sys.stderr.write(f"loadtest: {error}\n")
        sys.exit(2)


def do(job: Job) -> None:
    """Play the part; all but a worker write the records.

    Raises:
        SetupError: it cannot be played.
    """
    if job.role is Role.WORKER:
        return work(job)
    assert job.out, "who gathers records has a file for them"
    tally = lead(job) if job.role is Role.MASTER else alone(job)
    return tally.write(job.out)


def alone(job: Job) -> Tally:
    """Walk the whole schedule.

    Raises:
        SetupError: it cannot be prepared.
    """
    assert job.plan, "one who works alone has a plan"
    tally, environment = Tally(), Environment(user_classes=[Walker])
    environment.events.request.add_listener(tally.add)
    with prepared(job.plan, job.receiver, index=0, num=1) as post:
        Walker.route = post.route
        runner = environment.create_local_runner()
        runner.start(1, spawn_rate=1)
        while not post.route.ended.wait(LOOK_EVERY_S):
            tally.show()
        tally.num_repeated = post.leave()
        runner.quit()
    return tally


if __name__ == "__main__":
    main()
