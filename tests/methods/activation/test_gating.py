import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation.gating import confidence, gate_classes, labels_of, present_classes

SEEDS = st.integers(0, 2**31)


def draw(classes: int, seed: int, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(2, classes + 1, size, size, generator=generator)).softmax(dim=1)
    return probabilities, torch.rand(2, classes, generator=generator) > 0.5


class TestGateClasses:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_smoke(self, dtype: torch.dtype) -> None:
        probabilities, present = draw(3, 0)
        gated = gate_classes(probabilities.to(dtype), present)
        assert gated.shape == probabilities.shape
        assert gated.dtype == dtype
        assert ((gated >= 0) & (gated <= 1)).all()

    def test_by_hand(self) -> None:
        probabilities = torch.tensor([[[[0.5, 0.2]], [[0.1, 0.2]], [[0.4, 0.6]]]], dtype=torch.float64)
        gated = gate_classes(probabilities, torch.tensor([[True, False]]))
        expected = [[[0.5, 0.2]], [[0.1 / 0.20001, 0.2 / 0.20001]], [[0.0, 0.0]]]
        torch.testing.assert_close(gated[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)

    @given(classes=st.integers(1, 5), seed=SEEDS, normalise=st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_absent_classes_never_appear(self, classes: int, seed: int, normalise: bool) -> None:
        probabilities, present = draw(classes, seed)
        labels = labels_of(gate_classes(probabilities, present, normalise=normalise))
        for one, known in zip(labels, present, strict=True):
            assert set(one.unique().tolist()) <= {0, *(known.nonzero()[:, 0] + 1).tolist()}

    @given(classes=st.integers(1, 5), seed=SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_background_stays_and_plain_gating_only_takes_away(self, classes: int, seed: int) -> None:
        probabilities, present = draw(classes, seed)
        gated = gate_classes(probabilities, present, normalise=False)
        assert torch.equal(gated[:, 1:][present], probabilities[:, 1:][present])
        assert not gated[:, 1:][~present].any()
        assert torch.equal(gate_classes(probabilities, present)[:, 0], probabilities[:, 0])

    @given(classes=st.integers(1, 4), seed=SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_images_are_apart(self, classes: int, seed: int) -> None:
        probabilities, present = draw(classes, seed)
        single = [gate_classes(probabilities[at, None], present[at, None]) for at in range(2)]
        assert torch.equal(gate_classes(probabilities, present), torch.cat(single))

    def test_absent_classes_do_not_win_where_the_background_is_nothing(self) -> None:
        probabilities = torch.zeros(1, 3, 1, 2)
        probabilities[0, 2] = 1
        assert not labels_of(gate_classes(probabilities, torch.tensor([[True, False]]))).any()

    def test_leaves_its_input_alone_and_keeps_the_graph(self) -> None:
        probabilities, present = draw(2, 1)
        before = probabilities.clone()
        gate_classes(probabilities.requires_grad_(), present).sum().backward()  # type: ignore[no-untyped-call]
        assert torch.equal(probabilities.detach(), before)
        assert probabilities.grad is not None

    @pytest.mark.parametrize("shape", [(0, 3, 2, 2), (1, 3, 0, 4), (1, 255, 1, 1)])
    @pytest.mark.parametrize("normalise", [False, True])
    def test_sizes(self, shape: tuple[int, int, int, int], normalise: bool) -> None:
        present = torch.ones(shape[0], shape[1] - 1, dtype=torch.bool)
        assert gate_classes(torch.zeros(shape), present, normalise=normalise).shape == shape

    def test_refuses(self) -> None:
        probabilities, present = draw(3, 2)
        with pytest.raises(ValueError, match=r"\(2, 2\) for \(2, 4, 5, 5\)"):
            gate_classes(probabilities, present[:, 1:])
        with pytest.raises(TypeError, match=r"torch\.int64"):
            gate_classes(probabilities, present.long())
        with pytest.raises(ValueError, match="1 to 254 classes"):
            gate_classes(probabilities[:, :1], present[:, :0])
        with pytest.raises(TypeError, match="uint8"):
            gate_classes(probabilities.to(torch.uint8), present)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
    def test_refuses_values(self, value: float) -> None:
        probabilities, present = draw(3, 3)
        probabilities[1, 0, 2, 2] = value
        for use in (labels_of, confidence, lambda values: gate_classes(values, present)):
            with pytest.raises(ValueError, match="1 of 200 values NaN, infinite or negative"):
                use(probabilities)


class TestLabelsOf:
    def test_smoke(self) -> None:
        labels = labels_of(draw(3, 0)[0])
        assert labels.shape == (2, 5, 5)
        assert labels.dtype == torch.uint8

    def test_equal_values_take_the_first(self) -> None:
        assert labels_of(torch.ones(1, 255, 1, 1)).item() == 0
        probabilities = torch.tensor([0.2, 0.4, 0.4])[None, :, None, None].expand(-1, -1, 9, 40)
        assert (labels_of(probabilities) == 1).all()

    def test_the_last_class_is_not_ignore(self) -> None:
        probabilities = torch.zeros(1, 255, 1, 1)
        probabilities[0, 254] = 1
        assert labels_of(probabilities).item() == 254


class TestConfidence:
    @given(classes=st.integers(1, 5), seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_is_the_share_of_the_label(self, classes: int, seed: int) -> None:
        gated = gate_classes(*draw(classes, seed))
        shares = gated / gated.sum(dim=1, keepdim=True)
        torch.testing.assert_close(confidence(gated), shares.amax(dim=1))
        of_label = shares.gather(1, labels_of(gated)[:, None].long())[:, 0]
        torch.testing.assert_close(confidence(gated), of_label)

    def test_nothing_is_not_confident(self) -> None:
        assert not confidence(torch.zeros(1, 3, 2, 2)).any()

    def test_the_smallest_numbers(self) -> None:
        tiny = torch.full((1, 4, 1, 1), torch.finfo(torch.float16).smallest_normal, dtype=torch.float16)
        found = confidence(tiny)
        assert found.dtype == torch.float32
        assert found.item() == 0.25
        smallest = torch.full((1, 2, 1, 1), torch.finfo(torch.float32).tiny)
        assert confidence(smallest).item() == 0.5


class TestPresentClasses:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_the_threshold_counts(self, dtype: torch.dtype) -> None:
        scores = torch.tensor([[0.9, 0.34, 0.32, 0.0]], dtype=dtype)
        assert present_classes(scores).tolist() == [[True, True, False, False]]

    def test_none_and_all(self) -> None:
        scores = torch.tensor([[0.0, 1.0]])
        assert present_classes(scores, 0).all()
        assert present_classes(scores, 1).tolist() == [[False, True]]
        assert present_classes(torch.zeros(0, 3)).shape == (0, 3)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"up to 3: take the sigmoid"):
            present_classes(torch.tensor([[3.0]]))
        with pytest.raises(ValueError, match="1 of 2 values"):
            present_classes(torch.tensor([[0.5, float("nan")]]))
        with pytest.raises(ValueError, match=r"and 1\.5"):
            present_classes(torch.rand(1, 2), 1.5)
        with pytest.raises(ValueError, match=r"\(2,\)"):
            present_classes(torch.rand(2))
        with pytest.raises(TypeError, match="bool"):
            present_classes(torch.ones(1, 2, dtype=torch.bool))
