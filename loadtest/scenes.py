"""What the load shows the service: scenes with the grain of a photograph."""

import base64
import io
import json
import random

import numpy as np
from PIL import Image

from deployments.demo.scenes import draw_scene

SIZE = (512, 512)
TEXT = "square"
REGION = {"x1": 100, "y1": 100, "x2": 300, "y2": 300}


def photograph(seed: int, size: tuple[int, int] = SIZE, brightness: float | None = None) -> bytes:
    """A JPEG of a scene with this (width, height); about 40 kB at 512×512.

    `brightness` is the mean of its pixels, of 255; None leaves the scene as it is drawn.
    """
    scene = np.asarray(draw_scene(random.Random(seed), size).image)
    light = 1.0 if brightness is None else brightness / scene.mean()
    grain = np.random.default_rng(seed).normal(0, 6, (*size[::-1], 3))
    pixels = np.clip(scene * light + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def body_with(image: bytes, content_type: str = "image/jpeg") -> bytes:
    """A body for every task: one ignores what it does not ask for."""
    uri = f"data:{content_type};base64,{base64.b64encode(image).decode()}"
    return json.dumps({"image_url": uri, "text_input": TEXT, "region": REGION}).encode()
