import re

import pytest

from flows.progress import progress


class TestProgress:
    def test_one_line_and_nothing_moves_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress("stage", 3, 0) as bar:
            for _ in range(3):
                bar.step("note")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(r"stage      3 shards done \(\d+\.\d s\)\n", captured.err)

    def test_names_what_was_there_before(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress("classifier", 2, 5, what="epochs") as bar:
            bar.step()
        assert re.fullmatch(r"classifier 1 epochs done, 5 as before \(\d+\.\d s\)\n", capsys.readouterr().err)

    def test_no_work(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress("refine", 0, 4):
            pass
        assert re.fullmatch(r"refine     0 shards done, 4 as before \(\d+\.\d s\)\n", capsys.readouterr().err)

    def test_a_failed_step_claims_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ZeroDivisionError), progress("refine", 4, 0):
            1 / 0  # noqa: B018
        assert capsys.readouterr().err == ""
