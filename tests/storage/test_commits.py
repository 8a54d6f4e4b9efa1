import time
from pathlib import Path

import pytest

import storage.commits
from storage.commits import CommitError, CommitLog
from storage.files import file_digest


@pytest.fixture
def log(tmp_path: Path) -> CommitLog:
    return CommitLog(tmp_path)


def commit(log: CommitLog, unit: str, **contents: str) -> None:
    paths = []
    for name, text in contents.items():
        path = log.folder / "facts" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        paths.append(path)
    log.commit(unit, paths, facts={"rows": len(paths)}, began=time.monotonic(), device="cpu")


class TestCommitLog:
    def test_smoke(self, log: CommitLog) -> None:
        assert log.units() == set()
        commit(log, "00007", b="two", a="one")
        commit(log, "metrics")
        assert log.units() == {"00007", "metrics"}
        record = log.read("00007")
        assert record.objects == {name: file_digest(log.folder / name) for name in ("facts/a", "facts/b")}
        assert (record.unit, record.facts, record.device) == ("00007", {"rows": 2}, "cpu")
        assert 0 <= record.seconds < 60
        assert record.host

    def test_units_are_records_only(self, log: CommitLog) -> None:
        commit(log, "00000")
        folder = log.path("00000").parent
        for name in (".00001.json.0123456789ab.tmp", ".00002.json", "00003.json.bak", "notes.txt"):
            (folder / name).write_text("{}")
        assert log.units() == {"00000"}

    def test_withdraw(self, log: CommitLog) -> None:
        log.withdraw("00000")
        commit(log, "00000")
        commit(log, "00001")
        log.withdraw("00000")
        assert log.units() == {"00001"}
        with pytest.raises(CommitError, match=r"00000\.json: expected a whole commit record.*verify --repair"):
            log.read("00000")

    def test_a_second_commit_replaces_the_first(self, log: CommitLog) -> None:
        commit(log, "00000", a="one")
        commit(log, "00000", a="two")
        assert log.read("00000").objects == {"facts/a": file_digest(log.folder / "facts/a")}

    def test_no_record_without_its_objects(self, log: CommitLog) -> None:
        with pytest.raises(FileNotFoundError):
            log.commit("00000", [log.folder / "facts" / "absent"], facts={}, began=0.0)
        assert log.units() == set()

    def test_record_comes_after_the_hashes(self, log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        digest, write = storage.commits.file_digest, storage.commits.write_bytes_atomic
        monkeypatch.setattr(storage.commits, "file_digest", lambda path: seen.append(path.name) or digest(path))
        monkeypatch.setattr(
            storage.commits, "write_bytes_atomic", lambda path, data: seen.append(path.name) or write(path, data)
        )
        commit(log, "00000", b="x", a="y")
        assert seen == ["a", "b", "00000.json"]

    def test_refuses_a_flipped_bit(self, log: CommitLog) -> None:
        commit(log, "00000", a="one")
        path = log.path("00000")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(CommitError, match="expected a whole commit record"):
            log.read("00000")

    def test_refuses_a_sealed_file_that_is_no_record(self, log: CommitLog) -> None:
        commit(log, "00000")
        log.path("00000").write_bytes(storage.commits.seal({"unit": "00000"}))
        with pytest.raises(CommitError, match="missing 5 required positional arguments"):
            log.read("00000")

    def test_refuses_an_object_outside_of_the_folder(self, log: CommitLog, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not in the subpath"):
            log.commit("00000", [tmp_path.parent / "elsewhere"], facts={}, began=0.0)
