"""Files that are damaged, hostile or not files at all, and the permissions of files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedloru.errors import FedloruError, names, printable, quoted
from fedloru.files import private_folder, share_like, write_atomic
from fedloru.reading import UnreadableError, read_bytes, read_json, read_tensors, read_toml
from fedloru.run.client_state import OnDisk

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs the permissions and pipes of POSIX")


def header(text: str, payload: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + bytes(payload)


GOOD = safetensors.torch.save({"b": torch.ones(2), "a": torch.zeros(3)}, {"x": "y"})
ENTRY = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(safetensors.torch.save({}))
    assert read_tensors(path) == ({}, {})


def test_tensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(GOOD)
    tensors, metadata = read_tensors(tmp_path / "f")
    assert list(tensors) == ["a", "b"] and metadata == {"x": "y"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "incomplete|not valid JSON"),
        (b"\xff" * 8, "header has a length of 18446744073709551615 bytes"),
        ((2**26).to_bytes(8, "little") + b"{}", "its header has 2 of 67108864 bytes"),
        (GOOD[:-1], "bytes, but its header describes"),
        (GOOD + b"x", "bytes, but its header describes"),
        (header(ENTRY % (2**40, 2**42)), "but its header describes 4398046511"),
        (header(ENTRY % (3, 8), 8), "not valid safetensors"),
        (header(ENTRY % ("4294967296,4294967296", 8), 8), "not valid safetensors"),
        (header(ENTRY % (-1, 8), 8), "not valid safetensors"),
        (header('{"a":[]}'), "not valid safetensors"),
        (header('{"a":{"data_offsets":[0,"x"]}}'), "not valid safetensors"),
        (header("[" * 100_000), "nested too deeply"),
        (header("[]"), "holds list, expected dict"),
    ],
)
def test_damaged_tensors_are_refused_before_they_are_loaded(data: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(UnreadableError, match=problem):
        read_tensors(tmp_path / "f")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "not UTF-8 text \\(byte 0xff\\)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not valid JSON: Exceeds the limit"),
        (b"[1]", "holds list, expected dict"),
    ],
)
def test_damaged_json_is_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(UnreadableError, match=problem):
        read_json(tmp_path / "f", dict)


@pytest.mark.parametrize("data", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000, b"\xff", b"a = = 1"])
def test_damaged_toml_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(UnreadableError, match=r"not valid TOML|not UTF-8 text"):
        read_toml(tmp_path / "f")


@POSIX
def test_only_regular_files_are_read_and_only_up_to_the_limit(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "linked").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"123")
    for name in ("pipe", "device", "."):
        for read in (read_bytes, read_tensors):
            with pytest.raises(UnreadableError, match="not a regular file"):
                read(tmp_path / name)
    assert read_bytes(tmp_path / "linked", 3) == b"123"
    with pytest.raises(UnreadableError, match="has 3 bytes, expected at most 2"):
        read_bytes(tmp_path / "file", 2)


@pytest.fixture
def umask() -> None:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
def test_client_states_are_private_and_other_files_ordinary(umask: None, tmp_path: Path) -> None:
    store = OnDisk(tmp_path / "clients", "cpu")
    store.save(1, {3: {"head": torch.ones(2)}}, 0)
    folder = tmp_path / "clients" / "000003"
    assert [mode(path) for path in (folder.parent, folder, *folder.iterdir())] == [0o700, 0o700, 0o600]
    write_atomic(tmp_path / "page", b"x")
    assert mode(tmp_path / "page") == 0o644
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "exported")
    share_like(tmp_path, tmp_path / "page")
    assert mode(tmp_path / "exported") == 0o644


@POSIX
def test_a_folder_of_an_earlier_version_becomes_private(umask: None, tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    private_folder(tmp_path / "clients")
    assert mode(tmp_path / "clients") == 0o700


def test_no_temporary_file_is_left_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_atomic(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    for private in (False, True):
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "f", b"new", private=private)
    assert [path.name for path in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"


def test_values_in_messages_are_cut_and_escaped() -> None:
    assert quoted("x" * 10_000) == "'" + "x" * 78 + "…"
    assert quoted("\x1b[2J\u202e\n") == r"'\x1b[2J\u202e\n'"
    assert quoted(10**10_000) == "<int>"
    assert len(quoted(list(range(10**5)))) == 80
    assert names(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    error = str(FedloruError(f"the column {'y' * 5000!r} is\x07 not there\n  - see {'z' * 5000}"))
    assert len(error) < 3300 and "\x07" not in error and r"is\x07 not there" in error and error.count("\n") == 1
    assert printable("the method's value isn't 'a'") == "the method's value isn't 'a'"


def test_a_checkpoint_whose_numbers_were_replaced_is_refused(tmp_path: Path) -> None:
    from fedloru.errors import RunFolderError
    from fedloru.run import checkpoint

    source = Path(__file__).parent / "legacy" / "run-9a41fbb" / "checkpoint"
    last = checkpoint.rounds(source)[-1]
    name = f"round-{last:06d}"
    data = (source / f"{name}.safetensors").read_bytes()
    (tmp_path / f"{name}.safetensors").write_bytes(data)
    good = json.loads((source / f"{name}.json").read_bytes())
    good.pop("hash")
    changes = [{"round": last + 1}, {"round": "x"}, {"version": None}, {"ledger": {}}, {"traffic": []}, {"notes": [1]}]
    for change in changes:
        table = good | change
        table["hash"] = checkpoint._hash(data, table)
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
        with pytest.raises(RunFolderError, match="cannot be used: it"):
            checkpoint.load(tmp_path, last, "cpu")


def test_toml_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfrounds = 3\r\n")
    assert read_toml(tmp_path / "a.toml") == {"rounds": 3}


def test_toml_in_another_encoding_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes("name = 'ü'".encode("latin-1"))
    with pytest.raises(UnreadableError, match=r"not UTF-8 text \(byte 0xfc\): save it as UTF-8"):
        read_toml(tmp_path / "a.toml")
