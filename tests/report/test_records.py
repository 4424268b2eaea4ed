import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedloru.errors import RunFolderError
from fedloru.report import Records, read
from fedloru.report.records import evaluations, outcome


def edit_line(run: Path, number: int, text: str) -> None:
    path = run / "rounds.jsonl"
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


def test_reads_all_files_of_a_run(run: Path, records: Records) -> None:
    assert records.name == "demo"
    assert records.config["method"]["name"] == "fedloru"
    assert [row["round"] for row in records.rounds] == list(range(1, 51))
    assert records.summary == json.loads((run / "summary.json").read_text())
    assert len(records.partition["counts"]) == 20


def test_classes_are_counted_from_the_arrays_of_a_partition(run: Path) -> None:
    document = json.loads((run / "partition.json").read_text())
    table = torch.tensor(document.pop("counts"))
    (run / "partition.json").write_text(json.dumps(document))
    labels = torch.arange(10).repeat(20).repeat_interleave(table.flatten()).to(torch.int32)
    arrays = {"train": torch.arange(len(labels)), "train_sizes": table.sum(1), "labels": labels}
    path = run / "partition.safetensors"
    path.write_bytes(safetensors.torch.save(arrays))
    assert list(read(run).partition["counts"]) == table.tolist()
    for damage in (arrays | {"train_sizes": table.sum(1) + 1}, arrays | {"labels": labels + 1}, {"labels": labels}):
        path.write_bytes(safetensors.torch.save(damage))
        with pytest.raises(RunFolderError, match=r"partition.safetensors cannot be read: .*restore the file"):
            read(run)
    path.unlink()
    assert "counts" not in read(run).partition


def test_partition_and_summary_may_be_missing(run: Path) -> None:
    (run / "partition.json").unlink()
    (run / "summary.json").unlink()
    records = read(str(run))
    assert (records.partition, records.summary) == ({}, {})


def test_a_partial_last_line_is_ignored(run: Path) -> None:
    path = run / "rounds.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert len(read(run).rounds) == 49


def test_a_complete_last_line_needs_no_newline(run: Path) -> None:
    path = run / "rounds.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read(run).rounds) == 50


def test_a_summary_of_other_rounds_is_ignored(run: Path) -> None:
    path = run / "rounds.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:30]))
    assert read(run).summary == {}


def test_the_outcome_of_an_unfinished_run_is_computed_from_its_rounds(records: Records) -> None:
    result = outcome(records._replace(summary={}))
    assert not result["finished"]
    assert {key: result[key] for key in ("rounds", "merges", "final_accuracy", "up_bytes_total", "last5_accuracy")} == {
        key: records.summary[key] for key in ("rounds", "merges", "final_accuracy", "up_bytes_total", "last5_accuracy")
    }
    assert result["bytes"] == records.summary["bytes"]


def test_the_profiles_of_an_unfinished_run_are_summed_over_rounds(records: Records) -> None:
    line = {"clients": 2, "down": {"factors": 7}, "up": {"dense": 3}}
    by_round = [{"rank 2": line}, {"rank 2": line | {"clients": 1, "up": {"factors": 5}}, "usual": line}]
    rows = [row | {"profiles": profiles} for row, profiles in zip(records.rounds, by_round, strict=False)]
    assert outcome(records._replace(rounds=rows, summary={}))["profiles"] == {
        "rank 2": {"client_rounds": 3, "down": {"factors": 14}, "up": {"dense": 3, "factors": 5}},
        "usual": {"client_rounds": 2, "down": {"factors": 7}, "up": {"dense": 3}},
    }
    assert outcome(records)["profiles"] == {}


def test_evaluations_omit_rounds_without_one(records: Records) -> None:
    assert [row["round"] for row in evaluations(records)] == [1, *range(2, 51, 2)]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        read(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(run: Path) -> None:
    with pytest.raises(RunFolderError, match="is a file"):
        read(run / "config.toml")


@pytest.mark.parametrize("name", ["config.toml", "rounds.jsonl"])
def test_not_a_run_folder(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunFolderError, match=f"not a run folder: it has no {name}"):
        read(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"round": 3,', "line 3, cannot be read: it is not valid JSON"),
        ("[3]", "line 3, cannot be read: it holds list, expected dict"),
        ('{"round": 3}', "line 3, has no down_bytes"),
        ("[" * 100_000, "line 3, cannot be read: it is not valid JSON: it is nested too deeply"),
    ],
)
def test_an_error_names_the_malformed_line(run: Path, text: str, message: str) -> None:
    edit_line(run, 3, text)
    with pytest.raises(RunFolderError, match=message):
        read(run)


def test_malformed_toml(run: Path) -> None:
    (run / "config.toml").write_text("rounds = = 3")
    with pytest.raises(RunFolderError, match="not valid TOML"):
        read(run)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "it holds list, expected dict")])
def test_malformed_json(run: Path, text: str, message: str) -> None:
    (run / "summary.json").write_text(text)
    with pytest.raises(RunFolderError, match=message):
        read(run)
