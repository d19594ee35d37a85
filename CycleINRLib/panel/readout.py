"""What the panel says in words and figures: the volume table, the readout of a report, progress (floor 1; no Qt).

Every row carries a tooltip for a reader who knows images and not networks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import RequestError
from ..events import Progress
from .translate import tr as _

STAGES = {  # as events name them -> as people read them
    "upsample": _("Upsampling"),
    "read": _("Reading the scan"),
    "measure": _("Measuring the noise"),
    "preview": _("Preview"),
    "difference": _("Separating noise from signal"),
    "self_check": _("Checking on acquired slices"),
    "synthesize": _("Building practice volumes"),
    "adapt": _("Adapting"),
}
NOISE_TEXTS = {"renew": _("new in each slice"), "acquired": _("as acquired"), "remove": _("removed")}
SHORT_MM = 3  # significant digits of a spacing


class Row(NamedTuple):
    """One figure of a report."""

    label: str
    text: str
    tip: str


class Compared(NamedTuple):
    """One fact of the scan beside that of the result."""

    label: str
    input: str
    output: str
    tip: str


# --- short texts ------------------------------------------------------------------------------------------------
def percent(event: Progress) -> int:
    """Of the stage, 0 to 100."""
    return 0 if event.of <= 0 else max(0, min(100, round(100 * event.done / event.of)))


def progress_text(event: Progress) -> str:
    """`Upsampling: 3 of 40, about 2 min left`; after the last step the noise is measured, which has no steps."""
    stage = STAGES.get(event.stage, event.stage.replace("_", " ").capitalize())
    if event.done >= event.of:
        return _("{stage}: {done} of {of}, finishing…").format(stage=stage, done=event.done, of=event.of)
    if event.remaining_s is None:
        return _("{stage}: {done} of {of}").format(stage=stage, done=event.done, of=event.of)
    text = _("{stage}: {done} of {of}, {time} left")
    return text.format(stage=stage, done=event.done, of=event.of, time=duration(event.remaining_s))


def duration(seconds: float) -> str:
    """`12 s`, `about 3 min`, `about 1.5 h`."""
    if seconds < 100:
        return f"{max(0, seconds):.0f} s"
    if seconds < 5400:
        return _("about {minutes:.0f} min").format(minutes=seconds / 60)
    return _("about {hours:.1f} h").format(hours=seconds / 3600)


def size(mb: float) -> str:
    """`2.5 MB`, `640 MB`, `1.4 GB`."""
    if mb < 10:
        return f"{max(mb, 0.1):.1f} MB"
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"


def counts(dimensions: Any) -> str:
    """`512 × 512 × 197`, in the order given."""
    return " × ".join(str(n) for n in dimensions)


def lengths(spacing_mm: Any) -> str:
    """`0.7 × 0.7 × 0.714`, in the order given."""
    return " × ".join(f"{mm:.{SHORT_MM}g}" for mm in spacing_mm)


def adapted_text(report: dict[str, Any]) -> str:
    """What came of an adaptation, for a reader who knows images and not networks.

    Parameters
    ----------
    report : of tasks.adapt: "improved", and "held_out" with "slices", "psnr_db", "psnr_start_db" and, of a last layer
        alone, "lines_gain_db"
    """
    held = report.get("held_out") or {}
    lines_db = held.get("lines_gain_db")
    if not report["improved"]:
        if lines_db is not None:
            return _("The fitted model was clearly worse on what it never saw, so the starting model was kept.")
        return _("The adapted model was no better on slices it never saw, so the starting model was kept.")
    gain, slices = held["psnr_db"] - held["psnr_start_db"], held["slices"]
    if lines_db is not None:
        text = _(
            "Adapted model saved: its last layer fits these scans. Compared with before, on what it never saw: "
            "{gain} dB (slices twice as far apart) and {lines} dB (lines within slices)."
        )
        return text.format(gain=f"{gain:+.2f}", lines=f"{lines_db:+.2f}")
    one = _(
        "Adapted model saved. On one slice that it never saw, it is {gain} dB better than before ({less} % less error)."
    )
    many = _(
        "Adapted model saved. On {slices} slices that it never saw, it is {gain} dB better than before "
        "({less} % less error)."
    )
    return (one if slices == 1 else many).format(
        slices=slices, gain=_rounded(gain), less=_rounded(100 * (1 - 10 ** (-gain / 20)))
    )


def _rounded(value: float) -> str:
    """One digit behind the point above 0.1, else two, so that a small gain is not told as none; 5 and more: whole."""
    return f"{value:.0f}" if value >= 5 else f"{value:.1f}" if value >= 0.095 else f"{value:.2f}"


# --- before ------------------------------------------------------------------------------------------------------
def region_text(volume: Any, plan: Any, seconds: float | None = None) -> str:
    """`80 × 90 × 60 mm, 8 s`: the part of the scan inside a region, and the time for it.

    Parameters
    ----------
    volume : imaging.volume.Volume, the part
    plan : upsampling.plan.Plan of it
    seconds : None while it is not known
    """
    sides = [count * mm for count, mm in zip(volume.geometry.shape, volume.spacing_mm)]
    text = _("{sides} mm").format(sides=" × ".join(f"{mm:.0f}" for mm in sides[::-1]))
    return text if seconds is None else f"{text}, {duration(seconds)}"


def information(
    volume: Any, plan: Any, seconds: float | None = None, name: str = "", region: str = "", frames: int = 1
) -> tuple[Compared, ...]:
    """The scan beside what Apply would make of it.

    Parameters
    ----------
    volume : imaging.volume.Volume, the scan, values (K, J, I)
    plan : tasks.aim.Plan of that scan
    seconds : what computing takes on this machine, None while it is not known
    name : of the volume that the result goes to
    region : `region_text` where only a part is computed
    frames : how many a sequence has
    """
    thickness = min(dict(zip("kji", plan.target.spacing_mm))[plan.axis], plan.thickness_mm)
    time = _("not known yet") if seconds is None else duration(seconds)
    acquired = _("{mm:.3g} mm") if volume.thickness_mm else _("{mm:.3g} mm (assumed)")
    beside = []
    if name:
        tip = _("The result is a new volume, or the one that you chose as output.")
        beside.append(Compared(_("Name"), volume.name, name, tip))
    if region:
        beside.append(Compared(_("Region"), region, "", _("Only this part of the scan is computed.")))
    if frames > 1:
        beside.append(Compared(_("Frames"), str(frames), str(frames), _("Each frame of the sequence is computed.")))
    return (
        *beside,
        Compared(
            _("Dimensions"),
            counts(volume.geometry.shape[::-1]),
            counts(plan.target.shape[::-1]),
            _("Number of voxels along columns, rows and slices."),
        ),
        Compared(
            _("Spacing (mm)"),
            lengths(volume.spacing_mm[::-1]),
            lengths(plan.target.spacing_mm[::-1]),
            _("Distance from one voxel center to the next. Slices become {z:.4g} times denser (z-scale).").format(
                z=plan.z_scale
            ),
        ),
        Compared(
            _("Slice thickness"),
            acquired.format(mm=plan.thickness_mm),
            f"{thickness:.3g} mm",
            _(
                "Depth of tissue that one slice averages over. Not the same as the distance of slices: thinner slices "
                "leave gaps, thicker ones overlap."
            ),
        ),
        Compared(
            _("Volume size"),
            size(volume.values.nbytes / 1e6),
            size(plan.output_mb),
            _("Memory that the voxels take in Slicer."),
        ),
        Compared(
            _("Working memory"),
            "",
            size(plan.memory_mb),
            _("Most main memory that computing takes, beside Slicer itself."),
        ),
        Compared(
            _("Expected time"),
            "",
            time,
            _("From the first run that computed on this computer; until then it is not known."),
        ),
    )


# --- after -------------------------------------------------------------------------------------------------------
def readout(report: dict[str, Any]) -> tuple[Row, ...]:
    """The figures of a report (design section 4.5); what was not measured is left out."""
    rows = (
        Row(
            _("Size"),
            _size_text(report.get("output") or {}),
            _("Voxels of the result and the distance of their centers."),
        ),
        Row(_("SNLI"), _three(report.get("snli") or {}), SNLI_TIP),
        Row(
            _("Noise of the result"),
            _percent_text(report.get("noise_ratio"), _("{percent:.0f} % of the acquired slices")),
            RATIO_TIP,
        ),
        Row(_("Generated gap"), _gap_text(report.get("generated_gap")), GAP_TIP),
        Row(_("Self-check"), _check_text(report.get("self_check") or {}), CHECK_TIP),
        Row(_("Correction used"), _percent_text(report.get("gain"), _("{percent:.0f} % of the network's")), GAIN_TIP),
        Row(_("Consistency"), _consistency_text(report), CONSISTENCY_TIP),
        Row(_("Noise"), NOISE_TEXTS.get(str(report.get("noise")), ""), NOISE_TIP),
        Row(_("Grain"), _grain_text(report), GRAIN_TIP),
        Row(_("Computed by"), _computed_text(report), _("The network, where it ran, and how long it took.")),
    )
    return tuple(row for row in rows if row.text)


SNLI_TIP = _(
    "Slice-wise noise level inconsistency: how much the noise goes up and down from slice to slice. 0: every slice is "
    "equally noisy. Anatomy alone gives real scans 0.1 to 0.2, so compare the result with the scan, not with 0. Linear "
    "interpolation blurs the slices between, which shows as bands in coronal and sagittal views."
)
RATIO_TIP = _(
    "100 %: the grain of the scan was kept. Clearly less: the result looks smoother than what was acquired, and faint "
    "details may have been smoothed too."
)
GAP_TIP = _(
    "How much less noise generated slices have than places where a slice was acquired. 0 %: they cannot be told apart "
    "by their grain."
)
CHECK_TIP = _(
    "Every second acquired slice was left out and rebuilt from the others. Higher is better (dB; 1 dB is about 11 % "
    "less error). Where the network is not ahead of cubic interpolation, trust the result no more than a plain "
    "interpolation of this scan."
)
GAIN_TIP = _(
    "How much of the network's correction to plain interpolation was used, judged on acquired slices that were left "
    "out. 0 %: plain interpolation was as good on this scan."
)
CONSISTENCY_TIP = _(
    "How the result keeps to the acquired slices. keep: they are copied into it. project: averaging the result over "
    "the slice thickness gives them back, up to the given part of the noise. exact: the same without remainder."
)
NOISE_TIP = _(
    "New in each slice: the grain is synthetic, as coarse and as strong as the scan's own; the anatomy is not. As "
    "acquired: the grain of each acquired slice is drawn out to the next. Removed: the signal alone."
)
GRAIN_TIP = _(
    "Grain across the slices over grain within them. Near 1: alike in every view. Near 0: streaks along the slice axis."
    " In brackets, that of linear interpolation."
)


def report_text(report: dict[str, Any], name: str) -> str:
    """The readout for a report or a note: one line a figure, the model, and what the user should be told.

    Parameters
    ----------
    report : design section 4.5
    name : of the result
    """
    lines = [f"{name} (CycleINR {report.get('version', '')})".replace(" )", ")")]
    lines += [f"{row.label}: {row.text}" for row in readout(report)]
    lines += [f"{_('Note')}: {text}" for text in report.get("warnings") or ()]
    lines.append(_("The slices between the acquired ones were generated by a network. Not a medical device."))
    return "\n".join(lines) + "\n"


def noise_csv(report: dict[str, Any]) -> str:
    """The noise of each slice as comma-separated values: volume, slice, position in mm, noise; empty: not measured.

    Raises
    ------
    RequestError : the report has no such figures
    """
    noise, facts = report.get("noise_per_slice") or {}, report.get("output") or {}
    if not isinstance(noise, dict) or not noise.get("output"):
        raise RequestError("The volume has no noise figures", "", "choose a result of CycleINR")
    spacing = dict(zip("ijk", facts["spacing_mm"]))[facts["slice_axis"]]
    lines = ["volume,slice,position_mm,noise"]
    for kind, words, step in (("input", "scan", spacing * report["z_scale"]), ("output", "result", spacing)):
        for n, sigma in enumerate(noise.get(kind) or ()):
            lines.append(f"{words},{n},{n * step:.4f},{'' if sigma is None else format(sigma, '.6g')}")
    return "\r\n".join(lines) + "\r\n"


def _number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else ""


def _three(snli: dict[str, Any]) -> str:
    names = {"input": _("scan"), "output": _("result"), "linear": _("linear interpolation")}
    return ", ".join(f"{words} {_number(snli[key])}" for key, words in names.items() if _number(snli.get(key)))


def _percent_text(ratio: Any, text: str) -> str:
    return text.format(percent=100 * ratio) if isinstance(ratio, (int, float)) else ""


def _gap_text(gap: Any) -> str:
    if not isinstance(gap, (int, float)):
        return ""
    less, more = (
        _("generated slices have {percent:.0f} % less noise"),
        _("generated slices have {percent:.0f} % more noise"),
    )
    return (less if gap >= 0 else more).format(percent=abs(100 * gap))


def _check_text(check: dict[str, Any]) -> str:
    ours, cubic = _number(check.get("psnr_db"), 1), _number(check.get("psnr_cubic_db"), 1)
    return _("{ours} dB, cubic interpolation {cubic} dB").format(ours=ours, cubic=cubic) if ours and cubic else ""


def _size_text(output: dict[str, Any]) -> str:
    known = output.get("dimensions") and output.get("spacing_mm")
    if not known:
        return ""
    text = _("{counts} voxels of {lengths} mm")
    return text.format(counts=counts(output["dimensions"]), lengths=lengths(output["spacing_mm"]))


def _grain_text(report: dict[str, Any]) -> str:
    grain = report.get("grain") or {}
    output, linear = _number(grain.get("output"), 2), _number(grain.get("linear"), 2)
    return f"{output} ({linear})" if output and linear else output


def _consistency_text(report: dict[str, Any]) -> str:
    mode, error = report.get("consistency"), _number(report.get("consistency_error"))
    return _("{mode}, error {error} of the noise").format(mode=mode, error=error) if mode and error else str(mode or "")


def _computed_text(report: dict[str, Any]) -> str:
    model, seconds = (report.get("model") or {}).get("name"), report.get("seconds")
    taken = _("in {time}").format(time=duration(seconds)) if isinstance(seconds, (int, float)) else ""
    device = _("on {device}").format(device=report["device"]) if report.get("device") else ""
    return " ".join(part for part in (model, device, taken) if part)
