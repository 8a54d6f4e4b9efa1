"""Schedule of Puzzle-CAM's alpha, the weight of the reconstruction."""


def alpha(step: int, steps: int, *, maximum: float = 4.0, rise: float = 0.5) -> float:
    r"""Weight of the reconstruction at a step: rising evenly, then constant.

    .. math:: \alpha_t = \min\Big(\alpha_{max} \frac{t}{rT},\; \alpha_{max}\Big)

    Parameters
    ----------
    step
        t, how many steps are done, 0 or more.
    steps
        T, steps of the whole training, 1 or more.
    maximum
        :math:`\alpha_{max}`, 0 or more. 4 trained the published networks; the authors' script has 1 by default.
    rise
        r, the share of the training in which alpha rises, in 0..1; 0: ``maximum`` from the first step on.

    Raises
    ------
    ValueError
        A value out of its range.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021.

    Examples
    --------
    >>> [alpha(step, 8) for step in (0, 1, 4, 7)]
    [0.0, 1.0, 4.0, 4.0]
    """
    if step < 0 or steps < 1 or not 0 <= rise <= 1 or not 0 <= maximum < float("inf"):
        raise ValueError(
            f"expected step >= 0, steps >= 1, rise in 0..1 and maximum >= 0, got step={step}, steps={steps}, "
            f"rise={rise}, maximum={maximum}"
        )
    until = rise * steps
    return min(maximum * step / until, maximum) if until else maximum
