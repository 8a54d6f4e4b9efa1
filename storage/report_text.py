"""Text of reports: what users named their data, made safe to show, and numbers in one style."""

import math
import re

NONE = "–"
# Control characters break XML and hide text; lone surrogates cannot be written.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def visible(text: str) -> str:
    r"""The text with characters that cannot be shown or written spelt out.

    Examples
    --------
    >>> visible("a\x00b")
    'a\\x00b'
    """
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


def shorten(text: str, length: int = 40) -> str:
    """The text, or its beginning and its end if it is long.

    Examples
    --------
    >>> shorten("a" * 30 + "b" * 30, 9)
    'aaaa…bbbb'
    """
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def number(value: str | float | None) -> str:
    """A table cell: three decimals for fractions, groups of three digits for counts, a dash for nothing.

    Examples
    --------
    >>> [number(value) for value in (0.61849, 12345, None, float("nan"), "S5")]
    ['0.618', '12\\u202f345', '–', '–', 'S5']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"
