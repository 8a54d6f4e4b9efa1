"""Schema of how 8-bit images become network input."""

from typing import Annotated, Literal

from pydantic import Field

from configs.dataset import Section


class Normalise(Section):
    """How 8-bit RGB becomes network input: optional BGR, divide by ``scale``, minus mean, over std."""

    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = Field(default=255.0, gt=0)
    mean: list[float] = Field(default=[0.485, 0.456, 0.406], min_length=3, max_length=3)
    std: list[Annotated[float, Field(gt=0)]] = Field(default=[0.229, 0.224, 0.225], min_length=3, max_length=3)
