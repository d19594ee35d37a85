"""`cycleinr evaluate` from end to end: table, files, resume, results of other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from CycleINRLib.cli.main import main
from CycleINRLib.evaluation import runner as evaluation_cases
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.evaluation.pictures import chosen
from CycleINRLib.evaluation.tables import behind, case_table, lead, markdown
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import read, write

FAST = ("--profiles", "box", "--methods", "linear", "cubic", "cubic+projection")


@pytest.fixture
def scans(tmp_path: Path, mr_thin: Volume, ct_thin: Volume) -> Path:
    """A folder of two small thin scans whose names tell their modality."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, volume in (("mr_head", mr_thin), ("ct_head", ct_thin)):
        write(central_block(volume, 40), folder / f"{name}.nrrd")
    return folder


@pytest.fixture
def run(capsys):
    """main(argv) to (status, stdout, stderr)."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["evaluate", *map(str, argv)])
        return status, *capsys.readouterr()

    return call


def record_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text("utf-8"))


def test_two_z_scales_of_two_scans_give_a_table_files_and_pictures(scans: Path, run, tmp_path: Path):
    pytest.importorskip("matplotlib")
    status, out, err = run(scans, "--z-scales", 2, 3.5, *FAST, "--output", tmp_path / "out", "--jobs", 2)
    assert status == 0, err
    record = record_of(tmp_path / "out")
    assert [case["case"] for case in record["cases"]] == [
        "ct_head_x2_box", "ct_head_x3.5_box", "mr_head_x2_box", "mr_head_x3.5_box",
    ]  # fmt: skip
    assert [case["modality"] for case in record["cases"]] == ["CT", "CT", "MR", "MR"]
    for case in record["cases"]:
        assert list(case["results"]) == ["linear", "cubic", "cubic + projection"]
        for result in case["results"].values():
            assert 15 < result["psnr_generated"] < 50 and 0 < result["ssim"] < 1 and result["gradient_error"] > 0
            assert set(result["ssim_planes"]) == {"ji", "ki", "kj"} and result["noise_ratio"] > 0
    text = (tmp_path / "out" / "evaluation.md").read_text("utf-8")
    assert "| ct_head | 3.5 | box |" in text and "CT above -900 HU" in text
    assert "**MR box**, 2 cases" in out and "| ct_head | 3.5 |" not in out  # every case is in the file
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["ct_head_x3.5_box.png", "mr_head_x3.5_box.png"]
    assert "4/4" in err and "left" in err
    assert not list((tmp_path / "out").rglob(".*"))


def test_json_prints_the_record_alone_and_writes_nothing(scans: Path, run, tmp_path: Path):
    status, out, _ = run(scans / "mr_head.nrrd", "--z-scales", 4, *FAST, "--json")
    assert status == 0
    record = json.loads(out)
    assert record["methods"]["cubic"]["kind"] == "interpolator" and record["setting"]["axis"] == "k"
    assert list(tmp_path.iterdir()) == [scans]


def test_a_stopped_run_goes_on_where_it_was(scans: Path, run, tmp_path: Path, monkeypatch):
    asked = (scans, "--z-scales", 2, 4, *FAST, "--output", tmp_path / "out")
    done, whole = [], evaluation_cases.do_case

    def stops_at_the_third(work):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(work)
        return whole(work)

    monkeypatch.setattr(evaluation_cases, "do_case", stops_at_the_third)
    assert run(*asked)[0] == 130
    assert not (tmp_path / "out" / "evaluation.json").exists()
    status, _, err = run(*asked)
    assert status == 2 and "--resume" in err
    more = []
    monkeypatch.setattr(evaluation_cases, "do_case", lambda work: more.append(work) or whole(work))
    assert run(*asked, "--resume")[0] == 0
    assert len(more) == 2 and len(record_of(tmp_path / "out")["cases"]) == 4
    assert run(*asked, "--resume")[0] == 0
    assert len(more) == 2


def test_resume_computes_a_new_method_alone_and_a_changed_scan_again(scans: Path, run, tmp_path: Path, monkeypatch):
    asked = (scans / "mr_head.nrrd", "--z-scales", 4, "--profiles", "box", "--output", tmp_path / "out")
    assert run(*asked, "--methods", "cubic")[0] == 0
    before = record_of(tmp_path / "out")["cases"][0]["results"]["cubic"]
    works, whole = [], evaluation_cases.do_case
    monkeypatch.setattr(evaluation_cases, "do_case", lambda work: works.append(work) or whole(work))
    assert run(*asked, "--resume", "--methods", "linear", "cubic")[0] == 0
    assert [one.name for one in works[0].methods] == ["linear"]
    results = record_of(tmp_path / "out")["cases"][0]["results"]
    assert list(results) == ["linear", "cubic"] and results["cubic"] == before
    scan = read(scans / "mr_head.nrrd")
    write(scan.with_values(scan.values[:, ::-1]), scans / "mr_head.nrrd", overwrite=True)
    assert run(*asked, "--resume", "--methods", "cubic")[0] == 0
    assert [one.name for one in works[1].methods] == ["cubic"]


def test_sources_are_written_in_their_place_and_added_results_are_scored(scans: Path, run, tmp_path: Path):
    sources, answers = tmp_path / "sources", tmp_path / "answers"
    asked = (scans, "--z-scales", 4, "--profiles", "box", "skip", "--phases", 0, 1)
    assert run(*asked, "--write-sources", sources)[0] == 0
    told = json.loads((sources / "sources.json").read_text("utf-8"))
    assert len(told) == 8 and {path.name for path in sources.glob("*.nrrd")} == {f"{name}.nrrd" for name in told}
    answers.mkdir()
    for name, facts in told.items():
        source, truth = read(sources / f"{name}.nrrd"), read(scans / f"{facts['scan']}.nrrd")
        case = Case.of(truth, Acquisition(4.0, facts["profile"], phase=facts["phase"]))
        assert source.geometry.same_place_as(case.source.geometry)
        assert source.thickness_mm == (None if facts["profile"] == "skip" else pytest.approx(facts["thickness_mm"]))
        write(truth.with_values(case.wanted, case.target), answers / f"{name}.nrrd")
    (answers / "ct_head_x4_skip.nrrd").unlink()
    (answers / "seconds.json").write_text(json.dumps({"mr_head_x4_box": 12.5}), "utf-8")
    status, out, err = run(*asked, "--methods", "cubic", "--add", f"oracle={answers}", "--json")
    assert status == 0, err
    results = {case["case"]: case["results"] for case in json.loads(out)["cases"]}
    assert "oracle" not in results["ct_head_x4_skip"]
    oracle = results["mr_head_x4_box"]["oracle"]
    assert oracle["ssim"] == 1 and oracle["seconds"] == 12.5 and not oracle["facts"]["resampled"]


def test_an_added_result_on_another_grid_is_resampled_and_says_so(scans: Path, run, tmp_path: Path):
    truth = read(scans / "mr_head.nrrd")
    case = Case.of(truth, Acquisition(4.0))
    folder = tmp_path / "answers"
    folder.mkdir()
    shape = (len(case.positions) + 4, *truth.values.shape[1:])
    wider = truth.geometry.cropped((case.first - 2, 0, 0), shape)
    write(truth.with_values(truth.values[case.first - 2 :][: shape[0]], wider), folder / "mr_head_x4_box.nii.gz")
    asked = (scans / "mr_head.nrrd", "--z-scales", 4, "--profiles", "box", "--methods", "cubic")
    status, out, _ = run(*asked, "--add", f"wide={folder}", "--json")
    found = json.loads(out)["cases"][0]["results"]["wide"]
    assert status == 0 and found["facts"]["resampled"] and found["psnr_generated"] > 50
    write(truth.with_values(truth.values[:20], truth.geometry.cropped((0, 0, 0), (20, *shape[1:]))),
          folder / "mr_head_x4_box.nii.gz", overwrite=True)  # fmt: skip
    status, _, err = run(*asked, "--add", f"wide={folder}")
    assert status == 3 and "does not cover" in err


def test_a_scan_too_short_for_a_z_scale_is_left_out_with_a_warning(scans: Path, run):
    status, out, err = run(scans, "--z-scales", 4, 12, *FAST, "--json")
    assert status == 0 and err.count("x12 box is left out") == 2
    assert {case["z_scale"] for case in json.loads(out)["cases"]} == {4.0}
    status, _, err = run(scans, "--z-scales", 12, *FAST)
    assert status == 3 and "No scan has slices enough" in err


@pytest.mark.parametrize(
    "asked, status",
    [
        (["--methods", "magic"], 2),
        (["--noise", "rough", "--methods", "light"], 2),
        (["--consistency", "total", "--methods", "light"], 2),
        (["--add", "nothing"], 2),
        (["--resume"], 2),
        (["--jobs", "0"], 2),
        (["--z-scales", "1"], 2),
        (["--phases", "0.5", "--profiles", "skip"], 2),
        (["--methods", "light", "--noise", "acquired"], 2),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_any_computing(scans: Path, run, asked, status, monkeypatch):
    if asked == ["--methods", "light", "--noise", "acquired"]:  # no model is at hand
        monkeypatch.setattr("CycleINRLib.evaluation.methods.list_models", lambda: [])
    monkeypatch.setattr(evaluation_cases, "do_case", lambda work: pytest.fail("it was computed"))
    assert run(scans, *asked)[0] == status


def test_two_scans_of_one_name_are_refused(scans: Path, run, tmp_path: Path):
    shutil.copy(scans / "mr_head.nrrd", tmp_path / "mr_head.nrrd")
    status, _, err = run(scans, tmp_path / "mr_head.nrrd", *FAST)
    assert status == 2 and "the same name" in err


def test_models_take_part_once_for_each_noise_and_consistency(scans: Path, run):
    pytest.importorskip("torch")
    asked = (scans / "mr_head.nrrd", "--z-scales", 3, "--profiles", "box", "--methods", "cubic", "light")
    status, out, err = run(*asked, "--noise", "acquired", "auto", "--consistency", "auto", "none", "--json")
    assert status == 0, err
    record = json.loads(out)
    ours = {name: facts for name, facts in record["methods"].items() if facts["kind"] == "model"}
    assert set(ours) == {"light", "light none", "light acquired", "light acquired none"}
    results = record["cases"][0]["results"]
    assert results["light"]["facts"]["consistency"] == "project" and results["light"]["seconds"] > 0
    assert results["light none"]["facts"]["consistency"] == "none"
    assert lead(record["cases"][0], "light", ["cubic"]) > 0 and behind(record, "light") == []


# --- the record as tables and pictures ------------------------------------------------------------------------
def made_up(**psnr: list[float | None]) -> dict:
    """A record of box cases at z-scales 2, 4, ... with these values for each method."""

    def facts(name: str) -> dict:
        if name == "ours":
            return {"kind": "model", "model": "light", "noise": "auto",
                    "consistency": "auto", "sha256": "0" * 64}  # fmt: skip
        return {"kind": "interpolator", "about": "closed form"}

    count = len(next(iter(psnr.values())))
    empty = dict.fromkeys(("snli", "snli_detrended", "generated_gap", "noise_ratio"))
    cases = [
        {"case": f"c{n}", "scan": "scan", "modality": "CT", "z_scale": 2.0 * n + 2, "profile": "box", "ratio": 1.0,
         "phase": 0.0, "truth": empty, "noise_ceiling": {"psnr_db": 40.0, "averages_db": 41.0, "through_db": None},
         "results": {name: {"psnr_generated": values[n]} for name, values in psnr.items()}}
        for n in range(count)
    ]  # fmt: skip
    return {"version": "0", "protocol": {"body": "b", "range": "r", "margin": "m", "ssim": "s", "gradient_error": "g"},
            "versions": {}, "methods": {name: facts(name) for name in psnr}, "cases": cases}  # fmt: skip


def test_the_table_tells_leads_and_the_cases_behind_cubic():
    record = made_up(cubic=[30.0, 28.0], projection=[31.0, None], ours=[32.5, 27.5])
    rows = case_table(record, "psnr_generated").splitlines()
    assert rows[2] == "| scan | 2 | box | 40.00 | - | 30.00 | 31.00 | 32.50 | +1.50 |"
    assert rows[3] == "| scan | 4 | box | 40.00 | - | 28.00 | - | 27.50 | -0.50 |"
    text = markdown(record)
    assert "| CT box | +0.50 (-0.50) | +1.00 (-0.50) | - |" in text
    assert "ours is behind cubic in 1 of 2 cases: scan x4 box (-0.50 dB)." in text
    assert [case["z_scale"] for case in behind(record, "ours")] == [4.0]
    assert "lead" not in case_table(record, "snli")


def test_a_picture_has_room_for_the_best_interpolators_and_ours():
    record = made_up(linear=[20.0], cubic=[30.0], projection=[31.0], ours=[29.0])
    assert chosen(record["cases"][0], record) == ["projection", "cubic", "ours"]


# --- the card -------------------------------------------------------------------------------------------------
def test_routes_of_adapting_take_part_beside_the_first_stage_and_the_upper_bound(mr_thin, run, tmp_path: Path):
    scan = write(central_block(mr_thin, 56), tmp_path / "mr_head.nrrd")
    routes = ("in-plane", "direct", "synthesis", "supervised")
    asked = ("--z-scales", 2, "--profiles", "gaussian", "--methods", "cubic", "--adapt", *routes, "--adapt-steps", 1)
    status, out, err = run(scan, *asked, "--output", tmp_path / "out")
    assert status == 0, err
    (case,) = record_of(tmp_path / "out")["cases"]
    results = {name.removeprefix("adapted "): result for name, result in case["results"].items()}
    assert list(results) == ["cubic", *routes]
    assert all(15 < result["psnr_generated"] < 50 for result in results.values())
    assert results["in-plane"]["facts"]["held_out"]["slices"] >= 2
    assert "an upper bound" in out


@pytest.fixture(scope="module")
def write_card(benchmark_module) -> ModuleType:
    return benchmark_module("write_card")


def test_the_card_takes_the_figures_of_its_own_weights_alone(scans, run, tmp_path, write_card: ModuleType, capsys):
    pytest.importorskip("torch")
    from CycleINRLib.modelcard import read_card
    from CycleINRLib.network.weights import find_model, weights_sha256

    asked = (scans / "mr_head.nrrd", "--z-scales", 3, "--profiles", "box", "--methods", "cubic", "cubic+projection")
    assert run(*asked, "light", "--output", tmp_path / "out")[0] == 0
    model, readme = tmp_path / "light.safetensors", tmp_path / "README.md"
    shutil.copy(find_model("light"), model)
    readme.write_text(f"before\n{write_card.BEGIN}\nold\n{write_card.END}\nafter\n", "utf-8")
    digest = weights_sha256(model)
    ablations = {"full": {"CT gain": 0.5, "MR gain": 0.4, "CT noise": 0.1, "MR noise": 0.2, "steps": 9}}
    (tmp_path / "ablations.json").write_text(json.dumps(ablations), "utf-8")
    for more in (
        ["--ablations", str(tmp_path / "ablations.json")],
        [],
    ):  # a new card is no new model, and loses nothing
        write_card.main([str(model), str(tmp_path / "out" / "evaluation.json"), "--readme", str(readme), *more])
    card = read_card(model)
    assert card.figures["ablations"] == ablations
    assert weights_sha256(model) == digest
    case = card.figures["cases"][0]
    assert case["results"]["light"]["psnr_generated"] > case["results"]["cubic"]["psnr_generated"]
    text = readme.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| `mr_head` | +" in text and "Ahead of both in 1 of 1 cases" in text
    model.write_bytes(model.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(SystemExit, match="other weights"):
        write_card.main([str(model), str(tmp_path / "out" / "evaluation.json"), "--readme", str(readme)])


@pytest.mark.parametrize("text", ["{}", "[]", '{"full": {"CT gain": 0.5}}'])
def test_a_file_without_ablations_is_refused_for_the_card(tmp_path, write_card: ModuleType, text):
    (tmp_path / "ablations.json").write_text(text, "utf-8")
    with pytest.raises(SystemExit, match="holds no ablations"):
        write_card.ablations_of(tmp_path / "ablations.json")
