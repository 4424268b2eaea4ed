import io

import pytest
from rich.console import Console

from fedloru.report import Live, summary_table
from fedloru.report.live import sparkline

from .made_up import attendance, rows, summary

ROWS = [row | {"seconds": 0.5} for row in rows(20, 10, 10)]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=40)
    with Live("demo", 20, facts=[("engine", "fused")], console=console) as live:
        for row in ROWS[:10]:
            live.update(row)
    lines = printed(console).splitlines()
    assert lines[0] == "demo  engine fused"
    assert lines[3] == f"round  3/20  loss {ROWS[2]['train_loss']:.3f}  up 0.895 MB  down 7.30 MB  0.50 s  ETA 8.50 s"
    assert lines[10].endswith("merged v1  0.50 s  ETA 5.00 s")
    assert f"acc {ROWS[9]['test_accuracy']:.3f}" in lines[10]
    assert len(lines) == 11


def test_the_perplexity_of_a_language_model_is_shown() -> None:
    console = Console(file=io.StringIO(), width=80)
    with Live("demo", 20, console=console) as live:
        live.update(ROWS[9] | {"test_perplexity": 7.5})
    shared = ROWS[9]["personal"]["shared"] | {"perplexity": 9.125}
    console.print(summary_table(summary(ROWS, 20, 10) | {"final_perplexity": 12.25, "personal": {"shared": shared}}))
    text = printed(console)
    assert "  ppl 7.500  up" in text and "Perplexity" in text and "12.250" in text
    assert "Shared model, perplexity" in text and "9.125" in text


def test_plain_lines_for_every_nth_round_include_the_last() -> None:
    console = Console(file=io.StringIO())
    with Live("demo", 20, console=console, every=8) as live:
        for row in ROWS:
            live.update(row)
    assert [line.split()[1] for line in printed(console).splitlines()[1:]] == ["8/20", "16/20", "20/20"]


def test_the_panel_shows_the_latest_round() -> None:
    console = terminal()
    with Live("demo", 20, facts=[("engine", "fused")], console=console) as live:
        for row in ROWS[:11]:
            live.update(row)
        console.print(live._panel())
    text = printed(console)
    for expected in ("demo", "engine fused", "11/20", f"{100 * ROWS[9]['test_accuracy']:.1f} %", "3.28 MB", "4.50 s"):
        assert expected in text
    assert text.rstrip().endswith("\x1b[?25h")


def test_a_resumed_run_starts_at_its_completed_rounds() -> None:
    console = terminal()
    with Live("demo", 20, done=12, console=console):
        pass
    assert "12/20" in printed(console)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_terminal_is_restored_after_an_error(error: type[BaseException]) -> None:
    console = terminal()
    with pytest.raises(error), Live("demo", 20, console=console) as live:
        live.update(ROWS[0])
        raise error
    text = printed(console)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_sparkline_follows_its_values() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([]) == ""


def test_the_summary_table() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_table(summary(ROWS, 20, 10)))
    text = printed(console)
    assert "Final accuracy" in text and "612 MB" in text and "by formula" in text


def test_a_summary_without_evaluations_has_dashes() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_table(summary(ROWS, 20, 10) | {"final_accuracy": None, "peak_rss_bytes": None}))
    assert "–" in printed(console)


def test_a_federation_shows_how_many_replied_and_what_it_waits_for() -> None:
    row = ROWS[0] | {"federation": attendance(1, ["berlin", "paris", "rome"])}
    plain = Console(file=io.StringIO(), width=80)
    with Live("demo", 20, console=plain, status=lambda: "waiting") as live:
        live.update(row)
    assert "  1 of 3 replied  " in printed(plain) and "waiting" not in printed(plain)
    console = terminal()
    with Live("demo", 20, console=console, status=lambda: "round 2: 1 of 3 replies") as live:
        live.update(row)
    assert "1 of 3" in printed(console) and "round 2: 1 of 3 replies" in printed(console)
