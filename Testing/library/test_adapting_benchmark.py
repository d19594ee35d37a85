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


def test_the_table_shows_the_model_before_and_after_and_keeps_what_was_adapted(tmp_path, capsys):
    scan = REPOSITORY / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"
    words = ["--steps", "1", "--crop", "48", "--models", tmp_path / "models", "--json", tmp_path / "rows.json"]
    adapting.main([str(scan), "--thickness", "MR_knee_4.3mm=3.3", *map(str, words)])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["held_start"] > row["held_cubic"] > 0 and row["check"] is not None
    assert row["groups"][0]["thickness_mm"] == 3.3
    assert (tmp_path / "models" / "MR_knee_4.3mm.safetensors").exists()
    assert "| MR_knee_4.3mm |" in capsys.readouterr().out
