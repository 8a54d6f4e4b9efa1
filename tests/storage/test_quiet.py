import sys
import types
import warnings

import pytest

from storage.quiet import ignore_warnings_of


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("noisy.inner")
    exec("import warnings\ndef speak(): warnings.warn('old')", module.__dict__)
    monkeypatch.setitem(sys.modules, "noisy.inner", module)
    return module


class TestIgnoreWarningsOf:
    def test_smoke(self, noisy: types.ModuleType) -> None:
        ignore_warnings_of("noisy")
        ignore_warnings_of("other")
        noisy.speak()

    def test_later_filters_do_not_overrule(self, noisy: types.ModuleType) -> None:
        ignore_warnings_of("noisy")
        warnings.simplefilter("error")
        ignore_warnings_of("noisy")
        noisy.speak()

    def test_filters_do_not_pile_up(self) -> None:
        for package in ("noisy", "other") * 5:
            ignore_warnings_of(package)
        assert sum("noisy" in str(entry[3]) for entry in warnings.filters) == 1

    def test_other_warnings_remain(self, noisy: types.ModuleType) -> None:
        ignore_warnings_of("nois")
        with pytest.raises(UserWarning, match="old"):
            noisy.speak()
