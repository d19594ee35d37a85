"""The cases in which a model does worst are found in its card and drawn."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from CycleINRLib.cli.main import build_parser


@pytest.fixture(scope="module")
def worst_cases(benchmark_module) -> ModuleType:
    return benchmark_module("worst_cases")


def a_case(scan: str, z_scale: float, profile: str, gain: float, gap: float | None) -> dict:
    results = {"cubic + projection": {"psnr_generated": 30.0, "generated_gap": 9.0}}
    results["tiny"] = {"psnr_generated": 30.0 + gain, "generated_gap": gap}
    facts = {"scan": scan, "z_scale": z_scale, "profile": profile, "ratio": 0.0 if profile == "skip" else 1.3}
    return {**facts, "phase": 0.5, "results": results}


FIGURES = {
    "setting": {"block": 96},
    "cases": [
        a_case("a", 2.0, "skip", 0.4, 0.1),
        a_case("a", 3.0, "box", -0.1, None),
        a_case("b", 2.5, "gaussian", 0.2, 0.3),
        a_case("b", 4.0, "skip", 0.9, -0.6),
    ],
}


def test_the_worst_gains_and_the_largest_gap_of_either_sign_are_found(worst_cases: ModuleType):
    first, second, third, fourth = FIGURES["cases"]
    expected = {"least gain": second, "least gain on another scan": third, "largest gap": fourth}
    assert worst_cases.worst(FIGURES, "tiny") == expected
    with pytest.raises(SystemExit, match="no figures of base"):
        worst_cases.worst(FIGURES, "base")


def test_a_case_is_computed_again_as_the_card_had_it(worst_cases: ModuleType, tmp_path: Path):
    (tmp_path / "b.nrrd").touch()
    model = tmp_path / "tiny.safetensors"
    asked = worst_cases.request(FIGURES["cases"][2], FIGURES, model, tmp_path, tmp_path / "out")
    options = build_parser("evaluate").parse_args(asked)
    assert (options.z_scales, options.profiles, options.ratios, options.phases) == ([2.5], ["gaussian"], [1.3], [0.5])
    assert options.block == 96 and options.methods == ["cubic+projection", str(model)]
    skipped = build_parser("evaluate").parse_args(
        worst_cases.request(FIGURES["cases"][3], FIGURES, model, tmp_path, tmp_path / "out")
    )
    assert (skipped.profiles, skipped.ratios) == (["skip"], [1.0])
    with pytest.raises(SystemExit, match="no scan a"):
        worst_cases.request(FIGURES["cases"][0], FIGURES, model, tmp_path, tmp_path / "out")


def test_a_picture_with_a_palette_shows_the_same_in_fewer_bytes(worst_cases: ModuleType, tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    gray = np.random.default_rng(0).integers(0, 100, (80, 60, 1)).repeat(3, 2).astype(np.uint8)
    image.fromarray(gray).save(tmp_path / "full.png")
    worst_cases.shrink(tmp_path / "full.png", tmp_path / "few.png")
    assert (tmp_path / "few.png").stat().st_size < 0.7 * (tmp_path / "full.png").stat().st_size
    with image.open(tmp_path / "few.png") as few:
        assert np.abs(np.asarray(few.convert("RGB")).astype(int) - gray).max() <= 4
