#!/usr/bin/env python3
"""What each stage of one upsampling costs, and how near to the machine's own rate it runs.

    python Testing/benchmarks/roofline.py                                  256 x 256 x 16 at z-scale 4, one thread
    python Testing/benchmarks/roofline.py --size 512 512 50 --threads 2 --precision float32
    python Testing/benchmarks/roofline.py --scan scan.nrrd --markdown table.md

Printed for each stage: multiply-adds and bytes (of the arrays that its calls read and write), CPU time and its share,
the rate that this is; then the rate that the very same calls reach alone, the best of three, their arrays warm; and
the rate of the best shape that this machine was asked, a 3 x 3 convolution of 64 channels in the run's precision. The
last column is the stage's rate over the best one. Multiply-adds are counted from the shapes of each call, not from a
formula. CPU time is that of the process, so that other programs disturb little; they still share caches and units.

`encode + decode` is the network from features to corrections; `end to end` all that the run does, reading and writing
included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a bare checkout


REPEATS = 4  # convolutions that are timed together
NETWORK = ("features", "enter", "layer", "codes", "copies", "LAM", "decode")  # by how the names of stages begin


@dataclass
class Stage:
    """CPU seconds, multiply-adds and bytes so far; `alone` how to do each kind of call again, and how often."""

    seconds: float = 0.0
    macs: int = 0
    bytes: int = 0
    alone: dict[Any, list[Any]] = field(default_factory=dict)


class Meter:
    """Counts calls into stages; a stage within a stage is taken from the outer one."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.inner = [0.0]

    def wrap(
        self, owner: Any, name: str, stage: str | Callable[..., str], count: Callable[..., int] | None = None
    ) -> None:
        """Replaces `owner.name` by itself, timed; `count` gives the multiply-adds from arguments and result."""
        real = getattr(owner, name)

        def timed(*args: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():  # counts to the stage that waits for it
                return real(*args, **named)
            label = stage if isinstance(stage, str) else stage(*args, **named)
            self.inner.append(0.0)
            start = time.process_time()
            out = real(*args, **named)
            spent = time.process_time() - start
            entry = self.stages.setdefault(label, Stage())
            entry.seconds += spent - self.inner.pop()
            self.inner[-1] += spent
            if count is not None:
                macs = count(args, out)
                entry.macs += macs
                entry.bytes += sum(_bytes(one) for one in (*args, out))
                key = (name, tuple(_shape(one) for one in args))
                entry.alone.setdefault(key, [real, args, 0])[2] += 1
            return out

        setattr(owner, name, timed)


def _bytes(one: Any) -> int:
    return int(one.nbytes) if hasattr(one, "nbytes") else 0


def _shape(one: Any) -> Any:
    return (tuple(one.shape), one.stride(), str(one.dtype)) if hasattr(one, "stride") else None


@contextmanager
def metered():
    """A Meter on the library's stages; the library is left changed, so only for a process of its own."""
    import torch.nn.functional as F

    import CycleINRLib.io.files as files
    from CycleINRLib.imaging import consistency, intensity
    from CycleINRLib.network import decode, infer
    from CycleINRLib.upsampling import engine, grain, settings, strips, upsample

    meter, layer = Meter(), [0]

    real_encode = infer.encode_streamed

    def encode(network: Any, *rest: Any) -> Any:
        layer[0] = 0
        return real_encode(network, *rest)

    infer.encode_streamed = encode
    meter.wrap(infer, "_add_in_place", lambda *_: f"layer {layer[0]:2d}, between chunks")
    metered_add = infer._add_in_place

    def add(*args: Any) -> None:
        layer[0] += 1
        metered_add(*args)

    infer._add_in_place = add
    of_weight = lambda args, out: out.numel() * args[1][0].numel()  # noqa: E731
    meter.wrap(infer, "relu_convolution", lambda *_: f"layer {layer[0]:2d}, within slices", of_weight)
    meter.wrap(
        infer,
        "add_along",
        lambda *_: f"layer {layer[0]:2d}, along z",
        lambda args, _: args[0].numel() * args[2][0].numel(),
    )
    meter.wrap(infer, "folded_features", "features")
    meter.wrap(infer._Unfold, "__call__", "codes")
    meter.wrap(decode.Decoder, "of_slice", "LAM, once a slice")
    meter.wrap(decode.Decoder, "_attention", "LAM, once a pair")
    for attention in (decode._Attention, decode._CentralAttention):
        meter.wrap(attention, "at", "LAM, at each place")
    meter.wrap(decode.Decoder, "between", "decode, copies and last layer")
    meter.wrap(decode, "relu_linear", "decode, products", of_weight)
    meter.wrap(F, "conv2d", "enter", of_weight)
    meter.wrap(consistency.Agreement, "applied", "consistency")
    meter.wrap(grain.Renewal, "add", "noise, new")
    meter.wrap(strips.Signal, "_split", "noise, taken")
    meter.wrap(settings, "settle_noise", "noise, settled")
    meter.wrap(engine.Engine, "stored", "round and store")
    meter.wrap(engine.Engine, "_slab", "base")
    meter.wrap(engine.Engine, "corrections", "decode, denormalize")
    meter.wrap(engine.Engine, "run", "the rest of the run")
    meter.wrap(infer, "_narrowed", "copies, halo narrowed")
    meter.wrap(infer, "_rimmed", "copies, rim")
    meter.wrap(settings, "settle_gain", "fits")
    meter.wrap(settings, "in_believed_precision", "precision")
    meter.wrap(upsample, "noise_readout", "measure")
    meter.wrap(intensity.IntensityScale, "of", "normalize")
    meter.wrap(files, "read", "read")
    meter.wrap(files, "write", "write")
    yield meter


def rates(stage: Stage) -> tuple[float, float]:
    """Multiply-adds a second of the stage, and of its calls alone."""
    alone = 0.0
    for again, args, count in stage.alone.values():
        alone += count * min(_seconds(lambda again=again, args=args: again(*args)) for _ in range(3))
    return stage.macs / max(stage.seconds, 1e-9), stage.macs / max(alone, 1e-9)


def _seconds(task: Callable[[], Any]) -> float:
    start = time.process_time()
    task()
    return max(time.process_time() - start, 1e-7)


def best_rate(dtype: Any, convolve: Callable[..., Any]) -> float:
    """Multiply-adds a second of the best shape asked."""
    import torch

    best = 0.0
    with torch.inference_mode():
        for n, h, w in ((1, 48, 64), (4, 24, 128), (3, 128, 128)):
            x = torch.ones(n, h, w, 64, dtype=dtype).permute(0, 3, 1, 2)
            weight = torch.ones(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
            run = lambda x=x, weight=weight: [convolve(x, weight, padding=1) for _ in range(REPEATS)]  # noqa: E731
            best = max(best, *(REPEATS * x.numel() * 576 / _seconds(run) for _ in range(5)))
    return best


def table(stages: dict[str, Stage], total: float, best: float) -> str:
    """The table in Markdown."""
    lines = [
        "| stage | G multiply-adds | GB | s of CPU | share | G/s | the same calls alone, G/s | of the best shape |",
        "|" + " --- |" * 8,
    ]
    network, macs = 0.0, 0
    order = sorted(stages, key=lambda name: (not name.startswith(NETWORK), -stages[name].seconds))
    for name in order:
        stage = stages[name]
        cells = [name, "", "", f"{stage.seconds:.3f}", f"{100 * stage.seconds / total:.1f} %", "", "", ""]
        if stage.macs:
            rate, alone = rates(stage)
            cells[1:3] = [f"{stage.macs / 1e9:.2f}", f"{stage.bytes / 1e9:.2f}"]
            cells[5:] = [f"{rate / 1e9:.0f}", f"{alone / 1e9:.0f}", f"{100 * rate / best:.0f} %"]
        if name.startswith(NETWORK):
            network, macs = network + stage.seconds, macs + stage.macs
        lines.append("| " + " | ".join(cells) + " |")
    for name, seconds in (("**encode + decode**", network), ("**end to end**", total)):
        share = f"{100 * seconds / total:.1f} %"
        rate = macs / seconds
        cells = [
            name,
            f"{macs / 1e9:.2f}",
            "",
            f"{seconds:.3f}",
            share,
            f"{rate / 1e9:.0f}",
            "",
            f"{100 * rate / best:.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawn(size: list[int], z_scale: float) -> Any:
    """The scan of `bench_upsample` as a Volume."""
    from bench_upsample import scan

    import CycleINRLib as cycleinr

    values = scan(size)
    geometry = cycleinr.Geometry.from_spacing(values.shape, (0.7 * z_scale, 0.7, 0.7))
    return cycleinr.Volume(values, geometry, "CT", "HU", 0.7 * z_scale, "k")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=[256, 256, 16], metavar=("I", "J", "K"))
    parser.add_argument("--scan", metavar="FILE", help="a scan instead of a drawn one")
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--model", default="light")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--noise", default="auto", help="acquired, renew or remove; auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> str:
    asked = options(argv)
    import torch

    import CycleINRLib as cycleinr
    from CycleINRLib.io import files
    from CycleINRLib.machine import keep_memory

    keep_memory()  # as the command does
    convolve = torch.nn.functional.conv2d  # before it is metered
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder, metered() as meter:
        os.environ["CYCLEINR_CACHE"] = folder  # the speed is measured while warming up, the gain where it is counted
        path = Path(asked.scan or Path(folder) / "scan.nrrd")
        fields = {"z_scale": asked.z_scale, "model": asked.model, "device": "cpu", "precision": asked.precision}
        fields["noise"] = asked.noise
        cycleinr.upsample(drawn([96, 96, 12], asked.z_scale), **fields)  # the first one loads and warms up
        if not asked.scan:
            files.write(drawn(asked.size, asked.z_scale), str(path))
        meter.stages.clear()
        start = time.process_time()
        result = cycleinr.upsample(files.read(str(path)), **fields)
        files.write(result.volume, str(Path(folder) / "out.nrrd"))
        total = time.process_time() - start
        precision = result.report["precision"]
        best = best_rate(getattr(torch, precision), convolve)
        rest = total - sum(stage.seconds for stage in meter.stages.values())
        meter.stages["all else"] = Stage(max(rest, 0.0))
        size = " x ".join(str(n) for n in result.report["input"]["dimensions"])
        text = (
            f"{size} at z-scale {asked.z_scale:g}, {precision}, noise {result.report['noise']}, {asked.threads} threads"
        )
        text += f"; best shape {best / 1e9:.0f} G multiply-adds a second\n\n"
        text += table(meter.stages, total, best)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return text


if __name__ == "__main__":
    print(main())
