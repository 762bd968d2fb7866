"""A request sent through the pipeline without its image."""

import pickle
from dataclasses import replace

from deployments.florence.messages import Request
from deployments.florence.schemas import ImageInput

INPUT = ImageInput(image_url="data:,x")


def test_a_request_can_leave_its_image_behind() -> None:
    """Only the address goes; it may be a data URI as long as a file."""
    given = ImageInput(image_url="data:,x", num_beams=2)
    request = Request("r", "t", given, deadline=20, start_by=10, priority=1, base_url="b")
    light = request.without_image()
    assert (light.input.image_url, light.input.num_beams) == ("", 2)
    assert replace(light, input=given) == request
    assert given.image_url == "data:,x"


def test_a_light_request_is_cheap_to_send() -> None:
    """It goes to two deployments; the input's class goes by reference."""
    request = Request("r", "t", ImageInput(image_url="data:," + "x" * 10_000), deadline=20)
    sent = pickle.dumps(request.without_image())
    assert len(sent) < 1_000
    assert pickle.loads(sent) == request.without_image()
