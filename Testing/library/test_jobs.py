"""The upsample job: what it refuses, and that JSON repeats it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from CycleINRLib.errors import RequestError
from CycleINRLib.jobs import (
    ADAPT_MINUTES,
    CHOICES,
    LAST_LAYER,
    MAX_Z_SCALE,
    ROUTES,
    WITHOUT_NEW_NOISE,
    AdaptJob,
    UpsampleJob,
    check_z_scale,
    read_job,
)

WORDS = {name: st.sampled_from(words) for name, words in CHOICES.items()}


@given(
    z_scale=st.none() | st.floats(1, MAX_Z_SCALE, exclude_min=True),
    thickness_mm=st.none() | st.floats(0.01, 999),
    gain=st.none() | st.floats(0, 1.5),
    frame=st.none() | st.integers(0, 1000),
    **WORDS,
)
def test_a_job_comes_back_from_json_equal(**facts):
    assume(facts["noise"] != "renew" or facts["consistency"] not in WITHOUT_NEW_NOISE)
    job = UpsampleJob(**facts)
    text = json.dumps(job.to_json())
    assert read_job(text) == job
    assert read_job(json.dumps({"snli": {}, "job": job.to_json()})) == job  # a report


@given(
    inputs=st.lists(st.from_regex(r"[\w /.-]+", fullmatch=True)).map(tuple),
    minutes=st.none() | st.floats(0.1, 100),
    steps=st.none() | st.integers(1, 1000),
    route=st.sampled_from([route for route in ROUTES if route != LAST_LAYER]),
    seed=st.integers(0, 99),
)
def test_the_job_of_an_adaptation_comes_back_from_json_equal(**facts):
    job = AdaptJob(**facts)
    assert read_job(json.dumps(job.to_json())) == job


def test_auto_fits_the_last_layer_and_trains_where_time_is_given():
    def asked(**options):
        settled = AdaptJob(**options).settled("float32")
        assert settled.precision == "float32" and settled.settled("float32") == settled
        return settled.route, settled.minutes

    assert asked() == (LAST_LAYER, None)
    assert asked(minutes=3.0) == ("in-plane", 3.0) and asked(steps=9) == ("in-plane", None)
    assert asked(model="scratch") == ("in-plane", ADAPT_MINUTES) and asked(route="synthetic") == (
        "synthetic",
        ADAPT_MINUTES,
    )


@pytest.mark.parametrize("time", [{"minutes": 5.0}, {"steps": 5}])
def test_time_for_a_layer_that_takes_none_is_refused(time):
    with pytest.raises(RequestError, match="fitted at once"):
        AdaptJob(route=LAST_LAYER, **time)


def test_a_job_takes_its_fields_from_options_and_nothing_else():
    options = {"input": "a.nrrd", "z_scale": 3, "json": True, "quiet": False, "route": "direct"}
    assert UpsampleJob.from_options(options, z_scale=4) == UpsampleJob(input="a.nrrd", z_scale=4)
    assert AdaptJob.from_options({"inputs": ["a"], **options}) == AdaptJob(inputs=("a",), route="direct")


@given(st.floats(1, MAX_Z_SCALE, exclude_min=True))
def test_every_z_scale_above_one_up_to_the_limit_is_taken(z_scale):
    check_z_scale(z_scale)


@pytest.mark.parametrize("z_scale", [1, 0, -2, 0.5, 16.01, 100, math.nan, math.inf, "four", True, [4]])
def test_a_z_scale_outside_its_range_or_no_number_is_refused(z_scale):
    with pytest.raises(RequestError):
        UpsampleJob(z_scale=z_scale)


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_an_unknown_word_is_refused_and_the_choices_are_named(name):
    with pytest.raises(RequestError) as caught:
        UpsampleJob(**{name: "nonsense"})
    assert all(word in caught.value.next for word in CHOICES[name])


@pytest.mark.parametrize(
    "facts",
    [
        {"z_scale": 4, "spacing_mm": 1},
        {"spacing_mm": 1, "like": "a.nrrd"},
        {"spacing_mm": 0},
        {"spacing_mm": math.nan},
        {"thickness_mm": -1},
        {"thickness_mm": "5"},
        {"texture": 1.1},
        {"texture": -1.1},
        {"texture": "much"},
        {"frame": -1},
        {"frame": 1.5},
    ],
)
def test_a_contradiction_or_an_impossible_length_is_refused(facts):
    with pytest.raises(RequestError):
        UpsampleJob(**facts)


def test_a_job_with_a_field_of_another_version_is_refused_by_name():
    with pytest.raises(RequestError, match="sharpness"):
        UpsampleJob.from_json({"task": "upsample", "sharpness": 3})


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '"upsample"', '{"job": 3}', '{"task": "cook"}'])
def test_a_text_that_is_no_job_is_refused(text):
    with pytest.raises(RequestError):
        read_job(text)
