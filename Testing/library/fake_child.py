"""A child process that plays a part: `fake_child.py PART FOLDER`. It needs the standard library alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def say(**facts):
    print(json.dumps(facts), flush=True)


def success(folder):
    say(event="progress", stage="upsample", done=1, of=2, remaining_s=0.5)
    say(event="warning", message="Slice thickness is unknown: schwarze Übergänge möglich")
    say(event="progress", stage="upsample", done=2, of=2, remaining_s=0.0)
    (folder / ".result.json").write_text(json.dumps({"report": {"snli": {"input": 0.1}}}), encoding="utf-8")
    os.replace(folder / ".result.json", folder / "result.json")
    say(event="result", report={"snli": {"input": 0.1}}, files=["output.npy"])


def refusal(folder):
    say(event="error", code="bad_weights", message="There is no such model. Found: heavy", hint="choose light")
    sys.exit(4)


def crash(folder):
    print("first line", file=sys.stderr)
    print("ImportError: no module named torch", file=sys.stderr)
    sys.exit(1)


def suicide(folder):
    print("allocating", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def launcher_137(folder):
    sys.exit(137)


def silence(folder):
    time.sleep(0.3)


def patient(folder):
    """Asks the product's own stop sign once `alive` is stale, and leaves its answer as the report."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from CycleINRLib.child import folder as protocol

    protocol.STALE_S, end = 0.5, time.monotonic() + 60
    while time.time() - (folder / "alive").stat().st_mtime < 2 * protocol.STALE_S and time.monotonic() < end:
        time.sleep(0.05)
    facts = {"was_stale": time.monotonic() < end, "stops": protocol.StopSign(folder)()}
    (folder / "result.json").write_text(json.dumps({"report": facts}), encoding="utf-8")


def half_a_result(folder):
    (folder / "result.json").write_text('{"report": ', encoding="utf-8")


def garbage(folder):
    sys.stdout.buffer.write(b"\xff\xfe not utf-8\n[1, 2]\nnull\n" + b'{"event": "progress"}\n{"event": "party"}\n')
    sys.stdout.buffer.flush()
    success(folder)


def chatter(folder):
    for n in range(20000):
        print("x" * 100, n, file=sys.stderr)
    success(folder)


def obedient(folder):
    say(event="progress", stage="upsample", done=0, of=9)
    while not (folder / "cancel").exists():
        time.sleep(0.02)
    say(event="error", code="cancelled", message="Cancelled", hint="")
    sys.exit(130)


def stubborn(folder):
    """Ignores `cancel` and has a child of its own, as a launcher does."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "pids").write_text(f"{os.getpid()} {grandchild.pid}", encoding="utf-8")
    say(event="progress", stage="upsample", done=0, of=9)
    time.sleep(600)


def orphan_maker(folder):
    """Ends well, but leaves a process behind that holds the pipes open."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "pids").write_text(f"{grandchild.pid}", encoding="utf-8")
    success(folder)


def environment(folder):
    facts = {name: os.environ.get(name) for name in ("PYTHONIOENCODING", "CYCLEINR_TEST", "PATH")}
    (folder / "result.json").write_text(json.dumps({"report": facts}), encoding="utf-8")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
