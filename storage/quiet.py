"""Silence for remarks of libraries that concern neither the user nor the result."""

import re
import warnings


def ignore_warnings_of(package: str) -> None:
    """Keep warnings that name a module of ``package`` as their place from being shown, or raised as errors.

    Set for the process and never taken back: images are decoded in threads, where ``warnings.catch_warnings`` is not
    safe. Call it before each use; one that is in force already costs a comparison.
    """
    module = re.compile(rf"{re.escape(package)}\.")
    for action, message, category, place, line in warnings.filters:
        if (message, category, place, line) == (None, Warning, module, 0):
            return
        if action != "ignore":
            break  # a filter before ours may overrule it
    warnings.filterwarnings("ignore", module=module.pattern)
