"""What trainings share that is no network and no loss: tensors in, tensors out."""

from methods.training.multi_crop import Jitter, multi_crop

__all__ = ["Jitter", "multi_crop"]
