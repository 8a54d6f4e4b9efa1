"""Self-distillation (DINO): a student learns to say of one view of an image what a teacher says of another.

Nothing is labelled. Two opposing pushes keep the two from agreeing on one answer for every image: the teacher's
output is centred (no answer may win everywhere) and sharpened by a low temperature (not all may be equal).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_terms(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> tuple[Tensor, Tensor]:
    r"""Entropy of the teacher's answers and divergence of the student's from them; their sum is the loss.

    .. math:: t_g = \mathrm{softmax}((T_g - c) / \tau_t), \quad s_v = \mathrm{softmax}(S_v / \tau_s), \quad
        H = \overline{H(t_g)}, \quad D = \overline{\mathrm{KL}(t_g \,\|\, s_v)}

    with means over images and over all pairs of a teacher's view g and a student's view v other than g. A divergence of
    zero is a collapse; the entropy tells which: 0, one answer for all images, or log K, all answers alike.

    Parameters
    ----------
    student
        Output of the student, ``[V, B, K]``; the first G views are those the teacher saw.
    teacher
        Output of the teacher, ``[G, B, K]``, G <= V; no gradient flows into it.
    centre
        ``[K]``, see :func:`moved_centre`.
    student_temperature, teacher_temperature
        Above 0; the teacher's is the lower one.

    Returns
    -------
    tuple of Tensor
        Entropy (without a gradient) and divergence, float32 scalars, at least 0.

    Raises
    ------
    ValueError
        Other shapes, no pair of different views, no image, or a temperature that is not above 0.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, section 3.1 and figure 7.

    Examples
    --------
    >>> entropy, divergence = distillation_terms(torch.zeros(3, 1, 4), torch.zeros(2, 1, 4), torch.zeros(4))
    >>> round(entropy.item(), 4), round(divergence.item(), 4)
    (1.3863, 0.0)
    """
    _check(student, teacher, centre)
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"expected temperatures above 0, got {student_temperature} and {teacher_temperature}")
    with torch.no_grad():
        told = F.log_softmax((teacher.float() - centre.float()) / teacher_temperature, dim=-1)
        target = told.exp()
        entropies = -(target * told).sum(dim=-1)
    answer = F.log_softmax(student.float() / student_temperature, dim=-1)
    views, seen = len(student), len(teacher)
    # All pairs at once, less those of a view with itself.
    cross = (target.sum(dim=0) * answer.sum(dim=0)).sum() - (target * answer[:seen]).sum()
    pairs = seen * (views - 1)
    entropy = entropies.mean()
    return entropy, -cross / (pairs * student.shape[1]) - entropy


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    r"""Cross entropy between the teacher's answers and the student's on other views: :func:`distillation_terms` summed.

    Examples
    --------
    >>> loss = distillation_loss(torch.zeros(3, 1, 4), torch.zeros(2, 1, 4), torch.zeros(4))
    >>> round(loss.item(), 4)
    1.3863
    """
    temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
    entropy, divergence = distillation_terms(student, teacher, centre, **temperatures)
    return entropy + divergence


def moved_centre(centre: Tensor, teacher: Tensor, momentum: float = 0.9) -> Tensor:
    """The centre after one step: a moving average of the teacher's mean output.

    Parameters
    ----------
    centre
        ``[K]``.
    teacher
        Output of the teacher, ``[..., K]``.
    momentum
        How much of the old centre stays, ``0 <= momentum < 1``.

    Returns
    -------
    Tensor
        ``[K]``, in the precision of the centre, without a gradient.

    Examples
    --------
    >>> moved_centre(torch.zeros(2), torch.tensor([[1.0, 3.0], [3.0, 3.0]]), 0.75).tolist()
    [0.5, 0.75]
    """
    if centre.shape != teacher.shape[-1:] or not teacher.numel():
        raise ValueError(
            f"expected a centre [K] and outputs [..., K], got {tuple(centre.shape)}, {tuple(teacher.shape)}"
        )
    if not 0 <= momentum < 1:
        raise ValueError(f"expected a momentum in 0..1, below 1, got {momentum}")
    mean = teacher.detach().flatten(0, -2).mean(dim=0, dtype=centre.dtype)
    return centre * momentum + mean * (1 - momentum)


def _check(student: Tensor, teacher: Tensor, centre: Tensor) -> None:
    shapes = tuple(student.shape), tuple(teacher.shape), tuple(centre.shape)
    fits = student.ndim == teacher.ndim == 3 and student.shape[1:] == teacher.shape[1:] and shapes[2] == shapes[0][2:]
    if not fits or not student.numel():
        raise ValueError(
            f"expected a student [V, B, K], a teacher [G, B, K] and a centre [K], got {shapes[0]}, {shapes[1]}, "
            f"{shapes[2]}"
        )
    if not 1 <= len(teacher) <= len(student) or len(student) < 2:
        raise ValueError(
            f"expected two views or more, the teacher's among the student's, got {len(student)} of the student and "
            f"{len(teacher)} of the teacher"
        )
