"""The model card of an export, README.md, and its machine-readable summary, fedloru.json."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fedloru.data import inputs
from fedloru.errors import listed, plain
from fedloru.exports.checks import Check
from fedloru.exports.formats import TRAINED, Written
from fedloru.exports.trained import TrainedRun
from fedloru.run.folder import CONFIG
from fedloru.run.sampling import test_sizes
from fedloru.schema import FEDERATION, metric_names
from fedloru.settings import short

SCORES = ("test_loss", "test_perplexity", "test_accuracy", "test_f1", "exact_match")


def facts(trained: TrainedRun, format: str, written: Written, check: Check) -> dict[str, Any]:
    """Return the contents of fedloru.json; sizes are in bytes, losses in nats."""
    plan, last = trained.plan, trained.rows[-1] if trained.rows else {}
    return {
        "format": format,
        "made_by": {"fedloru": version("fedloru")},
        "model": type(plan.net.model).__name__,
        "classes": list(plan.dataset.classes),
        "inputs": inputs.described(plan.dataset),
        "data": plan.dataset.name,
        "scheme": plan.partition.scheme,
        "method": {"name": plan.method.name, **plan.method.config},
        "round": trained.state.round,
        "merges": trained.state.version,
        "clients": plan.clients,
        "cohort": plan.cohort,
        "client_names": list(plan.partition.names or ()),
        "up_bytes": last.get("up_bytes_total", 0),
        "down_bytes": last.get("down_bytes_total", 0),
        "scores": _scores(trained.rows),
        "test_examples": dict(zip(("used", "all"), test_sizes(plan), strict=True)),
        **written.notes,
        "check": check._asdict() | {"tolerance": check.tolerance},
    }


def card(summary: dict[str, Any], trained: TrainedRun) -> str:
    """Return the text of README.md, with the metadata header of the Hugging Face hub; the user adds the license."""
    parts = [_header(summary), _description(summary), _usage(summary), _training(summary), _check(summary)]
    if trained.folder is not None:
        config = (trained.folder / CONFIG).read_text(encoding="utf-8").strip()
        parts.append(f"## Configuration\n\n```toml\n{config}\n```\n")
    else:
        settings = {key: value for key, value in summary["method"].items() if value is not None}
        parts.append(f"## Configuration\n\n```toml\n{tomli_w.dumps({'method': settings}).strip()}\n```\n")
    return "\n".join(parts)


def _scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of the last evaluation, and its round."""
    tested = [row for row in rows if row.get("test_loss") is not None]
    if not tested:
        return {}
    last = tested[-1]
    fields = [*SCORES, *(f"test_{name}" for name in metric_names([last]))]
    return {"round": last["round"]} | {key: last[key] for key in fields if last.get(key) is not None}


def _header(summary: dict[str, Any]) -> str:
    base, adapter = summary.get("base") or {}, summary["format"] == "peft"
    name = base.get("name", "")
    lines = ["# license: add the license of this model, such as apache-2.0"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        lines.append(f"base_model: {name}")
    if base:
        lines += [f"library_name: {'peft' if adapter else 'transformers'}", f"pipeline_tag: {_task(summary)}"]
    else:
        lines.append("library_name: pytorch")
    tags = ["federated-learning", "fedloru", *(["lora"] if adapter else [])]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _task(summary: dict[str, Any]) -> str:
    return "text-classification" if summary["classes"] else "text-generation"


def _description(summary: dict[str, Any]) -> str:
    base = summary.get("base") or {}
    of = f" of `{base['name']}`" if base.get("name") else ""
    at = f" at revision `{base['revision']}`" if base.get("revision") else ""
    if summary["format"] == "peft":
        ranks = sorted(set(summary["ranks"].values()))
        span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        what = f"A LoRA adapter of {span} for {len(summary['ranks'])} layers{of}{at}, in PEFT's format"
    else:
        what = f"A {summary['model']}, fine-tuned from{of.removeprefix(' of')}{at}" if of else f"A {summary['model']}"
    return (
        f"# {summary['model']} by {short(summary['method']['name'])}\n\n"
        f"{what}, trained by federated learning on clients that kept their data.\n"
    )


def _usage(summary: dict[str, Any]) -> str:
    base = summary.get("base") or {}
    classes = f"\nClasses, in order: {', '.join(summary['classes'])}.\n" if summary["classes"] else ""
    if not base:
        return _usage_of_module(summary["inputs"]) + classes
    auto = "AutoModelForSequenceClassification" if summary["classes"] else "AutoModelForCausalLM"
    if summary["format"] == "merged":
        lines = [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("THIS FOLDER")']
    else:
        labels = f", num_labels={len(summary['classes'])}" if summary["classes"] else ""
        revision = f", revision={base['revision']!r}" if base["revision"] else ""
        lines = [
            "from peft import PeftModel",
            f"from transformers import {auto}",
            "",
            f"base = {auto}.from_pretrained({base['name']!r}{revision}{labels})",
            *([f"base.config.pad_token_id = {base['pad']}"] if base["pad"] is not None else []),
            'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        ]
    return "## Use\n\n```python\n" + "\n".join(lines) + f"\n```\n{classes}"


def _usage_of_module(inputs: dict[str, Any]) -> str:
    load = [
        'model.load_state_dict(safetensors.torch.load_file("THIS FOLDER/model.safetensors"))',
        "model.eval()",
    ]
    imports, about = ["import safetensors.torch"], ""
    if inputs.get("columns"):
        imports.insert(0, "import fedloru as fl")
        load += ['x = fl.data.encode("new.csv", "THIS FOLDER")  # a file, or a DataFrame', "outputs = model(x)"]
        about = f"\nColumns: {', '.join(map(plain, inputs['columns']))}. How they become features is in fedloru.json.\n"
    elif inputs.get("mean"):
        about = "\nInputs are standardized: subtract `mean` and divide by `std`, which are in fedloru.json.\n"
    code = "\n".join([*imports, "", *load])
    return f"## Use\n\n```python\n{code}\n```\n{about}"


def _training(summary: dict[str, Any]) -> str:
    scores = {
        key.removeprefix("test_").replace("_", " "): value for key, value in summary["scores"].items() if key != "round"
    }
    tested = summary["test_examples"]
    rows = {
        "method": summary["method"]["name"],
        "data": _data(summary),
        "clients": _clients(summary),
        "rounds": f"{summary['round']:,}, with {summary['merges']:,} merges",
        "sent by clients": f"{summary['up_bytes'] / 1e6:,.3f} MB",
        "sent to clients": f"{summary['down_bytes'] / 1e6:,.3f} MB",
        **({"test examples": f"{tested['used']:,} of {tested['all']:,}"} if tested["all"] else {}),
        **{f"test {name}, round {summary['scores']['round']}": f"{value:.4f}" for name, value in scores.items()},
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _clients(summary: dict[str, Any]) -> str:
    known = [plain(name).replace("|", "\\|") for name in summary["client_names"]]
    names = f" ({listed(known)})" if known else ""
    return f"{summary['clients']:,}{names}, {summary['cohort']:,} per round"


def _data(summary: dict[str, Any]) -> str:
    known = summary["data"] or "not available at the time of the export"
    return f"that of the clients; tested on {known}" if summary["scheme"] == FEDERATION else known


def _check(summary: dict[str, Any]) -> str:
    check = summary["check"]
    examples = "texts of random tokens" if check["drawn"] else "examples"
    lines = [
        f"The exported model was loaded again and compared with {check['against']} on {check['examples']} {examples}: "
        f"the scores, of at most {check['largest']:.4g}, differ by at most {check['difference']:.2g}."
    ]
    if check["against"] != TRAINED:
        lines.append(f"They differ from the scores of {TRAINED} by at most {check['training']:.2g}.")
    if errors := summary.get("errors"):
        worst = max(errors, key=lambda key: errors[key])
        lines.append(
            f"The adapter was truncated to a lower rank. The relative error ‖BA − B'A'‖ / ‖BA‖ is at most "
            f"{errors[worst]:.4f}, in {worst}; fedloru.json lists the error of every layer."
        )
    return "## Check\n\n" + " ".join(lines) + "\n"
