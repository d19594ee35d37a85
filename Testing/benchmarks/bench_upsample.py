#!/usr/bin/env python3
"""Seconds and peak memory of one upsampling, beside SciPy's cubic B-spline and a network of ArSSR's published sizes.

    python Testing/benchmarks/bench_upsample.py [--size 512 512 50] [--z-scale 4] [--model light] [--threads 2]
    python Testing/benchmarks/bench_upsample.py --size 512 512 100 --only product        the memory promise
    python Testing/benchmarks/bench_upsample.py --size 512 512 100 --only preview        one plane, and two, alone
    python Testing/benchmarks/bench_upsample.py --only convolutions                      how near the machine's own rate
    python Testing/benchmarks/bench_upsample.py --size 96 64 0 --slices 32 128 512 --cpu  cost against slices
    python Testing/benchmarks/bench_upsample.py --size 64 64 12 --rival-size 32 32 8      a try

Every line is measured in a process of its own, one after the other, on the same machine: an ellipse of tissue with
noise, in air. The ArSSR-like network has random weights (its cost does not depend on them), encodes once, and is asked
voxel by voxel through grid_sample on a smaller volume; its seconds are scaled by output voxels. It runs in float32,
and in bfloat16 as well where CycleINR itself chose that. Peak memory is the most that the process ever held, libraries
included. `--cpu` counts seconds of CPU, of all threads, where other programs would disturb. `convolutions` runs
CycleINR once more, notes the shape of each convolution, and times those shapes alone: the share of the whole run that
they would take at this rate is how near the run is to it.

`preview` times a plane, and two in one job as the panel asks for them. On one thread without bfloat16 (512 x 512 x 100,
`light`) they took 15.4 and 30.7 s of CPU time; since the halo gets narrower from layer to layer and planes share their
fits, 9.3 and 16.5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a bare checkout

import numpy as np

PROMISED_MB = 2048  # beside input and output (design section 8)
PROMISED_PREVIEW_S = 2.0  # one plane of 512 x 512 x 100
RIVALS = ("zoom", "spline", "arssr-float32")
KINDS = ("product", *RIVALS, "arssr-bfloat16", "convolutions", "preview")
NAMES = {
    "product": "CycleINR, {model}",
    "zoom": "cubic B-spline, scipy.ndimage.zoom",
    "spline": "cubic B-spline, scipy.interpolate along z",
    "arssr-float32": "ArSSR-sized RDN + MLP, float32",
    "arssr-bfloat16": "ArSSR-sized RDN + MLP, bfloat16",
    "convolutions": "CycleINR, {model}, its convolutions alone",
    "preview": "CycleINR, {model}, a coronal plane alone",
}


def scan(size: list[int]) -> np.ndarray:
    """(K, J, I) int16 HU: an ellipse of tissue with 20 HU of noise and a slow pattern, in air."""
    columns, rows, slices = size
    j, i = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    rng = np.random.default_rng(0)
    values = np.empty((slices, rows, columns), np.int16)
    for k in range(slices):
        tissue = 40 + 60 * np.sin(9 * i + 0.3 * k) * np.cos(7 * j) + 20 * rng.standard_normal(i.shape)
        values[k] = np.where(i**2 / 0.8 + j**2 / 0.5 < 1, tissue, -1000)
    return values


def seconds_now() -> float:
    """Of the clock that is asked for."""
    return time.process_time() if "--cpu" in sys.argv else time.monotonic()


# --- what is measured, each in a child ------------------------------------------------------------------------
def run_product(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    import CycleINRLib as cycleinr

    volume, choice = prepared(values, asked)
    start = seconds_now()
    result = cycleinr.upsample(volume, **choice)
    seconds = seconds_now() - start
    held = (values.nbytes + result.volume.values.nbytes) / 2**20
    facts = {"precision": result.report["precision"], "input_and_output_mb": round(held, 1)}
    return seconds, result.volume.values.size, facts


def prepared(values: np.ndarray, asked: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The scan as a Volume, and what is asked for."""
    import torch

    import CycleINRLib as cycleinr

    torch.set_num_threads(asked.threads)
    geometry = cycleinr.Geometry.from_spacing(values.shape, (0.7 * asked.z_scale, 0.7, 0.7))
    volume = cycleinr.Volume(values, geometry, "CT", "HU", 0.7 * asked.z_scale, "k")
    return volume, {"z_scale": asked.z_scale, "model": asked.model, "device": "cpu", "precision": asked.precision}


def run_preview(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    """A plane with gain and noise of the scan, one without any fit, and two in one job as the panel asks for them."""
    from CycleINRLib.upsampling.preview import previews

    volume, choice = prepared(values, asked)
    asks = {"one": ({"coronal": None}, {}), "two": ({"coronal": None, "sagittal": None}, {})}
    asks["unfitted"] = asks["one"][0], {"gain": 1.0, "noise": "acquired"}
    list(previews(volume, {"coronal": None}, **choice))  # the first one loads and warms up
    facts, voxels = {}, 0
    for name, (planes, fields) in asks.items():
        start, cpu = time.monotonic(), time.process_time()
        made = list(previews(volume, planes, **choice, **fields))
        facts[name] = {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
        voxels = made[0][1].values.size
    return facts["one"]["seconds"], voxels, {"preview": facts}


def run_convolutions(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    """Seconds that the convolutions of the product's run take alone, the best of three for each shape."""
    import torch
    import torch.nn.functional as F

    seen: dict[tuple[Any, ...], list[Any]] = {}  # shape and layout -> how to call it again, how often, multiplications

    def noting(convolve: Any) -> Any:
        def noted(x: torch.Tensor, weight: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            out = convolve(x, weight, *rest, **named)
            key = (convolve, x.shape, x.stride(), x.dtype, weight.shape, weight.stride())
            macs = out.numel() * weight[0].numel()
            entry = seen.setdefault(key, [lambda a, w: convolve(a, w, *rest, **named), weight, 0, macs])
            entry[2] += 1
            return out

        return noted

    originals = F.conv2d, F.conv3d
    F.conv2d, F.conv3d = (noting(convolve) for convolve in originals)
    whole, voxels, facts = run_product(values, asked)
    F.conv2d, F.conv3d = originals
    alone, macs = 0.0, 0
    with torch.inference_mode():
        for (_, shape, stride, dtype, *_), (again, weight, count, each) in seen.items():
            x = torch.empty_strided(shape, stride, dtype=dtype).zero_()
            again(x, weight)
            alone += count * min(_seconds(lambda again=again, x=x, weight=weight: again(x, weight)) for _ in range(3))
            macs += count * each
    share = f"{100 * alone / whole:.0f} % of the whole run's {whole:.1f} s"
    remark = f"{share}, {macs / voxels / 1e3:.1f} k multiplications a voxel, {2 * macs / alone / 1e9:.0f} GFLOP/s alone"
    return alone, voxels, {"precision": f"{facts['precision']}, {remark}", "share_of_run": alone / whole}


def _seconds(task: Any) -> float:
    start = seconds_now()
    task()
    return seconds_now() - start


def run_zoom(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    from scipy import ndimage

    start = seconds_now()
    slices = target_slices(len(values), asked.z_scale)
    output = ndimage.zoom(values, (slices / len(values), 1, 1), order=3, output=np.int16)
    return seconds_now() - start, output.size, {}


def run_spline(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    from scipy.interpolate import make_interp_spline

    start = seconds_now()
    positions = np.arange(target_slices(len(values), asked.z_scale)) / asked.z_scale
    output = make_interp_spline(np.arange(len(values)), values, k=3, axis=0)(positions)
    output = np.rint(output).astype(np.int16)
    return seconds_now() - start, output.size, {}


def run_arssr(values: np.ndarray, asked: argparse.Namespace) -> tuple[float, int, dict[str, Any]]:
    import torch
    from peers.arssr import Decoder, Encoder

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    encoder, decoder = Encoder().eval(), Decoder().eval()
    facts = {"parameters": sum(p.numel() for part in (encoder, decoder) for p in part.parameters())}
    low = torch.from_numpy(values.astype(np.float32) / 1000)[None, None]
    slices = target_slices(len(values), asked.z_scale)
    axes = [torch.linspace(-1, 1, n) for n in (slices, *values.shape[1:])]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T.flip(1)  # (N, 3): x, y, z for grid_sample
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=asked.child.endswith("bfloat16"))
    output = torch.empty(len(places))
    start = seconds_now()
    with torch.inference_mode(), autocast:
        features = encoder(low)
        for first in range(0, len(places), asked.batch):
            part = places[first : first + asked.batch]
            found = torch.nn.functional.grid_sample(features, part[None, None, None].to(features), align_corners=True)
            latent = torch.cat([found[0, :, 0, 0].T, part.to(features)], 1)
            output[first : first + asked.batch] = decoder(latent)[:, 0]
    return seconds_now() - start, len(output), facts


def target_slices(slices: int, z_scale: float) -> int:
    return int(np.floor((slices - 1) * z_scale + 1e-6)) + 1


RUNS = {
    "product": run_product,
    "preview": run_preview,
    "convolutions": run_convolutions,
    "zoom": run_zoom,
    "spline": run_spline,
}


# --- parent and child -----------------------------------------------------------------------------------------
def peak_mb() -> float:
    """The most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def child(asked: argparse.Namespace) -> None:
    values = scan(asked.rival_size if asked.child.startswith("arssr") else asked.size)
    seconds, voxels, facts = RUNS.get(asked.child, run_arssr)(values, asked)
    print(json.dumps({"seconds": seconds, "voxels": voxels, "peak_mb": peak_mb(), **facts}))


def measured(kind: str, argv: list[str], threads: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, *argv, "--child", kind]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"bench_upsample: {kind} ended with status {done.returncode}")
    return {"kind": kind, **json.loads(done.stdout.splitlines()[-1])}


def table(results: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    """Seconds scaled to the voxels of the full volume, and how they compare with the product's."""
    rows, columns = asked.size[1], asked.size[0]
    full = target_slices(asked.size[2], asked.z_scale) * rows * columns
    product = next((r["seconds"] * full / r["voxels"] for r in results if r["kind"] == "product"), None)
    lines = ["| what | seconds | M voxel/s | times CycleINR | peak MB | remarks |", "|" + " --- |" * 6]
    for r in results:
        if "preview" in r:  # a plane is no part of a volume's time
            continue
        seconds = r["seconds"] * full / r["voxels"]
        times = "-" if product is None else f"{seconds / product:.2f}"
        remarks = [r["precision"]] if "precision" in r else []
        if "parameters" in r:
            taken = f"{r['seconds']:.1f} s for {r['voxels']} voxels, scaled"
            remarks = [f"{r['parameters'] / 1e6:.2f} M weights", taken]
        name = NAMES[r["kind"]].format(model=asked.model)
        rate = r["voxels"] / r["seconds"] / 1e6
        cells = [name, f"{seconds:.1f}", f"{rate:.3f}", times, f"{r['peak_mb']:.0f}", ", ".join(remarks)]
        lines.append("| " + " | ".join(cells) + " |")
    for r in results:
        if "input_and_output_mb" in r:
            allowed = r["input_and_output_mb"] + PROMISED_MB
            verdict = "kept" if r["peak_mb"] <= allowed else "BROKEN"
            lines += ["", f"Memory promise (input + output + {PROMISED_MB} MB = {allowed:.0f} MB): {verdict}."]
    for r in results:
        lines += ["", *_told_preview(r["preview"])] if "preview" in r else []
    return "\n".join(lines)


def _told_preview(facts: dict[str, dict[str, float]]) -> list[str]:
    """Lines: what each kind of preview took, and whether the promise is kept."""
    names = {"one": "one plane", "two": "two planes in one job", "unfitted": "one plane, gain given, noise as acquired"}
    lines = [
        f"Preview, {names[name]}: {one['seconds']:.1f} s, {one['cpu_seconds']:.1f} s of CPU time."
        for name, one in facts.items()
    ]
    verdict = "kept" if facts["one"]["seconds"] <= PROMISED_PREVIEW_S else "BROKEN here"
    return [*lines, f"Preview promise (one plane in {PROMISED_PREVIEW_S:g} s): {verdict}."]


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=[512, 512, 50], metavar=("I", "J", "K"))
    parser.add_argument("--rival-size", nargs=3, type=int, default=[64, 64, 12], metavar=("I", "J", "K"))
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--model", default="light")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU, for a busy machine")
    parser.add_argument("--slices", nargs="+", type=int, metavar="K", help="CycleINR alone, for so many slices each")
    parser.add_argument("--batch", type=int, default=20000, help="voxels asked of the ArSSR-like network at a time")
    parser.add_argument("--only", nargs="+", choices=KINDS)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def of_slices(asked: argparse.Namespace) -> str:
    """What more slices cost: a line for each number of them."""
    lines = ["| slices | seconds | for each further slice, ms | peak MB |", "|" + " --- |" * 4]
    before: tuple[int, float] | None = None
    for slices in asked.slices:
        size = [str(n) for n in (*asked.size[:2], slices)]
        result = measured("product", [*sys.argv[1:], "--size", *size], asked.threads)
        further = f"{1e3 * (result['seconds'] - before[1]) / (slices - before[0]):.0f}" if before else "-"
        lines.append(f"| {slices} | {result['seconds']:.1f} | {further} | {result['peak_mb']:.0f} |")
        before = slices, result["seconds"]
    return "\n".join(lines)


def main() -> None:
    asked = options()
    if asked.child:
        return child(asked)
    if asked.slices:
        return print(of_slices(asked))
    results = []
    waiting = list(asked.only or ("product", *RIVALS))
    while waiting:
        result = measured(waiting.pop(0), sys.argv[1:], asked.threads)
        results.append(result)
        print(f"{result['kind']}: {result['seconds']:.2f} s", file=sys.stderr)
        if not asked.only and result.get("precision") == "bfloat16":
            waiting.append("arssr-bfloat16")
    size = " x ".join(map(str, asked.size))
    print(f"{size} at z-scale {asked.z_scale:g}, {asked.threads} threads\n")
    print(table(results, asked))
    if asked.json:
        asked.json.write_text(json.dumps({"options": vars(asked), "results": results}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
