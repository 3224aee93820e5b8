"""What a comparison shows, in a terminal and on its page."""

from __future__ import annotations

from pathlib import Path

from pix2score.compare.findings import ComparedRuns, Run, compared_runs
from pix2score.compare.measuring import Measured
from pix2score.compare.page import comparison_page
from pix2score.compare.table import table_text
from tests.compare.test_numbers import runs_of
from tests.support.torch_helpers import COUNT_HEAD

COST = {
    "parameters_m": 11.18,
    "gflops": 3.64,
    "train_images_per_s": 1234.0,
    "train_seconds": 4000.0,
    "peak_memory_mib": 9000.0,
    "epochs": 4,
}


def findings(place: Path) -> ComparedRuns:
    """A weak run, a strong one without its second seed, and one without any model."""
    models = runs_of(place, weak=0.6, strong=1.6)
    (place / "weak-0" / "history.jsonl").write_text(
        f'{{"epoch": 1, "val_loss": 0.9, "val": {{"{COUNT_HEAD.name}": {{"spearman": 0.4}}}}}}\n'
    )

    def run(name: str, kept: list[Measured], failures: dict[int, str]) -> Run:
        found = {
            seed: Measured(m.place, m.heads, m.calibrations, {"cost": COST}) for seed, m in enumerate(kept)
        }
        places = {seed: m.place.uri for seed, m in found.items()}
        return Run(name=name, backbone="resnet18", models=found, places=places, failures=failures)

    runs = [
        run("weak", models["weak"], {}),
        run("strong", models["strong"][:1], {1: "RuntimeError: CUDA <out> of memory"}),
        run("none", [], {0: "no weights", 1: "no weights"}),
    ]
    return compared_runs(runs, [COUNT_HEAD.name])


def test_the_table_has_a_row_for_each_run_and_reference_and_says_what_failed(tmp_path: Path) -> None:
    found = findings(tmp_path)
    text = table_text(found)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    of_strong = found.heads[COUNT_HEAD.name]["strong"]
    assert of_strong.difference is not None
    assert f"{of_strong.mean:.3f}" in lines["strong (1 of 2 seeds)"]
    assert f"{of_strong.difference.value:+.3f}" in lines["strong (1 of 2 seeds)"]
    assert "better" in lines["strong (1 of 2 seeds)"]
    assert "better" not in lines["weak"]
    assert lines["none (0 of 2 seeds)"].split() == ["none", "(0", "of", "2", "seeds)", "failed"]
    assert lines["constant"].endswith("1.000")
    costs = text[text.index("what they cost") :].splitlines()
    assert costs[2].split() == ["weak", "resnet18", "11.18", "3.64", "1234", "67", "min", "4", "9000"]
    assert "strong seed 1 failed: RuntimeError: CUDA <out> of memory" in text


def test_the_page_holds_verdicts_tables_and_charts_and_escapes_errors(tmp_path: Path) -> None:
    page = comparison_page(findings(tmp_path), split="test", dataset_id="0123456789ab").decode()
    assert f"{COUNT_HEAD.name}: strong against weak: better (+" in page
    assert "CUDA &lt;out&gt; of memory" in page
    assert page.count("<svg") == 3  # losses, numbers with intervals, the head's curve
    assert "0123456789ab" in page
