"""What can be wrong with a recording, as errors with a type each.

Public packages answer most of these with a map of zeros or with another image's map; a caller can catch all of them as
:class:`RecordingError`.
"""


class RecordingError(ValueError):
    """A network, its layers or the asked pairs do not allow a correct recording."""


class UnknownLayerError(RecordingError):
    """A layer name is not among the network's ``named_modules``."""


class PairError(RecordingError):
    """A pair names an image row or a class that does not exist, or the pairs are not integers [P, 2]."""


class LayerOutputError(RecordingError):
    """A recorded layer gave something else than one floating tensor [B, C, h, w]."""


class LayerCallError(RecordingError):
    """A recorded layer was called more than once, or not at all, in one forward pass."""


class LogitsError(RecordingError):
    """The network's output is not one tensor of logits [B, K]."""


class GradientReachError(RecordingError):
    """The logits do not depend on a recorded layer: its gradients would be zeros, and so would every map."""


class OverwrittenLayerError(RecordingError):
    """Something wrote into a recorded output after it was recorded."""
