"""What is said about a configuration that is refused: file, key, what was expected, what was seen."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from pydantic import ValidationError

TAGS = ("format", "step", "method", "model")
"""Keys that tell the members of a union apart (dataset formats, refinement steps, proposals, trainings)."""


class ConfigError(ValueError):
    """A configuration that is refused; the message names file, key, what was expected and what was seen."""


_short = Repr()
_short.maxstring = _short.maxother = 100
_short.maxlevel = 2  # aliases can make a small file expand without end


def explain(name: str, error: ValidationError, data: Any) -> str:
    """One line per refused key.

    Parameters
    ----------
    name
        File or preset the data came from.
    error
        What the schema said about ``data``.
    data
        The mapping that was checked; it tells which parts of an error's place are keys and which are union tags.
    """
    return "\n".join(_line(name, item, data) for item in error.errors(include_url=False))


def _line(name: str, item: Any, data: Any) -> str:
    parts, seen = _key(item["loc"], data), _short.repr(item["input"])
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            what = "expected a value, saw none"
        case "union_tag_not_found":
            parts.append(context["discriminator"].strip("'"))
            what = "expected a value, saw none"
        case "union_tag_invalid":
            parts.append(context["discriminator"].strip("'"))
            what = f"expected one of {context['expected_tags']}, saw {context['tag']!r}"
        case "extra_forbidden":
            what = f"expected no such key, saw {seen}"
        case "value_error":
            # Our own validators name both values themselves.
            what = str(context["error"])
        case "too_short":
            what = f"expected at least {context['min_length']} item(s), saw {seen}"
        case "too_long":
            what = f"expected at most {context['max_length']} item(s), saw {seen}"
        case "string_type" if isinstance(item["input"], bool | int | float):
            what = f"expected text, saw {seen}; quote it to make it text"
        case _:
            what = f"{item['msg'].replace('Input should be', 'expected')}, saw {seen}"
    return ": ".join(filter(None, (name, ".".join(parts), what)))


def _key(place: Sequence[str | int], data: Any) -> list[str]:
    """The place of an error as the user wrote it: without the tag that follows the place of a union."""
    parts: list[str] = []
    value, entered = data, True
    for part in place:
        if entered and isinstance(value, Mapping) and any(value.get(tag) == part for tag in TAGS):
            entered = False
            continue
        parts.append(str(part))
        value, entered = _child(value, part), True
    return parts


def _child(value: Any, part: str | int) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None
