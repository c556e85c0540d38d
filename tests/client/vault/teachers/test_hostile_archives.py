"""Archives of teachers that grow when they are unpacked are refused before they do."""

import zipfile
from pathlib import Path

import pytest

from fedkd.client.vault.teachers.formats import open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError


def bomb(path: Path, *names: str) -> Path:
    """Records of 128 MiB of zeros each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(name, "w") as record:
                for _ in range(128):
                    record.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    return path


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No record of that size may be unpacked."""
    read = zipfile.ZipExtFile.read

    def reading(self: zipfile.ZipExtFile, count: int | None = -1) -> bytes:
        assert self._left < 1 << 20, "it was unpacked"  # type: ignore[attr-defined]
        return read(self, count)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", reading)


def test_an_archive_of_torch_that_grows_is_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.pt2", "model/archive_version", "model/data/weights/weight_0")
    with pytest.raises(DataError, match="grows when it is unpacked"):
        open_teacher(TeacherSpec(f"pt2:{path}", (1, 8, 8), classes=10, trusted=True))


def test_a_skops_file_that_grows_is_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.skops", "schema.json")
    with pytest.raises(DataError, match="would unpack to 134217728 bytes"):
        open_teacher(TeacherSpec(f"skops:{path}", (1, 8, 8), classes=10))
