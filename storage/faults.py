"""Dying points: places where a test may have the process killed as a lost machine would.

``MASKMILL_DIE_AT=commit:3`` sends SIGKILL to the process the third time it passes the point ``commit``. Unset, a point
costs one dictionary look-up.

``MASKMILL_DIE_ON=leaf-017`` does so whenever the process reads that image, as a fault of a decoder or an image larger
than the memory would.

``MASKMILL_FAIL_WRITE=ENOSPC:7`` has the seventh step of writing fail as a full disk would, and every later one too
unless it ends in ``:once``. A file of a disk has five steps (see :func:`storage.files.write_bytes_atomic`), one PUT is
one.
"""

import errno
import os
import signal
import threading
from collections import Counter

VARIABLE = "MASKMILL_DIE_AT"
IMAGE_VARIABLE = "MASKMILL_DIE_ON"
WRITE_VARIABLE = "MASKMILL_FAIL_WRITE"
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


def failing_step(step: str) -> None:
    """Fail here if the environment asks for it.

    Raises
    ------
    OSError
        The one that was asked for; ``step`` is told in its message.
    """
    wish = os.environ.get(WRITE_VARIABLE)
    if not wish:
        return
    name, count, *once = wish.split(":")
    with _guard:
        _passed[WRITE_VARIABLE] += 1
        passed = _passed[WRITE_VARIABLE]
    if passed == int(count) or (passed > int(count) and not once):
        number = getattr(errno, name)
        raise OSError(number, f"{os.strerror(number)} (asked for, {step})")


def forget_steps() -> None:
    """Count from the beginning again."""
    with _guard:
        _passed.clear()
