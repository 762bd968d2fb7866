"""What the load shows the service: scenes with the grain of a photograph."""

import base64
import io
import random

import numpy as np
from PIL import Image

from deployments.demo.scenes import draw_scene

SIZE = (512, 512)


def photograph(seed: int) -> bytes:
    """A 512×512 JPEG of a scene, about 40 kB."""
    scene = draw_scene(random.Random(seed), SIZE).image
    grain = np.random.default_rng(seed).normal(0, 6, (*SIZE, 3))
    pixels = np.clip(np.asarray(scene) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def body(seed: int) -> bytes:
    """A request with that photograph as a data URI."""
    uri = base64.b64encode(photograph(seed)).decode()
    return b'{"image_url": "data:image/jpeg;base64,' + uri.encode() + b'"}'
