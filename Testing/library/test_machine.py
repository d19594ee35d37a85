"""What is kept between runs, and what is answered from it at once."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import CycleINRLib as cycleinr
from CycleINRLib import machine
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.upsampling.speed import known_speed

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"
HEAVY = ("torch", "matplotlib", "vtk", "scipy")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CYCLEINR_CACHE", str(folder))
    return folder


def info(path) -> tuple[dict, set[str]]:
    """What `cycleinr info` answers, and which heavy packages it loaded."""
    program = (
        "import sys; from CycleINRLib.cli.main import main; status = main(sys.argv[1:]);"
        f"print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, "info", str(path), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), set(done.stderr.splitlines()[-1].split())


def test_info_loads_no_network_and_tells_the_time_once_a_run_has_made_the_table(empty_cache, thick_ct, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "scan.nrrd"
    cycleinr.write(thick_ct, path)
    facts, loaded = info(path)
    assert facts["upsample"]["seconds"] is None and loaded == set()
    cycleinr.upsample(thick_ct, z_scale=2, gain=1.0)
    facts, loaded = info(path)
    assert facts["upsample"]["seconds"] > 0 and loaded == set()


@pytest.mark.parametrize("name", ["CT_abdomen_5mm", "MR_knee_4.3mm"])
def test_info_on_a_clinical_scan_loads_none_of_the_heavy_packages(empty_cache, name):
    """Of so many slices the spectrum is looked at too."""
    assert info(SAMPLES / f"{name}.nrrd")[1] == set()


def test_a_speed_is_that_of_one_size_device_and_precision(empty_cache, thick_ct, tmp_path):
    pytest.importorskip("torch")
    from CycleINRLib.modelcard import ModelCard
    from CycleINRLib.network.model import CONFIGS, CycleINR
    from CycleINRLib.network.weights import save_model

    larger = save_model(
        CycleINR(CONFIGS["base"]), ModelCard("larger", CONFIGS["base"].to_dict()), tmp_path / "l.safetensors"
    )
    cycleinr.upsample(thick_ct, z_scale=2, gain=1.0, device="cpu", precision="float32")
    assert known_speed(UpsampleJob(device="cpu", precision="float32")) is not None
    assert known_speed(UpsampleJob(device="cpu", precision="bfloat16")) is None
    assert known_speed(UpsampleJob(model=str(larger), device="cpu", precision="float32")) is None
    assert known_speed(UpsampleJob(model="no such model")) is None


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(empty_cache, monkeypatch):
    monkeypatch.setattr(machine, "_MOST", 3)
    for n in (1, 2, 3, 1, 4):  # 1 is told again, so 2 is the oldest
        machine.remember("kind", str(n), {"n": n})
    assert [n for n in range(1, 5) if machine.recall("kind", str(n))] == [1, 3, 4]
    assert [path.name for path in empty_cache.iterdir()] == ["kind.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": 3}', '{"key": "text"}'])
def test_a_damaged_file_is_nothing_known(empty_cache, text):
    empty_cache.mkdir()
    (empty_cache / "kind.json").write_text(text)
    assert machine.recall("kind", "key") is None
    machine.remember("kind", "key", {"n": 1})
    assert machine.recall("kind", "key") == {"n": 1}


def test_a_folder_that_cannot_be_made_keeps_nothing_and_says_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for asked in (str(tmp_path / "file" / "cache"), ""):
        monkeypatch.setenv("CYCLEINR_CACHE", asked)
        machine.remember("kind", "key", {"n": 1})
        assert machine.recall("kind", "key") is None


def test_cores_are_those_that_a_control_group_grants(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for quotas, cores in (([], 64), (["max 100000"], 64), (["200000 100000"], 2), (["50000 100000"], 1)):
        monkeypatch.setattr(machine, "_quotas", lambda quotas=quotas: quotas)
        assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    "asked, kept",
    [
        ({}, ["1000", "1", "1"]),
        ({"OMP_WAIT_POLICY": "active"}, ["-", "-", "1"]),
        ({"GOMP_SPINCOUNT": "7", "OPENBLAS_NUM_THREADS": "2"}, ["7", "1", "2"]),
    ],
)
def test_threads_of_the_command_wait_shortly_for_each_other_unless_the_user_says_how(asked, kept):
    """Seen by a process that it starts, as by libraries that it loads; and none of them was loaded before."""
    program = (
        "import os, subprocess, sys; from CycleINRLib.cli import main as command;"
        "command.main = lambda: print('numpy' in sys.modules, 'torch' in sys.modules, flush=True) or subprocess.call("
        "[sys.executable, '-c', 'import os, sys; print(*(os.environ.get(name, chr(45)) for name in sys.argv[1:]))',"
        "*sys.argv[1:]]); sys.exit(command.entry())"
    )
    waits = [*machine.SHORT_WAITS, "OMP_WAIT_POLICY"]
    environment = {name: value for name, value in os.environ.items() if name not in waits} | asked
    done = subprocess.run(
        [sys.executable, "-c", program, *machine.SHORT_WAITS], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["False", "False", *kept], done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("asked, kept", [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_memory_of_freed_arrays_serves_the_next_ones_of_the_command_unless_the_user_says_how(asked, kept):
    program = (
        "import resource, sys; from CycleINRLib.cli import main as command\n"
        "def faults():\n"
        "    import numpy as np\n"
        "    for n in range(11):\n"
        "        if n == 1: first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        np.ones(2**26, np.uint8)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)\n"
        "command.main = faults; sys.exit(command.entry())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | asked)
    assert (int(done.stdout) < 160) == kept, (
        done.stderr
    )  # 320 large pages, or 163,840 small ones, if they are taken anew
