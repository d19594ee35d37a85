"""The peak memory of a report is that of the run itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HELD_MB = 300
CHILD = "from CycleINRLib.upsampling.upsample import peak_memory_mb; print(peak_memory_mb())"
PARENT = f"""
import subprocess, sys
held = b"x" * ({HELD_MB} * 2**20)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system counts the parent's memory as well")
def test_a_child_does_not_report_the_memory_of_the_program_that_started_it():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", PARENT], cwd=root, check=True, capture_output=True, text=True)
    assert 20 < float(done.stdout) < HELD_MB
