"""The panel's states, texts and enabling rules."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from CycleINRLib.errors import Cancelled, CycleINRError, ResourceError
from CycleINRLib.events import Finished, Progress, Warned
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.panel import Panel, State, duration, outlook, percent, progress_text, readout, size

REPORT = {
    "output": {"dimensions": [512, 512, 197], "spacing_mm": [0.7, 0.7, 0.714]},
    "snli": {"input": 0.11, "output": 0.1234, "linear": 0.31},
    "noise_ratio": 0.934,
    "generated_gap": -0.02,
    "consistency": "project",
    "consistency_error": 0.21,
    "model": {"name": "light"},
    "device": "cpu",
    "seconds": 71.4,
    "warnings": ["Slice thickness is unknown."],
}


@pytest.fixture
def a_panel() -> Panel:
    """A panel whose request can run."""
    panel = Panel()
    panel.aim(outlook="Result: 5 voxels.")
    return panel


@pytest.fixture
def a_running_panel(a_panel: Panel) -> Panel:
    a_panel.start()
    return a_panel


def test_a_new_panel_says_why_it_cannot_run():
    view = Panel().view()
    assert (view.state, view.button, view.button_enabled) == (State.CANNOT_RUN, "Apply", False)
    assert view.tooltip == view.message == "Choose an input volume."
    assert view.is_problem and view.inputs_enabled and view.percent is None


def test_a_request_that_can_run_enables_apply_and_tells_what_it_gives(a_panel):
    view = a_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.IDLE, "Apply", True)
    assert view.message == "Result: 5 voxels."
    assert not view.is_problem


def test_a_request_that_cannot_run_shows_the_reason_twice(a_panel):
    a_panel.aim("The volume is already isotropic.", warnings=("Tilted.",))
    view = a_panel.view()
    assert not view.button_enabled
    assert view.tooltip == view.message == "The volume is already isotropic."
    assert view.warnings == ("Tilted.",)


def test_a_running_job_turns_apply_into_cancel_and_locks_the_inputs(a_running_panel):
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.RUNNING, "Cancel", True)
    assert not view.inputs_enabled
    assert view.percent == 0
    assert "leave the scene as it is" in view.tooltip


def test_progress_and_warnings_are_shown_as_they_come(a_running_panel):
    a_running_panel.hear(Progress("upsample", 3, 40, 125.0))
    a_running_panel.hear(Warned("Slice thickness is unknown."))
    a_running_panel.hear(Finished())
    view = a_running_panel.view()
    assert view.message == "Upsampling: 3 of 40, about 2 min left"
    assert view.percent == 8
    assert view.warnings == ("Slice thickness is unknown.",)


def test_cancel_waits_for_the_child_and_cannot_be_pressed_again(a_running_panel):
    a_running_panel.cancel()
    a_running_panel.hear(Progress("upsample", 4, 40, 10.0))
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.CANCELLING, "Cancel", False)
    assert view.message == "Stopping…"
    assert not view.inputs_enabled
    a_running_panel.fail(Cancelled())
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.IDLE, "Apply", True)
    assert view.message == "Stopped; the scene is as it was. Result: 5 voxels."
    assert not view.is_problem


def test_a_finished_job_shows_its_figures_and_can_be_repeated(a_running_panel):
    a_running_panel.finish(REPORT, "CT z7")
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled, view.percent) == (State.DONE, "Apply", True, None)
    assert view.message == "Done: CT z7"
    assert dict(view.readout)["SNLI"] == "input 0.110, result 0.123, linear interpolation 0.310"
    assert view.warnings == ("Slice thickness is unknown.",)
    a_running_panel.start()
    assert a_running_panel.view().readout == ()


def test_the_figures_stay_when_the_request_changes(a_running_panel):
    a_running_panel.finish(REPORT)
    a_running_panel.aim("The z-scale must be above 1.")
    view = a_running_panel.view()
    assert view.state is State.CANNOT_RUN
    assert view.message == "The z-scale must be above 1."
    assert view.readout


def test_a_failed_job_shows_the_error_and_can_be_repeated(a_running_panel):
    a_running_panel.fail(ResourceError("Out of memory", "needs 9 GB", "crop the volume"))
    view = a_running_panel.view()
    assert (view.state, view.button_enabled, view.is_problem) == (State.FAILED, True, True)
    assert view.message == "Out of memory. Found: needs 9 GB. Next: crop the volume."
    a_running_panel.aim(outlook="Other.")
    assert a_running_panel.view().message == "Other."
    assert not a_running_panel.view().is_problem


def test_an_error_without_words_is_named(a_running_panel):
    a_running_panel.fail(MemoryError())
    assert a_running_panel.view().message == "MemoryError"


def test_a_change_while_running_waits_for_the_end(a_running_panel):
    a_running_panel.aim("Choose an input volume.")
    assert a_running_panel.view().state is State.RUNNING
    a_running_panel.stop("The input was removed.")
    view = a_running_panel.view()
    assert (view.state, view.button_enabled) == (State.CANNOT_RUN, False)
    assert view.message == "The input was removed. Choose an input volume."


def test_two_jobs_at_once_are_refused(a_running_panel):
    with pytest.raises(CycleINRError, match="started twice"):
        a_running_panel.start()


def test_a_job_that_cannot_run_is_not_started():
    with pytest.raises(CycleINRError):
        Panel().start()


def test_late_events_change_nothing(a_running_panel):
    a_running_panel.finish(REPORT)
    before = a_running_panel.view()
    a_running_panel.hear(Progress("upsample", 1, 2))
    a_running_panel.hear(Warned("late"))
    a_running_panel.cancel()
    assert a_running_panel.view() == before


def test_progress_is_percent_of_the_stage():
    assert [percent(Progress("x", *steps)) for steps in ((0, 4), (1, 4), (4, 4), (5, 4), (1, 0))] == [
        0,
        25,
        100,
        100,
        0,
    ]


def test_texts_of_time_and_size_are_rounded_for_people():
    assert [duration(s) for s in (-1, 0.4, 99, 130, 5399, 9000)] == [
        "0 s",
        "0 s",
        "99 s",
        "about 2 min",
        "about 90 min",
        "about 2.5 h",
    ]
    assert [size(mb) for mb in (0.01, 2.53, 12.4, 999, 1400)] == ["0.1 MB", "2.5 MB", "12 MB", "999 MB", "1.4 GB"]
    assert progress_text(Progress("fetch_model", 1, 2)) == "Fetch model: 1 of 2"
    assert progress_text(Progress("upsample", 2, 2, 0.0)) == "Upsampling: 2 of 2, finishing…"


def test_the_outlook_names_grid_memory_and_time():
    @dataclass
    class Plan:
        target = Geometry.from_spacing((197, 512, 512), (0.714, 0.7, 0.7))
        z_scale, output_mb, memory_mb, seconds = 7.0, 103.0, 1400.0, 130.0

    words = "Result: 512 × 512 × 197 voxels of 0.7 × 0.7 × 0.714 mm (z-scale 7), 103 MB, needs 1.4 GB of memory"
    assert outlook(Plan()) == f"{words}, about 2 min."
    plan = Plan()
    plan.seconds = None
    assert outlook(plan) == f"{words}."


def test_the_readout_says_what_was_measured_and_no_more():
    assert dict(readout(REPORT)) == {
        "Size": "512 × 512 × 197 voxels of 0.7 × 0.7 × 0.714 mm",
        "SNLI": "input 0.110, result 0.123, linear interpolation 0.310",
        "Noise of the result": "93 % of the acquired slices",
        "Generated gap": "-0.020",
        "Consistency": "project, error 0.210 of the noise",
        "Computed by": "light on cpu in 71 s",
    }
    assert readout({}) == ()
    assert dict(readout({"snli": {"input": 0.1, "output": None}, "noise_ratio": None})) == {"SNLI": "input 0.100"}
