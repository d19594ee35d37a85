"""The panel's states and enabling rules."""

from __future__ import annotations

import pytest

from CycleINRLib.errors import Cancelled, CycleINRError, ResourceError
from CycleINRLib.events import Finished, Progress, Warned
from CycleINRLib.panel.readout import Compared
from CycleINRLib.panel.state import APPLY, CANCEL, Panel, State

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
ROW = Compared("Dimensions", "1 × 1 × 2", "1 × 1 × 5", "Number of voxels.")


@pytest.fixture
def a_panel() -> Panel:
    """A panel whose request can run."""
    panel = Panel()
    panel.aim(information=(ROW,))
    return panel


@pytest.fixture
def a_running_panel(a_panel: Panel) -> Panel:
    a_panel.start()
    return a_panel


def test_a_new_panel_says_why_it_cannot_run():
    view = Panel().view()
    assert (view.state, view.button, view.button_enabled) == (State.CANNOT_RUN, APPLY, False)
    assert view.tooltip == view.message == "Choose an input volume."
    assert view.is_problem and view.inputs_enabled and view.percent is None


def test_a_request_that_can_run_enables_apply_and_tells_what_it_gives(a_panel):
    view = a_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.IDLE, APPLY, True)
    assert view.information == (ROW,)
    assert not view.is_problem


def test_a_request_that_cannot_run_shows_the_reason_twice(a_panel):
    a_panel.aim("The volume is already isotropic.", warnings=("Tilted.",))
    view = a_panel.view()
    assert not view.button_enabled
    assert view.tooltip == view.message == "The volume is already isotropic."
    assert view.warnings == ("Tilted.",)


def test_a_running_job_turns_apply_into_cancel_and_locks_the_inputs(a_running_panel):
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.RUNNING, CANCEL, True)
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
    assert (view.state, view.button, view.button_enabled) == (State.CANCELLING, CANCEL, False)
    assert view.message == "Stopping…"
    assert not view.inputs_enabled
    a_running_panel.fail(Cancelled())
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.IDLE, APPLY, True)
    assert view.message == "Stopped; the scene is as it was."
    assert not view.is_problem


def test_a_finished_job_shows_its_figures_and_can_be_repeated(a_running_panel):
    a_running_panel.finish(REPORT, "CT z7")
    view = a_running_panel.view()
    assert (view.state, view.button, view.button_enabled, view.percent) == (State.DONE, APPLY, True, None)
    assert view.message == "Done: CT z7"
    assert view.readout[1].text == "scan 0.110, result 0.123, linear interpolation 0.310"
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
    a_running_panel.aim()
    assert a_running_panel.view().message == ""
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


def test_the_same_request_looked_at_again_leaves_what_is_said_about_the_last_job(a_panel):
    a_panel.aim(request="z4")
    a_panel.start()
    a_panel.finish(REPORT, "CT z7")
    a_panel.aim(information=(ROW,), request="z4")  # such as when the expected time became known
    assert (a_panel.view().message, a_panel.view().information) == ("Done: CT z7", (ROW,))
    a_panel.aim(request="z5")
    assert a_panel.view().message == ""


# --- preview ----------------------------------------------------------------------------------------------------
def test_a_preview_keeps_the_last_readout_and_ends_idle(a_running_panel):
    a_running_panel.finish(REPORT)
    a_running_panel.start_preview()
    assert a_running_panel.view().button == CANCEL and a_running_panel.view().readout
    a_running_panel.hear(Progress("preview", 1, 2))
    assert a_running_panel.view().message == "Preview: 1 of 2"
    a_running_panel.preview_shown()
    view = a_running_panel.view()
    assert (view.state, view.button_enabled, view.preview_enabled) == (State.IDLE, True, True)
    assert view.message.startswith("Preview shown")


def test_preview_is_possible_when_apply_is_and_else_says_why(a_panel):
    assert a_panel.view().preview_enabled and "crosshair" in a_panel.view().preview_tooltip
    a_panel.aim("The volume is already isotropic.")
    assert not a_panel.view().preview_enabled
    assert a_panel.view().preview_tooltip == "The volume is already isotropic."
    a_panel.aim()
    a_panel.start()
    assert not a_panel.view().preview_enabled and "Wait" in a_panel.view().preview_tooltip


# --- adapt ------------------------------------------------------------------------------------------------------
BETTER = {
    "improved": True,
    "held_out": {"slices": 6, "psnr_db": 30.4, "psnr_start_db": 30.0},
    "warnings": ["Slice thickness is estimated."],
}
SAVED = "Adapted model saved. On 6 slices that it never saw, it is 0.4 dB better than before (4.5 % less error)."


@pytest.fixture
def an_adapting_panel(a_panel: Panel) -> Panel:
    a_panel.aim_adapt()
    a_panel.start_adapt()
    return a_panel


def test_adapting_has_a_reason_of_its_own_why_it_cannot_run(a_panel):
    assert not a_panel.view().adapt_enabled and a_panel.view().adapt_tooltip == "Choose an input volume."
    a_panel.aim_adapt("The scan is already isotropic.")
    view = a_panel.view()
    assert (view.adapt_enabled, view.adapt_tooltip) == (False, "The scan is already isotropic.")
    assert view.button_enabled and view.message == ""
    with pytest.raises(CycleINRError):
        a_panel.start_adapt()
    a_panel.aim("The spacing is too fine.")
    a_panel.aim_adapt()
    view = a_panel.view()
    assert view.adapt_enabled and "no thin slices are needed" in view.adapt_tooltip and not view.button_enabled
    a_panel.start_adapt()
    a_panel.adapted(BETTER)
    view = a_panel.view()
    assert (view.state, view.message, view.button_enabled, view.tooltip) == (
        State.DONE, SAVED, False, "The spacing is too fine.",
    )  # fmt: skip


def test_while_adapting_apply_is_cancel_and_all_else_waits(an_adapting_panel):
    view = an_adapting_panel.view()
    assert (view.state, view.button, view.button_enabled) == (State.RUNNING, CANCEL, True)
    assert (view.adapt_enabled, view.preview_enabled, view.inputs_enabled) == (False, False, False)
    assert view.adapt_tooltip == "Wait until the running job ends, or cancel it."
    assert view.tooltip == "Stop, and save no model."
    with pytest.raises(CycleINRError):
        an_adapting_panel.start_adapt()
    for event, text, done in (
        (Progress("synthesize", 1, 4, 30.0), "Building practice volumes: 1 of 4, 30 s left", 25),
        (Progress("adapt", 50, 100, 600.0), "Adapting: 50 of 100, about 10 min left", 50),
        (Progress("self_check", 0, 1), "Checking on acquired slices: 0 of 1", 0),
    ):
        an_adapting_panel.hear(event)
        assert (an_adapting_panel.view().message, an_adapting_panel.view().percent) == (text, done)


def test_a_better_model_is_told_in_words_and_the_line_outlives_the_next_run(an_adapting_panel):
    an_adapting_panel.adapted(BETTER)
    view = an_adapting_panel.view()
    assert (view.state, view.message, view.adapted, view.percent) == (State.DONE, SAVED, "", None)
    assert view.warnings == ("Slice thickness is estimated.",) and view.adapt_enabled and view.button == APPLY
    an_adapting_panel.start()
    assert an_adapting_panel.view().adapted == SAVED
    an_adapting_panel.finish(REPORT, "CT z7")
    assert (an_adapting_panel.view().message, an_adapting_panel.view().adapted) == ("Done: CT z7", SAVED)
    an_adapting_panel.forget()
    assert an_adapting_panel.view().adapted == ""


def test_the_readout_of_the_last_result_stays_while_a_model_is_adapted(a_running_panel):
    a_running_panel.finish(REPORT, "CT z7")
    a_running_panel.aim_adapt()
    a_running_panel.start_adapt()
    a_running_panel.adapted(BETTER)
    assert a_running_panel.view().readout


def test_a_model_that_is_no_better_is_told_as_such(an_adapting_panel):
    an_adapting_panel.adapted({**BETTER, "improved": False})
    view = an_adapting_panel.view()
    assert (view.state, view.is_problem) == (State.DONE, False)
    assert view.message.startswith("The adapted model was no better") and "starting model was kept" in view.message


def test_a_fitted_layer_that_is_refused_is_told_to_be_worse_not_just_no_better(an_adapting_panel):
    held_out = {**BETTER["held_out"], "lines_gain_db": -0.3}
    an_adapting_panel.adapted({"improved": False, "held_out": held_out})
    message = an_adapting_panel.view().message
    assert message.startswith("The fitted model was clearly worse") and message.endswith("starting model was kept.")


@pytest.mark.parametrize(
    ("slices", "gain", "words"),
    [
        (1, 0.25, "On one slice that it never saw, it is 0.2 dB better than before (2.8 % less error)."),
        (9, 0.03, "On 9 slices that it never saw, it is 0.03 dB better than before (0.3 % less error)."),
        (9, 1.96, "On 9 slices that it never saw, it is 2.0 dB better than before (20 % less error)."),
    ],
)
def test_a_gain_is_told_so_that_little_is_not_nothing(an_adapting_panel, slices, gain, words):
    held_out = {"slices": slices, "psnr_db": 30 + gain, "psnr_start_db": 30.0}
    an_adapting_panel.adapted({"improved": True, "held_out": held_out})
    assert an_adapting_panel.view().message.endswith(words)


def test_a_fitted_layer_is_told_with_both_gains_and_their_signs(an_adapting_panel):
    held_out = {"slices": 6, "psnr_db": 29.97, "psnr_start_db": 30.0, "lines_gain_db": 0.214}
    an_adapting_panel.adapted({"improved": True, "held_out": held_out})
    message = an_adapting_panel.view().message
    assert "-0.03 dB (slices" in message and "+0.21 dB (lines" in message


def test_a_cancelled_adaptation_says_that_nothing_was_saved(an_adapting_panel):
    an_adapting_panel.cancel()
    view = an_adapting_panel.view()
    assert (view.state, view.button_enabled, view.adapt_enabled) == (State.CANCELLING, False, False)
    an_adapting_panel.fail(Cancelled())
    view = an_adapting_panel.view()
    assert (view.state, view.message, view.adapt_enabled) == (State.IDLE, "Stopped; no model was saved.", True)
    an_adapting_panel.start()
    assert an_adapting_panel.view().tooltip == "Stop, and leave the scene as it is."


def test_a_failed_adaptation_is_told_and_can_be_repeated(an_adapting_panel):
    for _ in range(2):
        an_adapting_panel.fail(ResourceError("Out of memory", "needs 9 GB", "close other programs"), "log")
        view = an_adapting_panel.view()
        assert (view.state, view.adapt_enabled) == (State.FAILED, True)
        assert view.message == "Out of memory. Found: needs 9 GB. Next: close other programs."
        assert view.details == f"{view.message}\nlog"
        an_adapting_panel.start_adapt()


def test_what_an_earlier_queue_made_is_not_told_again(a_running_panel):
    a_running_panel.finish(REPORT, "CT z7")
    a_running_panel.start_preview()
    a_running_panel.fail(Cancelled())
    assert a_running_panel.view().message == "Stopped; the scene is as it was."
    a_running_panel.start()
    a_running_panel.fail(ResourceError("Out of memory"))
    a_running_panel.start_preview()
    a_running_panel.fail(ResourceError("No disk"))
    assert a_running_panel.view().message == "No disk."


# --- several volumes --------------------------------------------------------------------------------------------
@pytest.fixture
def a_queue(a_panel: Panel) -> Panel:
    a_panel.start(["A", "B", "C"])
    return a_panel


def test_a_queue_tells_whose_turn_it_is_and_ends_after_the_last(a_queue):
    a_queue.hear(Progress("upsample", 1, 2))
    assert a_queue.view().message == "1 of 3, A. Upsampling: 1 of 2"
    for name in ("A z2", "B z2"):
        a_queue.finish(REPORT, name)
        assert a_queue.view().state is State.RUNNING
    assert a_queue.view().message == "3 of 3, C. Starting…"
    a_queue.finish(REPORT, "C z2")
    assert (a_queue.view().state, a_queue.view().message) == (State.DONE, "Done: A z2, B z2, C z2")


def test_a_failure_in_a_queue_is_told_at_the_end_and_the_others_are_made(a_queue):
    a_queue.finish(REPORT, "A z2")
    a_queue.fail(ResourceError("Out of memory", "9 GB"), "line of the log")
    assert a_queue.view().state is State.RUNNING
    a_queue.finish(REPORT, "C z2")
    view = a_queue.view()
    assert (view.state, view.is_problem, view.button_enabled) == (State.FAILED, True, True)
    assert view.message == "Done: A z2, C z2. B: Out of memory. Found: 9 GB."
    assert "line of the log" in view.details


def test_cancel_ends_the_whole_queue_and_names_what_was_made(a_queue):
    a_queue.finish(REPORT, "A z2")
    a_queue.cancel()
    a_queue.fail(Cancelled())
    view = a_queue.view()
    assert (view.state, view.message) == (State.IDLE, "Stopped after A z2.")


def test_a_result_that_came_just_before_the_stop_ends_the_queue(a_queue):
    a_queue.cancel()
    a_queue.finish(REPORT, "A z2")
    assert a_queue.view().state is State.DONE


# --- what stays -------------------------------------------------------------------------------------------------
def test_a_result_of_an_earlier_session_is_read_out_and_forgotten_with_its_scene(a_panel):
    a_panel.recall(REPORT)
    assert a_panel.view().readout and a_panel.view().state is State.IDLE
    a_panel.forget()
    assert a_panel.view().readout == ()


def test_details_are_there_only_while_a_failure_is_shown(a_running_panel):
    a_running_panel.fail(ResourceError("Out of memory"), "Traceback")
    assert a_running_panel.view().details == "Out of memory.\nTraceback"
    a_running_panel.aim(request="other")
    assert a_running_panel.view().details == ""
