"""How many threads one computation may use: results follow it to the last bit, so one rule serves every step."""

import torch

from configs import RunConfig
from tasks.state import worker_count


def set_threads(config: RunConfig, workers: int) -> None:
    """Threads inside one computation: what is configured, else the cores shared among ``workers``."""
    torch.set_num_threads(config.runtime.threads or max(1, worker_count(0) // workers))
