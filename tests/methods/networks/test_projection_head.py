import pytest
import torch

from methods.networks.projection_head import ProjectionHead


def head(**widths: int) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(12, 20, **{"hidden": 16, "bottleneck": 6, **widths})


class TestProjectionHead:
    def test_smoke(self) -> None:
        assert head()(torch.randn(3, 5, 12)).shape == (3, 5, 20)

    def test_answers_are_cosines(self) -> None:
        made, tokens = head(), torch.randn(4, 12)
        squeezed, rows = made.layers(tokens), made.last
        expected = torch.nn.functional.cosine_similarity(squeezed[:, None], rows[None], dim=-1)
        torch.testing.assert_close(made(tokens), expected)

    def test_lengths_of_the_last_rows_do_not_matter(self) -> None:
        made, tokens = head(), torch.randn(4, 12)
        before = made(tokens)
        with torch.no_grad():
            made.last.mul_(torch.linspace(0.1, 9, 20)[:, None])
        torch.testing.assert_close(made(tokens), before)

    def test_widths(self) -> None:
        shapes = [tuple(one.shape) for one in head().parameters()]
        assert sorted(shapes) == sorted([(20, 6), (16, 12), (16,), (16, 16), (16,), (6, 16), (6,)])

    def test_every_parameter_learns(self) -> None:
        made = head()
        made(torch.randn(4, 12)).pow(3).sum().backward()
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in made.parameters())

    def test_mixed_precision_answers_in_full_length(self) -> None:
        made, tokens = head(), torch.randn(4, 12)
        with torch.autocast("cpu", torch.bfloat16):
            answers = made(tokens)
        torch.testing.assert_close(answers.float(), made(tokens), rtol=0.05, atol=0.05)

    def test_a_token_of_zeros_is_finite(self) -> None:
        assert torch.isfinite(head()(torch.zeros(1, 12))).all()

    @pytest.mark.parametrize("name", ["hidden", "bottleneck"])
    def test_refuses_widths(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name}=0"):
            head(**{name: 0})
