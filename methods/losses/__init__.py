"""Training losses: tensors in, a scalar with a gradient out. No files, no configuration objects."""

from methods.losses.classification import class_balance, classification_loss

__all__ = ["class_balance", "classification_loss"]
