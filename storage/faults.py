"""Dying points: places where a test may have the process killed as a lost machine would.

``MASKMILL_DIE_AT=commit:3`` sends SIGKILL to the process the third time it passes the point ``commit``. Unset, a point
costs one dictionary look-up.

``MASKMILL_DIE_ON=leaf-017`` does so whenever the process reads that image, as a fault of a decoder or an image larger
than the memory would.
"""

import os
import signal
import threading
from collections import Counter

VARIABLE = "MASKMILL_DIE_AT"
IMAGE_VARIABLE = "MASKMILL_DIE_ON"
POINTS = ("stage", "infer", "array", "facts", "commit", "epoch", "metrics", "report")
_passed: Counter[str] = Counter()
_guard = threading.Lock()


def dying_point(name: str) -> None:
    """Die here if the environment asks for it.

    Raises
    ------
    ValueError
        The variable names no dying point.
    """
    wish = os.environ.get(VARIABLE)
    if not wish:
        return
    point, _, count = wish.partition(":")
    if point not in POINTS:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(POINTS)}, saw {wish!r}")
    if point != name:
        return
    with _guard:
        _passed[name] += 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def deadly_image(image_id: str) -> None:
    """Die here if the environment says that this image kills."""
    if os.environ.get(IMAGE_VARIABLE) == image_id:
        os.kill(os.getpid(), signal.SIGKILL)
