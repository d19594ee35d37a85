"""What is asked for: one frozen, checked request that shell, Python and panel build alike (floor 0).

A job travels as JSON, in a file, in a report, or to a child process; `cycleinr run job.json` repeats it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from .errors import RequestError

MAX_Z_SCALE = 16.0
MOST_GAIN = 1.5  # on the network's correction
TOLERANCE = 1e-4  # of a limit: what a spacing in 32-bit floats, or a number of four digits, is off by
_MOST = 1e300
LONGEST_TEXT = 1 << 15
NOISES = {  # as jobs name them -> as people choose them
    "auto": "as the scan allows",
    "renew": "new in each slice",
    "acquired": "as acquired",
    "remove": "removed",
}
CHOICES = {
    "axis": ("auto", "i", "j", "k"),
    "modality": ("auto", "ct", "mr"),
    "profile": ("auto", "box", "gaussian", "skip"),
    "consistency": ("auto", "none", "keep", "project", "exact"),
    "noise": tuple(NOISES),
    "device": ("auto", "cuda", "mps", "cpu"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}
WITHOUT_NEW_NOISE = ("none", "exact")  # consistencies: the first asks nothing of the output, the second everything
LAST_LAYER = "last-layer"  # route: fitted in closed form
ROUTES = ("auto", LAST_LAYER, "in-plane", "synthetic", "direct")
ADAPT_MINUTES = 20.0  # of the routes that train
TWO_STAGES = ("synthetic", "direct")  # routes that make a synthetic volume first
SCRATCH = "scratch"  # instead of a model's name: untrained weights
ADAPT_CHOICES = ("axis", "modality", "profile", "device", "precision")
TARGETS = {"z_scale": "--z-scale", "spacing_mm": "--spacing", "like": "--like"}
NOT_COMPUTING = (
    "input",
    "output",
    "report",
    "picture",
    "difference",
    "self_check",
    "dicom",
    "enhanced",
    "compress",
    "overwrite",
)
AJob = TypeVar("AJob", bound="Job")


@dataclass(frozen=True)
class Job:
    """What all jobs share: they travel as JSON."""

    task: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready, with "task"."""
        return {"task": self.task, **asdict(self)}

    @classmethod
    def from_json(cls: type[AJob], facts: Mapping[str, Any]) -> AJob:
        """Back from `to_json`; an unknown field is a RequestError."""
        if not isinstance(facts, dict):
            raise RequestError("The job is no JSON object", _shown(facts), "write the job with this version")
        if unknown := sorted(set(facts) - cls.names() - {"task"}):
            found, todo = ", ".join(unknown)[:200], "write the job with this version"
            raise RequestError("The job has fields that this version does not know", found, todo)
        return cls.from_options(facts)

    @classmethod
    def from_options(cls: type[AJob], options: Mapping[str, Any], **more: Any) -> AJob:
        """The job that the options of a command or of a function ask for; what is none of its fields is not taken.

        Parameters
        ----------
        more : fields, whatever the options say
        """
        return cls(**{name: value for name, value in {**options, **more}.items() if name in cls.names()})

    @classmethod
    def names(cls) -> set[str]:
        """Of its fields."""
        return {field.name for field in fields(cls)}


@dataclass(frozen=True)
class UpsampleJob(Job):
    """One upsampling; without z_scale, spacing_mm or like the target is isotropic.

    Raises
    ------
    RequestError : a value outside its range, or two targets at once
    """

    task: ClassVar[str] = "upsample"

    input: str | None = None  # path of the source; None where the caller holds a Volume
    output: str | None = None  # path of the result
    z_scale: float | None = None  # source spacing / target spacing along the slice axis, > 1, <= 16
    spacing_mm: float | None = None  # target spacing along the slice axis
    like: str | None = None  # path of a reference whose grid is filled
    axis: str = "auto"
    model: str = "auto"  # a name (light) or a .safetensors file
    modality: str = "auto"
    series: str | None = None  # DICOM series instance UID
    frame: int | None = None  # which volume of a 4D file
    thickness_mm: float | None = None  # overrides the source's slice thickness
    profile: str = "auto"
    consistency: str = "auto"
    noise: str = "auto"  # new in each slice, as acquired, or removed; auto: new where the split is believed
    texture: float | None = None  # what jobs held before `noise`: 0 is acquired, anything else renew
    gain: float | None = None  # on the network's correction, 0 to 1.5; None: fitted on dropped slices of the scan
    device: str = "auto"
    precision: str = "auto"
    report: str | None = None
    picture: str | None = None
    region: tuple[tuple[int, int], ...] | None = None  # what is computed: first and last voxel + 1 along k, j, i
    difference: str | None = None  # path of a volume: what was taken from the acquired slices as noise
    self_check: bool = False
    dicom: bool = False
    enhanced: bool = False  # with dicom: one multi-frame file
    compress: bool = False  # with dicom: RLE lossless
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_z_scale(self.z_scale)  # first: it says what to do in the words of a command
        if isinstance(self.region, (list, tuple)):  # lists, as JSON has it
            pairs = (tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in self.region)
            object.__setattr__(self, "region", tuple(pairs))
        _check_kinds(self)
        _check_choices(self, CHOICES)
        if (self.enhanced or self.compress) and not self.dicom:
            found = "--enhanced" if self.enhanced else "--compress"
            raise RequestError("Only DICOM output has that form", found, "add --dicom, or leave it out")
        asked = [TARGETS[name] for name in TARGETS if getattr(self, name) is not None]
        if len(asked) > 1:
            raise RequestError("Only one target can be asked for", " and ".join(asked), "keep one of them")
        for name in ("spacing_mm", "thickness_mm"):
            _check_length(name, getattr(self, name))
        if self.texture is not None and not (is_number(self.texture) and -1 <= self.texture <= 1):
            raise RequestError("texture must lie between -1 and 1", repr(self.texture), "ask for a noise instead")
        if self.texture is not None and self.noise == "auto":
            kept = self.texture == 0 or self.consistency in WITHOUT_NEW_NOISE
            object.__setattr__(self, "noise", "acquired" if kept else "renew")
        if self.noise == "renew" and self.consistency in WITHOUT_NEW_NOISE:
            found = f"--noise renew --consistency {self.consistency}"
            raise RequestError("New noise needs acquired slices that are kept or projected", found, "leave one out")
        if self.gain is not None and not (is_number(self.gain) and 0 <= self.gain <= MOST_GAIN):
            what = f"gain must lie between 0 and {MOST_GAIN:g}"
            raise RequestError(what, repr(self.gain), "give 1 for the network as it is")
        if self.frame is not None and (not isinstance(self.frame, int) or self.frame < 0):
            raise RequestError("frame must be a whole number from 0", _shown(self.frame), "count volumes from 0")

    def computing(self) -> dict[str, Any]:
        """The fields that say how to compute, without paths and what belongs to a whole volume."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_COMPUTING}

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready, with "task"; `noise` tells what `texture` meant."""
        return {name: value for name, value in super().to_json().items() if name != "texture"}


@dataclass(frozen=True)
class AdaptJob(Job):
    """One adaptation of a model to scans that have no thin-slice truth.

    Raises
    ------
    RequestError : a value outside its range
    """

    task: ClassVar[str] = "adapt"

    inputs: tuple[str, ...] = ()  # paths of the scans; empty where the caller holds Volumes
    output: str | None = None  # path of the adapted model
    model: str = "auto"  # the starting weights: a name (light), a .safetensors file, or "scratch"
    route: str = "auto"  # what learns, and from which pairs: last-layer, or in-plane where minutes or steps are given
    minutes: float | None = None  # of all stages together; None: ADAPT_MINUTES of a route that trains
    steps: int | None = None  # of the network, instead of minutes
    axis: str = "auto"
    modality: str = "auto"
    thickness_mm: float | None = None  # overrides the sources' slice thickness
    profile: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    resume: bool = False  # go on where an earlier run into the same output stopped
    overwrite: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.inputs, list):  # as JSON has it
            object.__setattr__(self, "inputs", tuple(self.inputs))
        _check_kinds(self)
        _check_choices(self, {"route": ROUTES, **{name: CHOICES[name] for name in ADAPT_CHOICES}})
        if self.minutes is not None and not (is_number(self.minutes) and 0 < self.minutes <= 10_000):
            raise RequestError("minutes must be above 0", repr(self.minutes), "give a number such as 20")
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise RequestError("steps must be a whole number from 1", repr(self.steps), "leave it out, or give 300")
        if self.route == LAST_LAYER and (self.minutes is not None or self.steps is not None):
            what = "The last layer is fitted at once, not in minutes or steps"
            raise RequestError(what, f"route {LAST_LAYER}", "leave them out, or choose the route in-plane")
        if self.precision == "float16":
            raise RequestError("Nothing is learned in float16", self.precision, "choose auto, float32 or bfloat16")
        _check_length("thickness_mm", self.thickness_mm)

    def settled(self, precision: str) -> AdaptJob:
        """The same with nothing left to "auto" in route and precision, and with the minutes of a route that trains."""
        asked = self.minutes is not None or self.steps is not None or self.model == SCRATCH
        route = ("in-plane" if asked else LAST_LAYER) if self.route == "auto" else self.route
        timed = route != LAST_LAYER and self.minutes is None and self.steps is None
        return replace(self, route=route, precision=precision, minutes=ADAPT_MINUTES if timed else self.minutes)


def _check_choices(job: Any, choices: dict[str, tuple[str, ...]]) -> None:
    for name, allowed in choices.items():
        if getattr(job, name) not in allowed:
            raise RequestError(f"{name} is unknown", _shown(getattr(job, name)), f"choose one of {', '.join(allowed)}")


def _check_length(name: str, value: Any) -> None:
    if value is not None and not (is_number(value) and 0 < value < 1000):
        raise RequestError(f"{name} must be a length in mm above 0", _shown(value), "give a number such as 1.0")


JOBS: dict[str, type[Job]] = {job.task: job for job in (UpsampleJob, AdaptJob)}


def read_job(text: str) -> Job:
    """The job of a job file's text, or the one of a report's, which tells it under "job".

    Raises
    ------
    RequestError : no JSON, no such task, or what the job itself refuses
    """
    facts = read_task(text)
    if facts["task"] not in JOBS:
        raise RequestError("The task is unknown", _shown(facts["task"]), f"choose one of {', '.join(JOBS)}")
    return JOBS[facts["task"]].from_json(facts)


def read_task(text: str) -> dict[str, Any]:
    """A JSON object with "task", in words; that under "job" where the object itself, a report, has none."""
    try:
        facts = parse_json(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            "The job is not JSON", str(error), "repeat a job from a report or write it with this version"
        ) from error
    if isinstance(facts, dict) and "task" not in facts:
        facts = facts.get("job")
    if not isinstance(facts, dict) or "task" not in facts:
        raise RequestError("The job names no task", text[:60], 'add "task": "upsample"')
    if not isinstance(facts["task"], str):
        raise RequestError("The task is unknown", _shown(facts["task"]), "name one in words")
    return facts


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def check_z_scale(z_scale: float | None) -> None:
    """None, or a finite number with 1 < z_scale <= 16; anything else is a RequestError."""
    if z_scale is None:
        return
    if not is_number(z_scale):
        raise RequestError("The z-scale is no number", _shown(z_scale), "give a number such as 4 or 3.5")
    if z_scale <= 1:
        raise RequestError("The z-scale must be above 1", f"{z_scale:g}", "give a number such as 4 or 3.5")
    if z_scale > MAX_Z_SCALE * (1 + TOLERANCE):
        raise RequestError(
            f"The z-scale must not be above {MAX_Z_SCALE:g}", f"{z_scale:g}", f"give at most {MAX_Z_SCALE:g}"
        )


def parse_json(text: str | bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """`json.loads`, of which whatever goes wrong is a ValueError, brackets that are nested too deeply included."""
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def is_number(value: Any) -> bool:
    """A finite number of sensible size: an integer of 400 digits, which JSON allows, is no float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST


def is_text(value: Any) -> bool:
    """A text that a path or a DICOM value may be: no null, nothing that no file system can hold."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return len(value) < LONGEST_TEXT


def _is_region(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 3 or not all(isinstance(p, tuple) and len(p) == 2 for p in value):
        return False
    whole = all(isinstance(n, int) and is_number(n) for pair in value for n in pair)
    return whole and all(0 <= first < last for first, last in value)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: is_text(value) or isinstance(value, os.PathLike)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: is_number(value) and isinstance(value, int)),
    "float": ("a finite number", is_number),
    "tuple[tuple[int, int], ...]": ("three pairs of whole numbers, first and last + 1", _is_region),
    "tuple[str, ...]": ("a list of texts", lambda value: isinstance(value, tuple) and all(map(is_text, value))),
}


def _check_kinds(job: Any) -> None:
    """Each field is of the kind that it is declared with."""
    for field in fields(job):
        kind, _, optional = str(field.type).partition(" | ")
        value, (right, fits) = getattr(job, field.name), _KINDS[kind]
        if not (value is None and optional) and not fits(value):
            raise RequestError(f"{field.name} must be {right}", _shown(value), f"give {right}")


def _shown(value: Any) -> str:
    """The value as a message shows it; Python refuses to print very long integers."""
    return (
        f"an integer of {value.bit_length()} bits"
        if isinstance(value, int) and abs(value) > _MOST
        else repr(value)[:60]
    )
