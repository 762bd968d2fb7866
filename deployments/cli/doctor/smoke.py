"""Does a run come to an answer? One request, with an image that is drawn here."""

import random
import time

from pydantic import ValidationError

from deployments.cli.doctor.remote import Service
from deployments.cli.doctor.verdict import Verdict, fail, ok
from deployments.demo.scenes import draw_scene
from deployments.florence.schemas import BoundingBoxOutput
from deployments.florence.tasks import TASKS
from deployments.local.client import data_uri_of, error_line

TASK = TASKS["region-proposal"]
SEED, SIZE = 7, (256, 256)


def smoke(service: Service) -> Verdict:
    """Ask for the regions of a scene.

    Raises:
        Failed: the service does not answer.
    """
    if not service.key:
        return fail("no key to call with", "give --key, or FLORENCE_API_KEY")
    scene = draw_scene(random.Random(SEED), SIZE)
    before = time.monotonic()
    answer = service.post(f"/{TASK.endpoint}", {"image_url": data_uri_of(scene.image)})
    took_s = time.monotonic() - before
    if not answer.is_success:
        said = f"{TASK.path} answers {error_line(answer)}"
        return fail(said, f"look for {answer.headers.get('x-fal-request-id', 'it')} in Serve's log")
    try:
        found = BoundingBoxOutput.model_validate_json(answer.content).results.bboxes
    except ValidationError as error:
        why = str(error).splitlines()[0]
        return fail(f"{TASK.path} answers something else: {why}", "see what answers at --url")
    return ok(f"boxes: {len(found)}, shapes: {len(scene.objects)}, in {took_s:.2f} s")
