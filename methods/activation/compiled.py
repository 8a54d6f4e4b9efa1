"""Compiled forms of kernels, where a compiler is there."""

import logging
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


@cache
def compiled_or_plain(function: Callable[P, R]) -> Callable[P, R]:
    """A function through ``torch.compile``; as it is, with one logged warning, where compilation fails.

    It is compiled at its first call, for tensors of any size, which takes some ten seconds; less where the compiler's
    own cache on disk knows it.

    Examples
    --------
    >>> compiled_or_plain(abs) is compiled_or_plain(abs)
    True
    """
    made = torch.compile(function, dynamic=True)
    failed = False

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal failed
        if failed:
            return function(*args, **kwargs)
        try:
            # Every set of arguments that are no tensors, and every dtype, is a form of its own.
            with torch._dynamo.config.patch(recompile_limit=64):
                return made(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            failed = True
            logger.warning("torch.compile failed, going on without (%s); is a C++ compiler installed?", _reason(error))
            return function(*args, **kwargs)

    return call


def _reason(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2]) or type(error).__name__
