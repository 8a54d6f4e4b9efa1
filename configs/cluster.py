"""Schema of how the shards of a run reach the processes of a Dask cluster."""

import re
from typing import Annotated

from pydantic import Field

from configs.dataset import Section

Amounts = dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]]
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")


class Resources(Section):
    """What one shard asks a worker for, by the names that the workers were started with."""

    network: Amounts = Field(default={})
    """Of a shard that passes a network: {GPU: 1}."""
    cpu: Amounts = Field(default={})
    """Of any other: {CPU: 1}, or nothing, and every worker may do it."""


def check_executor(executor: str, address: str | None, resources: Resources) -> None:
    """Refuse settings of a cluster that would be silently ignored.

    Raises
    ------
    ValueError
        An address without Dask, resources without somebody else's workers, or what is no address.

    Examples
    --------
    >>> check_executor("dask", "tcp://10.0.0.1:8786", Resources(network={"GPU": 1}))
    """
    if executor == "local" and address is not None:
        raise ValueError(f"address: expected none with executor: local, saw {address!r}; set executor: dask")
    if address is not None and not _ADDRESS.fullmatch(address):
        raise ValueError(f"address: expected a scheduler's address such as tcp://10.0.0.1:8786, saw {address!r}")
    if address is None and (resources.network or resources.cpu):
        raise ValueError(
            "resources: expected none without an address, since a run starts its own workers with what they need; "
            f"saw {resources.network | resources.cpu}"
        )
