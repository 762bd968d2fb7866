"""What the scripts call with, from the environment."""

import os
from pathlib import Path

import fal_client

ENDPOINT = "fal-ai/florence-2-large/region-proposal"
GOOD = {"image_url": os.environ["IMAGE_URL"]}
SEVERAL = {"image_url": os.environ["SEVERAL_URL"], "num_beams": 1}
TOO_MANY = SEVERAL | {"num_beams": 99}
LATE = {"image_url": os.environ["LATE_URL"]}
HANGING = {"image_url": os.environ["HANGING_URL"]}
NO_IMAGE = {"image_url": fal_client.encode("Hello, World!", "image/png")}
FILE = Path(os.environ["IMAGE_FILE"])
BYTES = FILE.read_bytes()
BASE_URL = os.environ["BASE_URL"]
