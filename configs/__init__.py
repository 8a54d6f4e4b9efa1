"""What a user writes: the typed schema of a run, its loader, and ready presets.

Nothing here does work or imports a room above; importing it is cheap (no torch, no prefect).
"""

from configs.errors import ConfigError
from configs.loader import dump_config, load_config, preset_names
from configs.schema import RunConfig

__all__ = ["ConfigError", "RunConfig", "dump_config", "load_config", "preset_names"]
