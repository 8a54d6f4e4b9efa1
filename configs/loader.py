"""Reading a configuration: a YAML file or a preset, ``key=value`` overrides, then the schema."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.errors import ConfigError, explain
from configs.schema import RunConfig
from configs.yaml_text import dump_yaml, parse_yaml

PRESET_PREFIX = "preset:"


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
        ``section.key=value`` texts; the value is YAML, list items are reached by their number
        (``proposals.0.truncation=20``).

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
    data = parse_yaml(text, name)
    if not isinstance(data, dict):
        seen = "an empty file" if data is None else type(data).__name__
        raise ConfigError(f"{name}: expected a mapping of sections, saw {seen}")
    for override in overrides:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(name, error, data)) from error


def dump_config(config: RunConfig) -> str:
    """The configuration with every default, as YAML that :func:`load_config` reads back."""
    return dump_yaml(config.model_dump(mode="json"))


def _read(source: str) -> tuple[str, str]:
    if source.startswith(PRESET_PREFIX):
        name = source.removeprefix(PRESET_PREFIX)
        if name not in preset_names():
            raise ConfigError(f"{source}: expected one of the presets {', '.join(preset_names())}, saw {name!r}")
        return source, (resources.files("configs") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return source, Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: expected a readable YAML file or preset:NAME, saw {error}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value")
    value = parse_yaml(text, f"--set {override}")
    *parents, last = parts
    target: Any = data
    for parent in parents:
        target = _descend(target, parent, override)
    if isinstance(target, list):
        target[_index(target, last, override)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"--set {override}: expected {'.'.join(parents)} to hold keys, saw {target!r}")


def _descend(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, override)]
    if not isinstance(target, dict):
        raise ConfigError(f"--set {override}: expected keys around {key!r}, saw {target!r}")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def _index(target: list[Any], key: str, override: str) -> int:
    if key not in map(str, range(len(target))):
        numbers = f"an item number 0..{len(target) - 1}" if target else "no item of an empty list"
        raise ConfigError(f"--set {override}: expected {numbers}, saw {key!r}")
    return int(key)
