"""Schema of how the shards of a run reach the processes of a Dask cluster."""

import re
from typing import Annotated, Literal

from pydantic import Field

from configs.dataset import Section

Amounts = dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]]
StageName = Literal[
    "stage",
    "truth",
    "boxes",
    "features",
    "attend",
    "regions",
    "propose",
    "correlate",
    "predict",
    "refine",
    "changes",
    "evaluate",
    "floors",
    "localize",
]
"""What the progress calls a stage whose shards are spread."""
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")


class Resources(Section):
    """What one shard asks a worker for, by the names that the workers were started with."""

    network: Amounts = Field(default={})
    """Of a shard that passes a network: {GPU: 1}."""
    cpu: Amounts = Field(default={})
    """Of any other: {CPU: 1}, or nothing, and every worker may do it."""
    stages: dict[StageName, Amounts] = Field(default={})
    """Of the shards of one stage, in place of the above: {refine: {CPU: 2}}."""

    def asked(self, stage: str, *, network: bool) -> Amounts:
        """What a shard of a stage asks for.

        Examples
        --------
        >>> resources = Resources(network={"GPU": 1}, stages={"refine": {"CPU": 2}})
        >>> [resources.asked(stage, network=stage == "propose") for stage in ("propose", "refine", "evaluate")]
        [{'GPU': 1.0}, {'CPU': 2.0}, {}]
        """
        own = {str(name): amounts for name, amounts in self.stages.items()}
        return own.get(stage, self.network if network else self.cpu)


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
    if address is None and resources != Resources():
        raise ValueError(
            "resources: expected none without an address, since a run starts its own workers with what they need; "
            f"saw {resources.model_dump(exclude_defaults=True)}"
        )
