"""The benchmark of adapted models on real scans: its table tells of both models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapting needs torch")

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))

import adapting  # noqa: E402


def test_withheld_slices_are_made_again_from_the_others_by_both_models(tmp_path, capsys):
    scan = REPOSITORY / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"
    adapting.main([str(scan), "--withhold", "--crop", "112", "--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["slices"] >= 10 and row["gained"] != 0 and row["gained"] == row["learned"] - row["before"]
    assert row["after"] == row["learned" if row["kept"] == "yes" else "before"] > 10
    assert "Made with the weights" in capsys.readouterr().out


def test_the_table_shows_the_model_before_and_after_and_keeps_what_was_adapted(tmp_path, capsys):
    scan = REPOSITORY / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"
    words = ["--steps", "1", "--crop", "48", "--models", tmp_path / "models", "--json", tmp_path / "rows.json"]
    adapting.main([str(scan), "--thickness", "MR_knee_4.3mm=3.3", *map(str, words)])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["held_start"] > row["held_cubic"] > 0 and row["check"] is not None
    assert row["groups"][0]["thickness_mm"] == 3.3
    assert (tmp_path / "models" / "MR_knee_4.3mm.safetensors").exists()
    assert "| MR_knee_4.3mm |" in capsys.readouterr().out
