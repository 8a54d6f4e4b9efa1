"""Reading a configuration: safe YAML, no duplicate keys, ``key=value`` overrides, presets, errors that say where."""

import re
from collections.abc import Hashable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.schema import RunConfig

PRESET_PREFIX = "preset:"


class ConfigError(ValueError):
    """A configuration that is refused; the message names file, key, what was expected and what was seen."""


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses duplicate keys and reads ``1e-4`` as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, refusing a key that is written twice."""
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise ConfigError(f"line {line}: key {key!r} is written twice (first in line {seen[key]}); keep one")
            seen[key] = line
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot in a float, so 1e-4 would be text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def preset_names() -> list[str]:
    """Names that ``preset:NAME`` accepts."""
    folder = resources.files("configs") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check a run.

    Parameters
    ----------
    source
        Path of a YAML file, or ``preset:NAME``.
    overrides
        ``section.key=value`` texts; the value is YAML, list items are reached by their number (``proposals.0.truncation=20``).

    Returns
    -------
    RunConfig
        The checked configuration; relative paths stay relative to the working directory.

    Raises
    ------
    ConfigError
        Unreadable file, broken YAML, unknown, missing or wrong key.
    """
    name, text = _read(str(source))
    data = _parse(text, name)
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected a mapping of sections, saw {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(name, item) for item in error.errors())) from error


def dump_config(config: RunConfig) -> str:
    """The configuration with every default, as YAML that :func:`load_config` reads back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read(source: str) -> tuple[str, str]:
    if source.startswith(PRESET_PREFIX):
        name = source.removeprefix(PRESET_PREFIX)
        if name not in preset_names():
            raise ConfigError(f"{source}: expected one of the presets {', '.join(preset_names())}, saw {name!r}")
        return source, (resources.files("configs") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return source, Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: expected a readable YAML file or preset:NAME, saw {error}") from error


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: expected valid YAML, saw {error}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected section.key=value")
    value = _parse(text, f"--set {override}")
    *parents, last = key.strip().split(".")
    target: Any = data
    for parent in parents:
        target = _descend(target, parent, override)
    if isinstance(target, list):
        target[_index(target, last, override)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"--set {override}: expected {'.'.join(parents)} to hold keys, saw {type(target).__name__}")


def _descend(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, override)]
    if not isinstance(target, dict):
        raise ConfigError(f"--set {override}: {key!r} lies inside {type(target).__name__}, which holds no keys")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def _index(target: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(target):
        raise ConfigError(f"--set {override}: expected an item number 0..{len(target) - 1}, saw {key!r}")
    return int(key)


def _explain(name: str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    seen = repr(item["input"])
    seen = seen if len(seen) <= 120 else seen[:117] + "..."
    match item["type"]:
        case "missing":
            return f"{name}: {where}: expected a value, saw none"
        case "extra_forbidden":
            return f"{name}: {where}: expected no such key, saw {seen}"
        case _:
            return f"{name}: {where}: {item['msg']}, saw {seen}"
