import logging

import pytest
import torch
from torch import Tensor

from methods.activation.compiled import compiled_or_plain


def plus_three(values: Tensor) -> Tensor:
    return values.mul(2).add(3)


class TestCompiledOrPlain:
    def test_without_a_compiler_it_warns_once_and_goes_on(self, caplog: pytest.LogCaptureFixture) -> None:
        function = compiled_or_plain(plus_three)
        missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
        with missing, caplog.at_level(logging.WARNING, "methods.activation.compiled"):
            for size in (4, 5):
                assert function(torch.ones(size)).tolist() == [5.0] * size
        (warning,) = [one for one in caplog.records if one.name == "methods.activation.compiled"]
        assert "going on without (InvalidCxxCompiler" in warning.getMessage()

    def test_an_error_of_the_function_is_its_own(self) -> None:
        def refuse(values: Tensor) -> Tensor:
            raise ValueError(f"not {len(values)} values")

        with pytest.raises(ValueError, match="not 2 values"):
            compiled_or_plain(refuse)(torch.ones(2))
