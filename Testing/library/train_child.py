"""`cycleinr train` with a tiny network and a line of log for each second step.

python train_child.py [--kill-at N | --bare] train DATA --output FILE ...

`--kill-at N` ends it as a power cut would; `--bare` has no package but torch, numpy and safetensors.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any


def tiny(configuration: Callable[[Namespace], Any]) -> Callable[[Namespace], Any]:
    """The configuration of a short run: states after 5, 10, ... steps, a line of log after each second one."""
    from CycleINRLib.network.model import NetworkConfig
    from CycleINRLib.training.patches import SampleConfig

    parts = {
        "network": NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4),
        "samples": SampleConfig(slices=6, crop=32, margin=4, places=4, z_scale=(1.5, 3.5), cycle=1.0),
        "warmup": 2,
        "save_every": 5,
        "log_every": 2,
        "validate_every": 6,
    }
    return lambda options: dataclasses.replace(configuration(options), **parts)


def kill_after(step: int) -> None:
    """No signal handler, no `finally`: the process is gone once that step is logged."""
    from CycleINRLib.training import loop

    log = loop.log

    def logged(path: Path, at: int, *more: Any) -> None:
        log(path, at, *more)
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.log = logged


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if sys.argv[1] == "--bare":
        del sys.argv[1]
        sys.modules.update(dict.fromkeys(("scipy", "SimpleITK", "pydicom", "vtk", "slicer", "matplotlib")))
    import torch

    from CycleINRLib.cli import train as trainer
    from CycleINRLib.cli.main import main

    torch.set_num_threads(1)
    trainer._configuration = tiny(trainer._configuration)
    words = sys.argv[1:]
    if words[0] == "--kill-at":
        kill_after(int(words[1]))
        words = words[2:]
    sys.exit(main(words))
