"""The benchmark of training steps: a row for each model and precision, with its ratios to the first."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.io.files import write  # noqa: E402


def test_a_model_is_timed_in_training_and_in_use_and_scored(benchmark_module, mr_thin, tmp_path, capsys, monkeypatch):
    bench = benchmark_module("training_steps")
    monkeypatch.setattr(bench, "SCORED", 1)
    monkeypatch.setattr(bench, "CROP", 32)
    write(mr_thin, tmp_path / "thin.nrrd")
    asked = ["--steps", "1", "--models", "light", "--precisions", "float32", "--threads", "1"]
    bench.main([str(tmp_path), *asked, "--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["model"], row["precision"]) == ("light", "float32")
    assert min(row["step_s"], row["cycle_step_s"], row["upsample_s"]) > 0
    assert row["gain_db"] > 0.5
    assert capsys.readouterr().out.count("(1.00)") == 3
