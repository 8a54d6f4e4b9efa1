"""YAML as a user means it: safe, no key twice, ``1e-4`` is a number, and what is written reads back equal."""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from configs.errors import ConfigError

_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
# YAML 1.1 wants a dot and a sign of the exponent in a float, so 1e-4 and 1.5e3 would be text.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, refusing a key that is written twice."""
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {line}: expected a name as key, saw {type(key).__name__}")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} is written twice (first in line {seen[key]}); keep one")
            seen[key] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes the text ``"1e-4"``, because the loader would read a number."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write equal values in full instead of anchors."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Single quotes would fold line breaks of every alphabet into spaces; double quotes escape them.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def parse_yaml(text: str, name: str) -> Any:
    """Read one YAML document.

    Parameters
    ----------
    text
        The document.
    name
        Where it came from, for error messages.

    Raises
    ------
    ConfigError
        Broken YAML, a key written twice, a tag that would build an object, or nesting without end.

    Examples
    --------
    >>> parse_yaml("learning_rate: 1e-4", "run.yaml")
    {'learning_rate': 0.0001}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: expected valid YAML, saw {error}") from error


def dump_yaml(value: Any) -> str:
    """Write plain values so that :func:`parse_yaml` gives them back.

    Examples
    --------
    >>> print(dump_yaml({"name": "1e-4", "value": 1e-4}), end="")
    name: '1e-4'
    value: 0.0001
    """
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf))
