"""A network with random weights and a batch, and the passes over it that benchmarks time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.activation import GradientMethod, Recipe, Record, record, soft_maps
from methods.networks import build_classifier, fold_batch_norms
from methods.networks.pointwise import hasten_pointwise

BATCH, SIDE, CLASSES, SEVERAL = 8, 224, 20, 3
Methods = tuple[tuple[GradientMethod, int | None], ...]
"""Methods with their percentile."""
SIX: Methods = (
    ("grad_cam", None),
    ("grad_cam_plus_plus", None),
    ("xgrad_cam", None),
    ("layer_cam", None),
    ("grad_cam", 20),
    ("layer_cam", 20),
)


class Subject:
    """A network with its batch, and the passes over it that are timed."""

    def __init__(self, backbone: str, dtype: torch.dtype, *, last: bool = True, prepared: bool = False) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        network = build_classifier(backbone, CLASSES)
        self.layers = list(network.stages.values())
        self.images = torch.rand(BATCH, 3, SIDE, SIDE)
        self.model: nn.Module = network.model.eval().requires_grad_(False)
        if prepared:
            hasten_pointwise(self.model)
            fold_batch_norms(self.model, self.images[:1], keep=self.layers)
        self.model.to(dtype).to(memory_format=layout)
        self.images = self.images.to(dtype).to(memory_format=layout)
        self.pairs = self.of([1] * BATCH)
        self.several = self.of([SEVERAL] * BATCH)

    @staticmethod
    def of(counts: Sequence[int]) -> Tensor:
        """Pairs of a batch whose images have so many classes each."""
        return torch.tensor([[row, (row + k) % CLASSES] for row, count in enumerate(counts) for k in range(count)])

    def forward(self) -> Tensor:
        """The logits."""
        with torch.no_grad():
            logits: Tensor = self.model(self.images)
        return logits

    def bare(self, classes: int = 1) -> None:
        """Forward, and a backward pass per class to what the stages return."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1]

        handles = [self.model.get_submodule(layer).register_forward_hook(keep) for layer in self.layers]
        try:
            logits = self.model(self.images)
        finally:
            for handle in handles:
                handle.remove()
        for k in range(classes):
            chosen = logits[torch.arange(BATCH), (self.pairs[:, 1] + k) % CLASSES].sum()
            torch.autograd.grad(chosen, kept, retain_graph=k + 1 < classes)

    def record(self, pairs: Tensor, layers: Sequence[str] | None = None) -> Record:
        """Our recording."""
        return record(self.model, self.images, pairs, list(layers or self.layers), allow_zero_gradients=True)

    def maps(self, pairs: Tensor, methods: Methods = SIX, *, compiled: bool = False) -> None:
        """Our recording and the maps of several methods on each stage."""
        recipes = [Recipe(method, (layer,), percentile) for method, percentile in methods for layer in self.layers]
        soft_maps(self.record(pairs), recipes, compiled=compiled)

    def last_stage(self) -> None:
        """Grad-CAM of the last stage alone."""
        soft_maps(self.record(self.pairs, self.layers[-1:]), [Recipe("grad_cam", (self.layers[-1],))])

    def batches(self, counts: Sequence[int]) -> None:
        """Record images with these numbers of classes, a batch after the other."""
        for start in range(0, len(counts), BATCH):
            self.record(self.of(counts[start : start + BATCH]))
