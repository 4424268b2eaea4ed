"""Synthetic run folders, for tests and for previewing pages."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tomli_w

FACTORS, DENSE, ENVELOPE = 24_000, 5_200, 640


def config(rounds: int, clients: int, cohort: int, tau: int) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "seed": 7,
        "data": {"source": "mnist5k"},
        "partition": {"scheme": "dirichlet", "clients": clients, "alpha": 0.3},
        "model": {"name": "cnn"},
        "lowrank": {"rank": 8, "alpha": 16.0, "targets": ["*"]},
        "method": {"name": "fedloru", "tau": tau, "reset": "fresh"},
        "cohort": {"size": cohort},
        "eval": {"every": 2},
    }


def rows(rounds: int, cohort: int, tau: int, every: int = 2) -> list[dict[str, Any]]:
    round_rows: list[dict[str, Any]] = []
    up_total = down_total = 0
    rng = random.Random(1)
    for t in range(1, rounds + 1):
        merged, tested = t % tau == 0, t % every == 0 or t in (1, rounds)
        up = {"factors": cohort * FACTORS, "dense": cohort * DENSE, "envelope": cohort * ENVELOPE}
        down = {**up, "increments": cohort * FACTORS if (t - 1) % tau == 0 and t > 1 else 0}
        down["first_download"] = cohort * 600_000 if t == 1 else cohort * 20_000 if t < 8 else 0
        up_total, down_total = up_total + sum(up.values()), down_total + sum(down.values())
        accuracy = 0.96 - 0.8 * 0.93**t + rng.gauss(0, 0.006)
        round_rows.append(
            {
                "round": t,
                "version": t // tau,
                "merged": merged,
                "train_loss": 2.2 * 0.93**t + 0.08 + rng.random() * 0.03,
                "test_loss": 2.1 * 0.935**t + 0.14 + rng.random() * 0.02 if tested else None,
                "test_accuracy": round(accuracy, 4) if tested else None,
                "lr": 0.1,
                "cohort": sorted(rng.sample(range(cohort * 2), cohort)),
                "up_bytes": sum(up.values()),
                "down_bytes": sum(down.values()),
                "up_bytes_total": up_total,
                "down_bytes_total": down_total,
                "bytes": {"down": down, "up": up},
                "diagnostics": {"aggregation_gap": 0.02 + 0.3 * rng.random() / t, "update_norm": 1.5 * 0.97**t},
                "sites": sites(t, merged or t == rounds),
                "personal": personal(accuracy) if tested else None,
                "seconds": 0.4 + 0.05 * rng.random(),
            }
        )
    return round_rows


def sites(t: int, ranked: bool) -> dict[str, dict[str, float]]:
    """Return the measurements of two sites; fc2 has the larger ranks."""
    ranks = {"effective_rank_increment": 3.0, "stable_rank_increment": 2.0, "effective_rank_total": t / 5}
    values = {"aggregation_gap": 0.1 / t, **(ranks | {"stable_rank_total": t / 9} if ranked else {})}
    return {"fc1.weight": values, "fc2.weight": {name: 2 * value for name, value in values.items()}}


def personal(accuracy: float) -> dict[str, dict[str, float]]:
    """Return the scores of 20 clients; the error of the personal models is half that of the shared model."""
    means = {"shared": accuracy, "personal": (1 + accuracy) / 2}
    return {
        model: {"mean": mean, "std": 0.05, "bottom_decile": mean - 0.1, "clients": 20} for model, mean in means.items()
    }


def summary(round_rows: list[dict[str, Any]], clients: int, cohort: int) -> dict[str, Any]:
    accuracies = [row["test_accuracy"] for row in round_rows if row["test_accuracy"] is not None]
    by_kind = {
        way: {kind: sum(row["bytes"][way].get(kind, 0) for row in round_rows) for kind in round_rows[0]["bytes"][way]}
        for way in ("down", "up")
    }
    return {
        "method": "fedloru",
        "rounds": len(round_rows),
        "final_accuracy": accuracies[-1],
        "last5_accuracy": sum(accuracies[-5:]) / len(accuracies[-5:]),
        "final_loss": round_rows[-1]["test_loss"],
        "up_bytes_total": round_rows[-1]["up_bytes_total"],
        "down_bytes_total": round_rows[-1]["down_bytes_total"],
        "bytes": by_kind,
        "bytes_measured": True,
        "fedavg_bytes_total": len(round_rows) * cohort * 2 * 600_000,
        "seconds": sum(row["seconds"] for row in round_rows),
        "peak_rss_bytes": 612_345_678,
        "seed": 7,
        "versions": {"fedloru": "0.1.0", "torch": "2.9.1", "python": "3.12.3"},
        "engine": "fused",
        "engine_reason": "all layers fold, and the cohort fits the memory budget in one chunk",
        "merges": sum(row["merged"] for row in round_rows),
        "parameters": 152_000,
        "trained_parameters": 7_300,
        "clients": clients,
        "cohort": cohort,
    }


def partition(clients: int, classes: int, alpha: float = 0.3) -> dict[str, Any]:
    rng = random.Random(2)
    counts = []
    for _ in range(clients):
        weights = [rng.gammavariate(alpha, 1.0) for _ in range(classes)]
        size = rng.randint(120, 320)
        counts.append([round(size * weight / sum(weights)) for weight in weights])
    sizes = sorted(map(sum, counts))
    return {
        "scheme": "dirichlet",
        "seed": 7,
        "settings": {"alpha": alpha, "min_examples": 10},
        "hash": "3f9a61c2b8d04e77",
        "classes": [str(index) for index in range(classes)],
        "counts": counts,
        "audit": {
            "clients": clients,
            "examples": sum(sizes),
            "unused": 0,
            "min": sizes[0],
            "median": sizes[clients // 2],
            "max": sizes[-1],
            "skew": 0.5731,
            "mean_classes": sum(sum(n > 0 for n in row) for row in counts) / clients,
        },
    }


def write_run(
    folder: Path,
    *,
    rounds: int = 50,
    clients: int = 20,
    cohort: int = 10,
    classes: int = 10,
    tau: int = 10,
    planned: int | None = None,
) -> Path:
    """Write a run folder and return it; the run is unfinished if ``planned`` exceeds ``rounds``."""
    folder.mkdir(parents=True)
    round_rows = rows(rounds, cohort, tau)
    (folder / "config.toml").write_text(tomli_w.dumps(config(planned or rounds, clients, cohort, tau)))
    (folder / "partition.json").write_text(json.dumps(partition(clients, classes)))
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in round_rows))
    if round_rows and planned in (None, rounds):
        (folder / "summary.json").write_text(json.dumps(summary(round_rows, clients, cohort)))
    return folder


def ranks(round: int) -> dict[str, Any]:
    """Return a study as ``fedloru rank`` writes it for a checkpoint."""
    subjects = (("server", 4000, 3.0), ("subset", 100, 6.0), ("client 3", 40, 9.0), ("client 7", 5, 1.0))
    records = [spectrum(*subject, curvature, layer) for curvature in ("hessian", "ggn") for subject in subjects
               for layer in (None, "fc1")]  # fmt: skip
    return {"of": {"round": round, "level": 0.99, "notes": ["The model has kinks."]}, "records": records}


def spectrum(subject: str, examples: int, rank: float, curvature: str, layer: str | None) -> dict[str, Any]:
    return {
        "subject": subject,
        "examples": examples,
        "few": examples < 10,
        "curvature": curvature,
        "layer": layer,
        "parameters": 10,
        "stable_rank": {"value": rank, "low": 0.9 * rank, "high": 1.2 * rank},
        "density": {"nodes": [-0.2, 0.1, 0.5, 3.0], "weights": [0.2, 0.5, 0.2, 0.1]},
    }


def alignment(round: int, weights: int = 2) -> dict[str, Any]:
    """Return a study as ``fedloru align`` writes it for a checkpoint."""
    rows = [{"rank": r, "cosine": 0.1 * (r or 9), "error": 0.02, "gain": 0.0, "gain_error": 0.01, "chance": 0.03}
            for r in (1, 4, None)]  # fmt: skip
    return {
        "of": {"round": round},
        "clients": [{"client": client, "examples": 40, "few": False} for client in (2, 5)],
        "agreement": dict.fromkeys(("all", *(f"fc{number}.weight" for number in range(1, weights + 1))), rows),
        "eigenspace": {"eigenvalues": [2.0, -1.0], "shares": [0.25, 0.75], "share_by_chance": 0.0002},
    }


def write_study(folder: Path, name: str, study: dict[str, Any]) -> Path:
    """Write a study to a run folder and return its path."""
    path = folder / "studies" / f"{name}-{study['of']['round']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(study))
    return path


def attendance(round: int, names: list[str]) -> dict[str, Any]:
    """Return what a federation records about a round: the first client is always refused, the second lost at times."""
    refused, away = names[:1], names[1:2] if round % 2 else []
    replied = [name for name in names if name not in refused + away]
    return {
        "asked": len(names),
        "clients": {
            name: {"examples": 100 + i, "loss": 1 / round, "seconds": 2.0, "up_bytes": 5_000, "down_bytes": 7_000}
            for i, name in enumerate(replied)
        },
        "refused": [{"client": name, "reason": "its update has the norm 9; expected at most 5"} for name in refused],
        "lost": away,
        "late": 0,
        "down_bytes": dict.fromkeys(refused + away, 7_000),
    }


def write_federation(folder: Path, names: list[str], *, rounds: int = 12) -> Path:
    """Write the folder of a run with real clients and return it; each client shares the accuracy 0.75."""
    write_run(folder, rounds=rounds, clients=len(names), cohort=len(names))
    score = {"accuracy": 0.75, "personal": None, "up_bytes": 0, "down_bytes": 1_000}
    round_rows = [
        row | {"federation": attendance(row["round"], names), "client_scores": dict.fromkeys(names[-1:], score)}
        for row in map(json.loads, (folder / "rounds.jsonl").read_text().splitlines())
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in round_rows))
    (folder / "clients.json").write_text(json.dumps(names))
    audit = {"clients": len(names), "test_examples": 359}
    table = {"scheme": "federation", "seed": 0, "settings": {}, "train": [[]] * len(names), "test": [], "audit": audit}
    (folder / "partition.json").write_text(json.dumps(table | {"hash": "00", "classes": ["0", "1"]}))
    return folder


EVIL = "</script><img src=x onerror='document.title=1'><a href='https://example.org'>x</a><b>bold</b>"


def hostile(run: Path) -> None:
    """Give the sites, diagnostics, classes, the loss and other things in a run folder names that are HTML."""
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        row["sites"] = {f"{EVIL}.{name}": values for name, values in row["sites"].items()}
        row["diagnostics"] |= {EVIL: row["round"] ** 2}
        row["bytes"]["up"][EVIL] = 1000
        row["test_" + EVIL] = 0.5
    (run / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((run / "summary.json").read_text())
    names = {"method": EVIL, "loss": EVIL, "engine_reason": EVIL, "versions": {EVIL: EVIL}, "notes": [EVIL]}
    (run / "summary.json").write_text(json.dumps(summary | names))
