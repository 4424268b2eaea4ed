"""The model card of an export, README.md, and its facts for programs, fedloru.json."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fedloru.exports.checks import Check
from fedloru.exports.formats import Written
from fedloru.exports.trained import Learnt
from fedloru.run.folder import CONFIG

SCORES = ("test_loss", "test_perplexity", "test_accuracy", "test_f1")


def facts(learnt: Learnt, format: str, written: Written, check: Check) -> dict[str, Any]:
    """Return all that is known of an export; bytes, nats."""
    plan, last = learnt.plan, learnt.rows[-1] if learnt.rows else {}
    return {
        "format": format,
        "made_by": {"fedloru": version("fedloru")},
        "model": type(plan.net.model).__name__,
        "classes": list(plan.data.classes),
        "data": plan.data.name,
        "method": {"name": plan.method.name, **plan.method.config},
        "round": learnt.state.round,
        "merges": learnt.state.version,
        "clients": plan.clients,
        "cohort": plan.cohort,
        "up_bytes": last.get("up_bytes_total", 0),
        "down_bytes": last.get("down_bytes_total", 0),
        "scores": _scores(learnt.rows),
        **written.notes,
        "check": check._asdict() | {"tolerance": check.tolerance},
    }


def card(told: dict[str, Any], learnt: Learnt) -> str:
    """Return the text of README.md, with a header that the hub reads; the licence is left to the user."""
    parts = [_header(told), _what(told), _use(told), _training(told), _checked(told)]
    if learnt.folder is not None:
        config = (learnt.folder / CONFIG).read_text(encoding="utf-8").strip()
        parts.append(f"## Configuration\n\n```toml\n{config}\n```\n")
    else:
        settings = {key: value for key, value in told["method"].items() if value is not None}
        parts.append(f"## Configuration\n\n```toml\n{tomli_w.dumps({'method': settings}).strip()}\n```\n")
    return "\n".join(parts)


def _scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of the last evaluation, and its round."""
    tested = [row for row in rows if row.get("test_loss") is not None]
    if not tested:
        return {}
    return {"round": tested[-1]["round"]} | {key: tested[-1][key] for key in SCORES if tested[-1].get(key) is not None}


def _header(told: dict[str, Any]) -> str:
    base, adapter = told.get("base") or {}, told["format"] == "peft"
    name = base.get("name", "")
    lines = ["# license: say here under which licence this may be used, such as apache-2.0"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        lines.append(f"base_model: {name}")
    if base:
        lines += [f"library_name: {'peft' if adapter else 'transformers'}", f"pipeline_tag: {_task(told)}"]
    else:
        lines.append("library_name: pytorch")
    tags = ["federated-learning", "fedloru", *(["lora"] if adapter else [])]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _task(told: dict[str, Any]) -> str:
    return "text-classification" if told["classes"] else "text-generation"


def _what(told: dict[str, Any]) -> str:
    base = told.get("base") or {}
    of = f" of `{base['name']}`" if base.get("name") else ""
    at = f" at revision `{base['revision']}`" if base.get("revision") else ""
    if told["format"] == "peft":
        ranks = sorted(set(told["ranks"].values()))
        span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        what = f"A LoRA adapter of {span} in {len(told['ranks'])} layers{of}{at}, in the format of PEFT"
    else:
        what = f"A {told['model']}, fine-tuned from{of.removeprefix(' of')}{at}" if of else f"A {told['model']}"
    return f"# {told['model']} by {told['method']['name']}\n\n{what}, trained over clients that kept their data.\n"


def _use(told: dict[str, Any]) -> str:
    base = told.get("base") or {}
    if not base:
        code = 'model.load_state_dict(safetensors.torch.load_file("model.safetensors"))'
        return f"## Use\n\n```python\nimport safetensors.torch\n\n{code}\n```\n"
    kind = "AutoModelForSequenceClassification" if told["classes"] else "AutoModelForCausalLM"
    if told["format"] == "merged":
        lines = [f"from transformers import {kind}", "", f'model = {kind}.from_pretrained("THIS FOLDER")']
    else:
        labels = f", num_labels={len(told['classes'])}" if told["classes"] else ""
        revision = f", revision={base['revision']!r}" if base["revision"] else ""
        lines = [
            "from peft import PeftModel",
            f"from transformers import {kind}",
            "",
            f"base = {kind}.from_pretrained({base['name']!r}{revision}{labels})",
            *([f"base.config.pad_token_id = {base['pad']}"] if base["pad"] is not None else []),
            'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        ]
    listed = f"\nClasses, in order: {', '.join(told['classes'])}.\n" if told["classes"] else ""
    return "## Use\n\n```python\n" + "\n".join(lines) + f"\n```\n{listed}"


def _training(told: dict[str, Any]) -> str:
    scores = {key.removeprefix("test_"): value for key, value in told["scores"].items() if key != "round"}
    rows = {
        "method": told["method"]["name"],
        "data": told["data"] or "not there when this was exported",
        "clients": f"{told['clients']:,}, {told['cohort']:,} a round",
        "rounds": f"{told['round']:,}, with {told['merges']:,} merges",
        "sent by clients": f"{told['up_bytes'] / 1e6:,.3f} MB",
        "sent to clients": f"{told['down_bytes'] / 1e6:,.3f} MB",
        **{f"test {name}, round {told['scores']['round']}": f"{value:.4f}" for name, value in scores.items()},
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _checked(told: dict[str, Any]) -> str:
    check = told["check"]
    examples = "texts of random tokens" if check["drawn"] else "examples"
    lines = [
        f"Loaded again from this folder, the model scores {check['examples']} {examples} as {check['against']} does: "
        f"scores of up to {check['largest']:.4g} differ by {check['difference']:.2g} at most."
    ]
    if check["against"] != "the training model":
        lines.append(f"From the training model, they differ by {check['training']:.2g}.")
    if errors := told.get("errors"):
        worst = max(errors, key=lambda key: errors[key])
        lines.append(
            f"The adapter was cut to a lower rank: the relative error ‖BA − B'A'‖ / ‖BA‖ is {errors[worst]:.4f} at "
            f"most, in {worst}; fedloru.json has that of every layer."
        )
    return "## Check\n\n" + " ".join(lines) + "\n"
