"""The peers of the benchmark: their sizes, their training, their place, and one table of them all."""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import CycleINRLib as cycleinr
from CycleINRLib.evaluation.case import Acquisition, Case
from CycleINRLib.imaging.geometry import Geometry

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from peers import arssr, eclare, nullspace, run, sainr, soupgan, training  # noqa: E402

from CycleINRLib.network.model import NetworkConfig  # noqa: E402
from CycleINRLib.training.patches import Scan  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data"


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def small_sainr() -> torch.nn.Module:
    return sainr.SAINRStyle(channels=8, blocks=1, width=16, depth=2)


def small_arssr() -> torch.nn.Module:
    network = arssr.ArSSRStyle()
    network.encoder = arssr.Encoder(features=4, growth=4, blocks=1, layers=1, latent=6)
    network.decoder = arssr.Decoder(inputs=9, width=8, depth=2)
    torch.nn.init.zeros_(network.decoder.two[-1].weight)
    torch.nn.init.zeros_(network.decoder.two[-1].bias)
    return network


SMALL = {"arssr": small_arssr, "sainr": small_sainr}


def untied(name: str) -> torch.nn.Module:
    """A small peer whose answer is far from linear interpolation."""
    torch.manual_seed(1)
    network = SMALL[name]()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


# --- sizes and sums -----------------------------------------------------------------------------------------------
def test_the_arssr_style_network_has_the_published_number_of_weights():
    network = arssr.ArSSRStyle()
    assert (count(network.encoder), count(network.decoder)) == (5_916_352, 363_008)


def test_the_sainr_style_network_has_the_published_size():
    assert 2.05e6 < count(sainr.SAINRStyle()) < 2.15e6


@pytest.mark.parametrize("make", [arssr.ArSSRStyle, sainr.SAINRStyle])
def test_an_untrained_peer_is_linear_interpolation(make):
    source = torch.randn(4, 9, 8)
    positions = [0.0, 0.25, 1.5, 2.0, 3.0]
    made = list(training.slices(make().eval(), source, positions))
    for position, one in zip(positions, made):
        k = min(int(position), 2)
        assert torch.allclose(one, torch.lerp(source[k], source[k + 1], position - k), atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_peer_answers_in_training_as_it_does_in_use(name: str):
    network, margin = untied(name), 2
    source = torch.randn(2, 5, 10, 9)
    below, t = torch.tensor([[0, 3, 1], [2, 2, 0]]), torch.rand(2, 3)
    batch = SimpleNamespace(source=source, places=SimpleNamespace(below=below, t=t), margin=margin)
    answered = training.answer(network, batch)
    assert answered.shape == (2, 3, 6, 5)
    for b in range(2):
        made = torch.stack(list(training.slices(network, source[b], (below[b] + t[b]).tolist())))
        assert torch.allclose(answered[b], made[:, margin:-margin, margin:-margin], atol=1e-4)
        linear = torch.stack([torch.lerp(source[b, k], source[b, k + 1], s) for k, s in zip(below[b], t[b])])
        assert (made - linear).abs().max() > 0.05  # the network does say something


def test_attention_weighs_the_98_codes_around_a_place():
    torch.manual_seed(2)
    query = torch.randn(1, 3, 2, 2)
    slices = [tuple(torch.randn(1, 3, 8, 8) for _ in range(3)) for _ in range(2)]
    found = sainr._attended(query, slices)
    y, x = 1, 0
    keys, values = (
        torch.cat([part[n][0, :, y : y + 7, x : x + 7].flatten(1) for part in slices], 1) for n in (1, 2)
    )  # (3, 98)
    weights = torch.softmax(query[0, :, y, x] @ keys, 0)
    assert keys.shape == (3, 98)
    assert torch.allclose(found[0, :, y, x], values @ weights, atol=1e-5)


# --- training -----------------------------------------------------------------------------------------------------
def test_the_rate_warms_up_and_ends_at_a_hundredth():
    at = [training.share_of_rate(passed) for passed in (0.0, 0.015, 0.03, 0.515, 1.0, 1.3)]
    assert at == pytest.approx([0.01, 0.5, 1.0, 0.505, 0.01, 0.01])


class Bend(torch.nn.Module):
    """Linear interpolation less one learned share of the second difference: 1 is the parabola through the slices."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.zeros(()))

    def encode(self, source):
        inner = source[:, 2:] - 2 * source[:, 1:-1] + source[:, :-2]
        return torch.cat([inner[:, :1], inner, inner[:, -1:]], 1)

    def decode(self, codes, row, below, t, rim):
        inner = codes[..., rim : codes.shape[-2] - rim, rim : codes.shape[-1] - rim]
        mean = (inner[row, below] + inner[row, below + 1]) / 2
        return -self.share * (t * (1 - t) / 2)[:, None, None] * mean


def waves() -> list[Scan]:
    """A scan whose waves along z linear interpolation flattens."""
    k, j, i = np.meshgrid(np.arange(60), np.arange(40), np.arange(40), indexing="ij")
    values = 500 + 200 * np.sin(2 * np.pi * k / 12 + 0.2 * j + 0.1 * i)
    geometry = Geometry.from_spacing(values.shape, (1, 1, 1))
    return [Scan.of(cycleinr.Volume(values.astype(np.float32), geometry, "MR"))]


def small_bend(monkeypatch: pytest.MonkeyPatch) -> training.Recipe:
    """How `Bend` is trained on slices with gaps, a second for each look at the clock."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(training, "time", SimpleNamespace(process_time=lambda: next(seconds)))
    plain = {"skip_share": 1.0, "smooth_share": 0.0, "contrast_share": 0.0, "noise_share": 0.0, "in_plane_share": 0.0}
    samples = training.SampleConfig(slices=6, crop=16, z_scale=(2.0, 2.0), **plain)
    return replace(training.RECIPES["arssr"], make=Bend, samples=samples, rate=0.1)


def test_training_by_the_clock_comes_nearer_to_the_truth_than_linear_interpolation(monkeypatch: pytest.MonkeyPatch):
    scans, recipe = waves(), small_bend(monkeypatch)
    trained = training.fit(recipe, scans, minutes=2.0, held_out=scans, say=lambda text: None)
    assert 40 <= trained.steps <= 120  # the clock is read once or twice a step
    assert trained.parameters == 1 and 0.7 < float(trained.network.share) < 1.6
    batch = training.draw_batch(scans, recipe.samples, 8, 99, 0)
    ours, linear = (float(recipe.loss(network, batch, "float32").detach()) for network in (trained.network, Bend()))
    assert ours < 0.5 * linear and trained.loss < 0.7 * linear
    assert len(trained.held_out) >= training.LOOKS and trained.held_out[-1] < 0.8 * trained.held_out[0]


def test_of_a_training_that_breaks_down_the_weights_of_its_lowest_look_are_kept(monkeypatch: pytest.MonkeyPatch):
    scans, recipe = waves(), small_bend(monkeypatch)
    looks = iter([0.5, 0.3, 0.4])
    seen: list[float] = []

    def look(recipe, average, shown, precision):
        seen.append(average.share.item())
        return next(looks, 0.6)

    monkeypatch.setattr(training, "_look", look)
    trained = training.fit(recipe, scans, minutes=1.0, held_out=scans, say=lambda text: None)
    assert trained.held_out[:4] == (0.5, 0.3, 0.4, 0.6)
    assert trained.network.share.item() == seen[1] != seen[-1]


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_reaches_every_weight_of_a_peer(name: str):
    from CycleINRLib.cli.train import read_scan

    network = untied(name)
    batch = training.draw_batch([read_scan(DATA / "mr_thin.nrrd", "MR")], training.SampleConfig(crop=16), 1, 0, 0)
    training.RECIPES[name].loss(network, batch, "float32").backward()
    still = [part for part, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("name", SMALL)
def test_a_trained_peer_comes_back_from_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(training.RECIPES, name, replace(training.RECIPES[name], make=SMALL[name]))
    path = tmp_path / "peer.safetensors"
    network = untied(name)
    training.save(name, training.Trained(network, 7, 60.04, 0.25, (0.5, 0.3)), 1.0, path)
    back = training.load(name, path)
    assert (back.steps, back.seconds, back.loss, back.held_out) == (7, 60.0, 0.25, (0.5, 0.3))
    source = torch.randn(3, 8, 8)
    assert torch.equal(*(next(training.slices(one, source, [0.5])) for one in (network, back.network)))


# --- ECLARE -------------------------------------------------------------------------------------------------------
def ramp_case(z_scale: float = 4.0, pixel_mm: float = 0.9, profile: str = "box") -> Case:
    """Thin slices whose values are their place in mm along z."""
    k, j, i = np.meshgrid(np.arange(60.0), np.arange(11.0), np.arange(10.0), indexing="ij")
    values = (k + 0.3 * j * i).astype(np.float32)
    geometry = Geometry.from_spacing(values.shape, (1.0, pixel_mm, pixel_mm))
    volume = cycleinr.Volume(values, geometry, "MR", "", 1.0, "k", name="ramp")
    return Case.of(volume, Acquisition(z_scale, profile))


def made_of(case: Case, declared: cycleinr.Volume, pixel_mm: float) -> cycleinr.Volume:
    """What ECLARE would write of a ramp: slices as fine as pixels around the middle, affine from the outer edge."""
    N, rows, columns = declared.values.shape
    scale = round(declared.spacing_mm[0] / pixel_mm, 3)
    M = round(N * scale)
    at = (N - 1) / 2 + (np.arange(M) - (M - 1) / 2) / scale
    k = (case.center + at * case.protocol.z_scale)[:, None, None]
    j, i = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    matrix = np.diag([pixel_mm, pixel_mm, declared.spacing_mm[0] / scale, 1.0])
    matrix[2, 3] = -0.5 * declared.spacing_mm[0] * (1 - 1 / scale)
    return cycleinr.Volume((k + 0.3 * j * i).astype(np.float32), Geometry((M, rows, columns), matrix))


@pytest.mark.parametrize("z_scale, pixel_mm, declared_mm", [(4, 0.9, 1.0), (2, 1.1, 1.0), (4, 0.7, 0.7), (3, 1.0, 1.0)])
def test_eclares_slices_come_onto_the_target_without_a_shift(z_scale: float, pixel_mm: float, declared_mm: float):
    case = ramp_case(z_scale, pixel_mm)
    assert eclare.declared_pixel_mm(case) == declared_mm
    declared = eclare.declare(case.source, declared_mm)
    values = eclare.onto_target(made_of(case, declared, declared_mm), declared, case)
    assert values.shape == case.wanted.shape
    assert np.abs(values - case.wanted).max() < 2e-3  # thin slices
    assert np.abs(eclare.shift_found(values, case)).max() < 2e-3


def test_a_result_that_lies_elsewhere_is_refused():
    case = ramp_case()
    declared = eclare.declare(case.source, 1.0)
    made = made_of(case, declared, 1.0)
    matrix = np.array(made.geometry.ijk_to_ras)
    matrix[0, 3] += 0.5
    moved = replace(made, geometry=Geometry(made.geometry.shape, matrix))
    with pytest.raises(eclare.EclareError, match="moved"):
        eclare.onto_target(moved, declared, case)


def test_registration_finds_a_quarter_of_a_slice():
    case = ramp_case()
    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.avg_pool3d(torch.from_numpy(rng.standard_normal((1, 1, 64, 15, 14))), 5, 1).numpy()
    truth = case.truth.with_values(100 * smooth[0, 0].astype(np.float32))
    truth = replace(truth, modality="MR")
    case = Case.of(truth, Acquisition(2.0, "skip"))
    wanted = case.wanted.astype(float)
    later = wanted.copy()
    later[:-1] = 0.75 * wanted[:-1] + 0.25 * wanted[1:]  # shows what comes a quarter of a slice later
    z, j, i = np.subtract(eclare.shift_found(later, case), eclare.shift_found(wanted, case))
    assert z == pytest.approx(-0.25, abs=0.06) and abs(j) < 0.02 and abs(i) < 0.02


def test_eclare_is_told_the_slice_profile_in_declared_pixels(tmp_path: Path):
    box = eclare.physics(ramp_case(4.0), 1.0, tmp_path / "box.npy")
    assert box == [
        "--relative-slice-thickness",
        "4.0000",
        "--relative-slice-profile-fpath",
        str(tmp_path / "box.npy"),
    ]
    assert np.load(tmp_path / "box.npy") == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.125])
    assert eclare.physics(ramp_case(4.0, profile="gaussian"), 0.5, tmp_path / "no.npy")[1:] == ["8.0000"]
    assert not (tmp_path / "no.npy").exists()
    with pytest.raises(eclare.EclareError, match="thickness"):
        eclare.physics(ramp_case(4.0, profile="skip"), 1.0, tmp_path / "no.npy")


STAND_IN = """#!{python}
import sys
from pathlib import Path
sys.path[:0] = [{root!r}]
import numpy as np
import CycleINRLib as cycleinr
from CycleINRLib.imaging.geometry import Geometry
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(told["--out-dir"])
with open(folder / "calls.txt", "a") as file:
    print(" ".join(sys.argv[1:]), file=file)
if told["--n-patches"] == "13":
    sys.exit("bad luck")
source = cycleinr.read(told["--in-fpath"])
scale = round(source.spacing_mm[0] / source.spacing_mm[1])
matrix = np.array(source.geometry.ijk_to_ras)
matrix[2, 2] /= scale
matrix[2, 3] -= 0.5 * source.spacing_mm[0] * (1 - 1 / scale)
values = np.repeat(source.values.astype(np.float32), scale, axis=0)
made = cycleinr.Volume(values, Geometry(values.shape, matrix))
cycleinr.write(made, folder / Path(told["--in-fpath"]).name.replace(".nii", "_eclare.nii"))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program called as run-eclare is: nearest neighbor on ECLARE's grid."""
    path = tmp_path / "run-eclare"
    path.write_text(STAND_IN.format(python=sys.executable, root=str(DATA.parents[1])))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_eclare_runs_as_a_program_once_for_each_case(program: Path, tmp_path: Path):
    case = ramp_case(4.0)
    first, again = (eclare.run(case, program, tmp_path / "case", 64, 1) for _ in range(2))
    calls = (tmp_path / "case/calls.txt").read_text().splitlines()
    assert len(calls) == 1 and "--n-patches 64 --batch-size 16 --relative-slice-thickness 4.0000" in calls[0]
    assert first.values.shape == case.wanted.shape and np.array_equal(first.values, again.values)
    assert first.seconds == again.seconds > 0
    assert abs(first.shift[0]) < 0.2 and np.abs(first.shift[1:]).max() < 0.05


def test_a_failing_eclare_is_named_with_its_log(program: Path, tmp_path: Path):
    with pytest.raises(eclare.EclareError, match="status 1.*eclare.log"):
        eclare.run(ramp_case(4.0), program, tmp_path / "case", 13, 1)
    assert "bad luck" in (tmp_path / "case/eclare.log").read_text()


# --- the whole ----------------------------------------------------------------------------------------------------
def test_one_command_trains_runs_and_scores_every_peer(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    tiny = NetworkConfig(channels=8, blocks=1, codes=8, hidden=8, key=4)
    monkeypatch.setitem(training.CONFIGS, "light", tiny)
    for name, make in SMALL.items():
        monkeypatch.setitem(training.RECIPES, name, replace(training.RECIPES[name], make=make))
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"mr_thin.nrrd": {}, "ct_thin.nrrd": {"held_out": True}}))
    told = ["--train", str(DATA), "--facts", str(facts), "--minutes", "0.01", "--eclare", str(program)]
    told += ["--patches", "32", "--threads", "1", "--work", str(tmp_path), "--json", str(tmp_path / "out.json")]
    code = run.main([str(DATA), "--cases", "ct_thin:2:box", "mr_thin:2:gaussian", "--crop", "24", *told])
    lines = json.loads((tmp_path / "out.json").read_text())
    text = capsys.readouterr().out
    assert code == 0
    methods = [line["method"] for line in lines if line["scan"] == "ct_thin"]
    assert len(methods) == len(set(methods)) == len(lines) / 2
    for wanted in (
        "ArSSR-style (re-implementation",
        "SA-INR-style (re-implementation",
        "ECLARE, trained on 32 patches",
    ):
        assert sum(method.startswith(wanted) for method in methods) == 1
    assert text.count("trained by us for 0.01 minutes on CPU") == 3 * 2 + 1  # two cases, their mean, the sentence
    assert "no verdict on the originals" in text
    assert all(line["psnr_generated"] > 10 for line in lines if "seconds" in line and line["seconds"] is not None)
    assert {line["steps"] >= 1 for line in lines if "steps" in line} == {True}


def test_a_case_that_cannot_be_is_named_in_one_line():
    for text, said in (("mr_thin:2", "SCAN:Z:PROFILE"), ("mr_thick:2:box", "no scan mr_thick")):
        with pytest.raises(SystemExit, match=said):
            run.case_of(text, DATA, 24)


def test_what_is_missing_to_train_or_to_run_is_asked_for(capsys: pytest.CaptureFixture):
    for told, said in (([], "--train is needed"), (["--only", "eclare"], "--eclare is needed")):
        with pytest.raises(SystemExit):
            run.options([str(DATA), *told])
        assert said in capsys.readouterr().err


# --- mixed splines and SOUP-GAN -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("profile", "z_scale"), [("box", 2), ("gaussian", 3), ("skip", 4)])
def test_mixed_splines_meet_every_acquired_slice_that_lies_inside(profile, z_scale):
    volume = replace(cycleinr.read(DATA / "mr_thin.nrrd"), slice_axis="k")
    case = Case.of(volume, Acquisition(z_scale, profile))
    (attempt,) = nullspace.mixed_splines(case)
    thin = slice(case.first, case.first + len(case.positions))
    told = case.weights[:, thin].sum(1) > 1 - 1e-9  # thick slices made of target slices alone
    again = np.tensordot(case.weights[told][:, thin], attempt.values.astype(np.float64), 1)
    assert told.any()
    np.testing.assert_allclose(again, case.source.values[told], atol=1e-2)


def test_the_shares_of_splines_sum_to_one_and_a_straight_line_is_kept():
    ramp = np.arange(9.0)[:, None] * np.array([[1.0, -2.0]])
    assert nullspace.shares(ramp + np.random.default_rng(0).normal(size=ramp.shape)).sum() == pytest.approx(1)
    for order in nullspace.ORDERS:
        np.testing.assert_allclose(nullspace.spline_weights(np.array([2.5]), 9, order) @ ramp, [[2.5, -5.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("z_scale", "code"), [(2, [1, 0, 0, 0, 0]), (4.5, [0, 0, 0.5, 0.5, 0]), (1.5, [1, 0, 0, 0, 0])]
)
def test_soup_gan_is_told_the_spacing_as_shares_of_whole_steps(z_scale, code):
    np.testing.assert_allclose(soupgan.step_code(z_scale), code)


def test_a_soup_gan_that_fails_is_told_with_what_it_said(tmp_path):
    volume = replace(cycleinr.read(DATA / "mr_thin.nrrd"), slice_axis="k")
    case = Case.of(volume, Acquisition(2, "skip"))
    program = soupgan.SoupGan(Path(sys.executable), tmp_path / "none")
    with pytest.raises(soupgan.SoupGanError, match="status 1"):
        list(program(case))
