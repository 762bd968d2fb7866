"""Can something be made at a path?"""

import os
from pathlib import Path


def obstacle(path: Path) -> Path | None:
    """What is in the way of a folder at `path`, or of writing to it; None for nothing."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    is_open = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return None if is_open else nearest
