import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.losses.self_distillation import distillation_loss, distillation_terms, moved_centre

ANSWERS = 5


def drawn(seed: int, views: int = 4, seen: int = 2, images: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (views, images, ANSWERS), (seen, images, ANSWERS), (ANSWERS,)
    student, teacher, centre = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return student, teacher, centre


def by_loops(student: Tensor, teacher: Tensor, centre: Tensor, warm: float, cold: float) -> float:
    """Pair after pair, image after image, from the formula."""
    found = []
    for g in range(len(teacher)):
        for v in range(len(student)):
            if v == g:
                continue
            for b in range(student.shape[1]):
                told = torch.exp((teacher[g, b] - centre) / cold)
                said = torch.exp(student[v, b] / warm)
                found.append(-(told / told.sum() * torch.log(said / said.sum())).sum().item())
    return sum(found) / len(found)


class TestDistillationLoss:
    def test_smoke(self) -> None:
        student = torch.randn(10, 4, 16, requires_grad=True)
        loss = distillation_loss(student, torch.randn(2, 4, 16), torch.zeros(16))
        loss.backward()
        assert loss.shape == ()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()

    @pytest.mark.parametrize(("views", "seen"), [(2, 1), (2, 2), (3, 2), (6, 2), (5, 5)])
    def test_formula(self, views: int, seen: int) -> None:
        student, teacher, centre = drawn(views, views, seen)
        loss = distillation_loss(student, teacher, centre, student_temperature=0.7, teacher_temperature=0.3)
        assert loss.item() == pytest.approx(by_loops(student, teacher, centre, 0.7, 0.3), rel=1e-5)

    def test_a_view_is_not_compared_with_itself(self) -> None:
        student, teacher, centre = drawn(1, views=2, seen=1)
        loss = distillation_loss(student, teacher, centre)
        student[0] += torch.randn(ANSWERS)
        torch.testing.assert_close(distillation_loss(student, teacher, centre), loss)

    def test_no_gradient_reaches_the_teacher(self) -> None:
        student, teacher, centre = drawn(2)
        for one in (student, teacher, centre):
            one.requires_grad_(True)
        distillation_loss(student, teacher, centre).backward()
        assert student.grad is not None
        assert teacher.grad is None
        assert centre.grad is None

    @given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5))
    @settings(max_examples=15, deadline=None)
    def test_a_shift_of_all_answers_changes_nothing(self, seed: int, shift: float) -> None:
        student, teacher, centre = drawn(seed)
        moved = distillation_loss(student + shift, teacher - shift, centre + 3 * shift)
        torch.testing.assert_close(moved, distillation_loss(student, teacher, centre), rtol=1e-4, atol=1e-4)

    def test_half_precision_is_computed_in_full(self) -> None:
        student, teacher, centre = (one.to(torch.bfloat16) for one in drawn(3))
        loss = distillation_loss(student, teacher, centre)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, distillation_loss(student.float(), teacher.float(), centre.float()))

    @pytest.mark.parametrize(
        ("student", "teacher", "centre"),
        [
            ((4, 3, 5), (2, 3, 5), (6,)),
            ((4, 3, 5), (2, 2, 5), (5,)),
            ((4, 3, 6), (2, 3, 5), (5,)),
            ((3, 5), (3, 5), (5,)),
            ((4, 0, 5), (2, 0, 5), (5,)),
        ],
    )
    def test_refuses_other_shapes(self, student: Tensor, teacher: Tensor, centre: Tensor) -> None:
        with pytest.raises(ValueError, match=r"expected a student \[V, B, K\]"):
            distillation_loss(torch.zeros(student), torch.zeros(teacher), torch.zeros(centre))

    @pytest.mark.parametrize(("views", "seen"), [(1, 1), (2, 3), (2, 0)])
    def test_refuses_views_without_a_pair(self, views: int, seen: int) -> None:
        with pytest.raises(ValueError, match=f"got {views} of the student and {seen} of the teacher"):
            distillation_loss(torch.zeros(views, 1, 2), torch.zeros(seen, 1, 2), torch.zeros(2))

    @pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature"])
    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
    def test_refuses_temperatures(self, name: str, value: float) -> None:
        student, teacher, centre = drawn(0)
        with pytest.raises(ValueError, match="temperatures above 0"):
            distillation_loss(student, teacher, centre, **{name: value})


class TestDistillationTerms:
    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_ranges(self, seed: int) -> None:
        entropy, divergence = distillation_terms(*drawn(seed))
        assert 0 <= entropy.item() <= math.log(ANSWERS) + 1e-6
        assert divergence.item() >= -1e-6

    def test_agreement_has_no_divergence(self) -> None:
        answers = torch.randn(1, 3, ANSWERS).expand(2, 3, ANSWERS)
        _, divergence = distillation_terms(answers, 0.4 * answers, torch.zeros(ANSWERS))
        assert divergence.item() == pytest.approx(0, abs=1e-5)

    def test_a_sharp_teacher_has_no_entropy(self) -> None:
        entropy, _ = distillation_terms(*drawn(5), teacher_temperature=1e-4)
        assert entropy.item() == pytest.approx(0, abs=1e-4)

    def test_centring_takes_the_answer_away_that_always_wins(self) -> None:
        teacher = torch.zeros(2, 3, ANSWERS)
        teacher[..., 2] = 1
        entropy, _ = distillation_terms(teacher, teacher, moved_centre(torch.zeros(ANSWERS), teacher, 0.0))
        assert entropy.item() == pytest.approx(math.log(ANSWERS))


class TestMovedCentre:
    @given(seed=st.integers(0, 2**31), momentum=st.floats(0, 0.99))
    @settings(max_examples=10, deadline=None)
    def test_lies_between_the_old_and_the_mean(self, seed: int, momentum: float) -> None:
        _, teacher, centre = drawn(seed)
        moved, mean = moved_centre(centre, teacher, momentum), teacher.mean(dim=(0, 1))
        torch.testing.assert_close(moved, centre + (1 - momentum) * (mean - centre))

    def test_settles_at_the_mean(self) -> None:
        _, teacher, centre = drawn(1)
        for _ in range(200):
            centre = moved_centre(centre, teacher, 0.9)
        torch.testing.assert_close(centre, teacher.mean(dim=(0, 1)))

    def test_keeps_its_own_precision(self) -> None:
        assert moved_centre(torch.zeros(3), torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32

    @pytest.mark.parametrize("shape", [(2, 4), (0, 3), (2, 3, 4)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"centre \[K\]"):
            moved_centre(torch.zeros(3), torch.zeros(shape))

    @pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
    def test_refuses_a_momentum(self, momentum: float) -> None:
        with pytest.raises(ValueError, match="momentum"):
            moved_centre(torch.zeros(3), torch.zeros(2, 3), momentum)
