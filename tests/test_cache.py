"""The cache saves time only: a damaged, foreign, unwritable or disabled one changes no result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedloru import cache
from fedloru.cache import Entry, cached, folder
from fedloru.data import builtin, load


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self, *parts: str) -> None:
        self.made, self.parts = 0, parts or ("v1",)

    def __call__(self) -> list[int]:
        def make() -> list[int]:
            self.made += 1
            return [3, 1, 4]

        return cached("numbers", self.parts, make, lambda value: Entry({"x": torch.tensor(value)}, {"n": 3}), _unpack)


def _unpack(entry: Entry) -> list[int]:
    x = entry.tensors.get("x")
    if x is None or x.shape != (3,) or entry.facts != {"n": 3}:
        raise ValueError
    found: list[int] = x.tolist()
    return found


def test_a_value_is_made_once(place: Path) -> None:
    number = Maker()
    assert number() == number() == [3, 1, 4] and number.made == 1
    assert len(list(place.iterdir())) == 1


def test_everything_that_it_follows_from_is_part_of_its_name(place: Path) -> None:
    for parts in (["a", "b"], ["ab"], ["ab", ""], ["", "ab"], ["b", "a"]):
        number = Maker(*parts)
        number()
        assert number.made == 1


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"x",
        _flipped,
        lambda data: data[:8] + b"{" * (len(data) - 8),
        lambda data: b"\xff" * len(data),
        lambda data: data.replace(b'"I64"', b'"F64"'),
        lambda data: data.replace(b"[3]", b"[9]"),
        lambda data: safetensors.torch.save({"x": torch.tensor([3, 1, 5])}),
        lambda data: safetensors.torch.save({"x": torch.tensor([3, 1, 5])}, {"facts": '{"n": 3}', "check": "0"}),
    ],
)
def test_a_damaged_entry_is_made_again(place: Path, damage: object) -> None:
    Maker()()
    (file,) = place.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    number = Maker()
    assert number() == number() == [3, 1, 4] and number.made == 1


@pytest.mark.parametrize("shape", [(), (2,), (3, 1)])
def test_an_entry_that_was_made_by_another_program_is_checked(place: Path, shape: tuple[int, ...]) -> None:
    Maker()()
    (file,) = place.iterdir()
    tensors = {"x": torch.zeros(shape)}
    facts = '{"n": 3}'
    file.write_bytes(safetensors.torch.save(tensors, {"facts": facts, "check": cache._check(tensors, facts)}))
    number = Maker()
    assert number() == [3, 1, 4] and number.made == 1


@pytest.mark.parametrize("kind", ["file", "folder in the way", "below a file"])
def test_a_cache_that_cannot_be_written_is_ignored(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "folder in the way":
        Maker()()
        (file,) = place.iterdir()
        file.unlink()
        file.mkdir()
    else:
        place.write_text("not a folder")
        monkeypatch.setenv(cache.VARIABLE, str(place / "x" if kind == "below a file" else place))
    number = Maker()
    assert number() == number() == [3, 1, 4] and number.made == 2


@pytest.mark.parametrize("off", ["off", "OFF", ""])
def test_it_can_be_disabled(place: Path, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, off)
    number = Maker()
    assert number() == number() and number.made == 2 and not place.exists() and folder() is None


def test_it_is_in_the_folder_that_the_system_has_for_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, variables, expected in (
        ("linux", {"XDG_CACHE_HOME": ""}, tmp_path / ".cache"),
        ("linux", {"XDG_CACHE_HOME": str(tmp_path / "x")}, tmp_path / "x"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, tmp_path / ".cache"),
        ("darwin", {}, tmp_path / "Library" / "Caches"),
        ("win32", {"LOCALAPPDATA": str(tmp_path / "local")}, tmp_path / "local"),
        ("win32", {"LOCALAPPDATA": ""}, tmp_path / "AppData" / "Local"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert folder() == expected / "fedloru"


def test_the_entries_that_were_not_used_for_longest_are_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers = [Maker(str(number)) for number in range(4)]
    for age, number in enumerate(makers[:3]):
        before = set(place.glob("*"))
        number()
        (new,) = set(place.glob("*")) - before
        os.utime(new, (1000 + age, 1000 + age))
    size = new.stat().st_size
    makers[0]()  # is used now, so the second is the oldest
    monkeypatch.setattr(cache, "LIMIT", 4 * size)
    makers[3]()
    assert len(list(place.glob("*"))) == 4
    Maker("5")()
    assert len(list(place.glob("*"))) == 4
    makers[0]()
    assert [each.made for each in makers] == [1, 1, 1, 1]
    makers[1]()
    assert makers[1].made == 2


def test_large_entries_are_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 100)
    Maker()()
    assert not place.exists()


def test_the_digits_are_parsed_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("mnist5k")
    monkeypatch.setattr(builtin, "_parsed_digits", lambda: pytest.fail("parsed again"))
    again = load("mnist5k")
    for side in ("train", "test"):
        for key, value in getattr(first, side).items():
            assert torch.equal(value, getattr(again, side)[key])


@pytest.mark.parametrize("wrong", ["labels", "dtype", "shape", "missing"])
def test_tampered_digits_are_parsed_again(place: Path, wrong: str) -> None:
    x, y = torch.zeros(5000, 1, 28, 28, dtype=torch.uint8), torch.zeros(5000, dtype=torch.int64)
    entry = {
        "labels": {"x": x, "y": y - 1},
        "dtype": {"x": x.float(), "y": y},
        "shape": {"x": x[:10], "y": y[:10]},
        "missing": {"y": y},
    }[wrong]
    with pytest.raises(ValueError, match="not the digits"):
        builtin._digits_of(Entry(entry))


def test_runs_that_start_at_once_share_it(place: Path) -> None:
    code = "from fedloru.data.builtin import mnist5k; print(int(mnist5k().train.x.sum()))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {process.communicate()[0] for process in started}
    assert len(sums) == 1 and sums != {""} and [file.suffix for file in place.iterdir()] == [".safetensors"]
