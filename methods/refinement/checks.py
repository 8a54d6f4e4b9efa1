"""What refinement refuses of its input."""

from torch import Tensor


def require_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity: they would win comparisons and end as labels without a word.

    Raises
    ------
    ValueError
        A value that is not finite, with how many there are.
    """
    if not values.isfinite().all():
        count = int((~values.isfinite()).sum())
        raise ValueError(f"expected finite {what}, got {count} of {values.numel()} values NaN or infinite")
