"""What a user writes: the typed schema of a run, its loader, and ready presets.

Nothing here does work or imports a room above; importing it is cheap (no torch, no prefect).
"""

from configs.loader import ConfigError, dump_config, load_config, preset_names
from configs.schema import RunConfig

__all__ = ["ConfigError", "RunConfig", "dump_config", "load_config", "preset_names"]
