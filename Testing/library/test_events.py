"""Events and their JSON lines, there and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from CycleINRLib.errors import ALL_ERRORS, CycleINRError, VolumeError
from CycleINRLib.events import Failed, Finished, Progress, Stopwatch, Warned, from_line, to_line


@given(st.text(), st.integers(0, 10**9), st.integers(0, 10**9), st.none() | st.floats(0, 1e9))
def test_progress_comes_back_from_its_line(stage, done, of, remaining_s):
    event = Progress(stage, done, of, remaining_s)
    line = to_line(event)
    assert "\n" not in line
    assert from_line(line) == event


@pytest.mark.parametrize("event", [Warned("thickness is unknown"), Failed("bad_volume", "What. Found: it", "do this")])
def test_other_events_come_back_from_their_lines(event):
    assert from_line(to_line(event)) == event


def test_a_result_comes_back_with_its_report_and_files():
    back = from_line(to_line(Finished({"snli": {"input": 0.1}}, ("a.nrrd",))))
    assert back.report == {"snli": {"input": 0.1}}
    assert list(back.files) == ["a.nrrd"]


def test_the_line_of_progress_is_that_of_the_contract():
    facts = {"event": "progress", "stage": "upsample", "done": 3, "of": 40, "remaining_s": 12.5}
    assert json.loads(to_line(Progress("upsample", 3, 40, 12.5))) == facts


@pytest.mark.parametrize("line", ["", "hello", "[1]", "null", "{}", '{"event": "nothing"}', '{"event": "progress"}'])
def test_a_line_that_is_no_event_gives_none(line):
    assert from_line(line) is None


def test_a_line_never_holds_a_number_that_json_does_not_know():
    with pytest.raises(ValueError):
        to_line(Finished({"snli": float("nan")}))


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_crosses_as_an_event_and_comes_back_the_same(kind):
    error = kind("Slice spacing is uneven", "10 mm", "export again")
    back = from_line(to_line(Failed.of(error))).to_error()
    assert type(back) is kind
    assert str(back) == str(error)


def test_an_unknown_error_code_comes_back_as_an_error_of_ours():
    assert type(Failed("of_the_future", "what").to_error()) is CycleINRError


def test_an_error_without_evidence_stays_without():
    assert Failed.of(VolumeError("No voxels")).to_error().found == ""


def test_a_stopwatch_counts_to_the_end_and_then_nothing_is_left():
    heard = []
    watch = Stopwatch("upsample", 4, heard.append)
    for _ in range(2):
        watch.step(2)
    assert [event.done for event in heard] == [0, 2, 4]
    assert heard[0].remaining_s is None
    assert heard[-1].remaining_s == 0
