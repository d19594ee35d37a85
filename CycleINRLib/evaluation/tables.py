"""The record of an evaluation as Markdown: means, leads, cases behind cubic, every case (floor 4).

The record is what `cycleinr evaluate --json` prints: methods {name: {kind, ...}} and cases, each with its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import mean
from typing import Any

Facts = dict[str, Any]
COLUMNS = (  # title, keys of a result, digits
    ("PSNR, generated", "psnr_generated", 2),
    ("PSNR, all", "psnr_all", 2),
    ("SSIM 3D", "ssim", 4),
    ("SSIM ji", "ssim_planes.ji", 4),
    ("SSIM ki", "ssim_planes.ki", 4),
    ("SSIM kj", "ssim_planes.kj", 4),
    ("gradient error", "gradient_error", 3),
    ("SNLI", "snli", 3),
    ("detrended", "snli_detrended", 3),
    ("gap", "generated_gap", 3),
    ("noise ratio", "noise_ratio", 3),
    ("seconds", "seconds", 1),
    ("CPU s", "cpu_seconds", 1),
)
OF_TRUTH = ("snli", "snli_detrended", "generated_gap", "noise_ratio")
CASE_TABLES = (
    ("PSNR on generated slices, dB", "psnr_generated", 2),
    ("SSIM, 3D, all slices", "ssim", 4),
    ("SNLI detrended (0: no pattern that repeats with the acquired slices)", "snli_detrended", 3),
    ("Generated gap (0: generated slices cannot be told by their noise)", "generated_gap", 3),
    ("Noise ratio", "noise_ratio", 3),
    ("Seconds", "seconds", 1),
)


def markdown(record: Facts, every_case: bool = True) -> str:
    """The whole evaluation; without `every_case` the means, the leads and the cases behind cubic alone."""
    parts = [_head(record), "## Means over scans and z-scales", *_means(record), *_leads(record)]
    if every_case:
        for title, figure, digits in CASE_TABLES:
            parts += [f"## {title}", case_table(record, figure, digits)]
        parts.append(_notes(record))
    return "\n\n".join(part for part in parts if part) + "\n"


def names_of(record: Facts, kind: str) -> list[str]:
    """Methods of a kind ("interpolator", "model", "added") in their order."""
    return [name for name, facts in record["methods"].items() if facts["kind"] == kind]


def profile_of(case: Facts) -> str:
    """Profile, and thickness / spacing and phase where they are unusual."""
    ratio = "" if case["ratio"] in (0, 1) else f" ratio {case['ratio']:g}"
    return case["profile"] + ratio + (f" phase {case['phase']:g}" if case["phase"] else "")


def figure_of(case: Facts, method: str, figure: str) -> float | None:
    """One figure, "ssim_planes.ji" looked up inside; None where it is not there."""
    found: Any = case["results"].get(method)
    for part in figure.split("."):
        found = None if found is None else found.get(part)
    return found


def lead(case: Facts, ours: str, interpolators: Iterable[str], figure: str = "psnr_generated") -> float | None:
    """Ours minus the best of the interpolators in one case; None where either is not measurable."""
    known = [value for name in interpolators if (value := figure_of(case, name, figure)) is not None]
    our = figure_of(case, ours, figure)
    return None if our is None or not known else our - max(known)


def behind(record: Facts, ours: str, interpolator: str = "cubic", figure: str = "psnr_generated") -> list[Facts]:
    """The cases where ours is worse than one interpolator."""
    leads = ((case, lead(case, ours, [interpolator], figure)) for case in record["cases"])
    return [case for case, value in leads if value is not None and value < 0]


# --- parts ----------------------------------------------------------------------------------------------------
def _head(record: Facts) -> str:
    scans = list(dict.fromkeys(case["scan"] for case in record["cases"]))
    protocol = record["protocol"]
    lines = [
        f"# Evaluation, CycleINR {record['version']}",
        "",
        f"{len(record['cases'])} cases of {len(scans)} scans: {', '.join(scans)}. PSNR in dB on generated slices or on "
        f"all; body: {protocol['body']}; range: {protocol['range']}; margin: {protocol['margin']}. SSIM: "
        f"{protocol['ssim']}. Gradient error: {protocol['gradient_error']}.",
    ]
    for name, facts in record["methods"].items():
        lines.append(f"- **{name}**: {_about(facts)}")
    return "\n".join(lines)


def _about(facts: Facts) -> str:
    if facts["kind"] == "model":
        return (
            f"model {facts['model']}, noise {facts['noise']}, consistency {facts['consistency']}, "
            f"sha256 {facts['sha256'][:16]}"
        )
    return facts["about"]


def _means(record: Facts) -> Iterator[str]:
    for key, cases in _groups(record["cases"]).items():
        rows = [_truth_row(cases)]
        for name in record["methods"]:
            values = (_mean(figure_of(case, name, figure) for case in cases) for _, figure, _ in COLUMNS)
            rows.append([name, *(_cell(value, digits) for value, (_, _, digits) in zip(values, COLUMNS))])
        yield f"**{key}**, {len(cases)} cases\n\n" + _table(["method", *(title for title, _, _ in COLUMNS)], rows)


def _truth_row(cases: Sequence[Facts]) -> list[str]:
    """The truth's own noise figures, and as its PSNR the ceiling that its noise allows."""
    ceilings = (_mean(case["noise_ceiling"][name] for case in cases) for name in ("psnr_db", "through_db"))
    cells = ["truth", " / ".join(f"<= {_cell(value, 2)}" for value in ceilings)]
    for _, figure, digits in COLUMNS[1:]:
        known = _mean(case["truth"].get(figure) for case in cases) if figure in OF_TRUTH else None
        cells.append(_cell(known, digits))
    return cells


def _leads(record: Facts) -> Iterator[str]:
    """For each model: mean and least lead over the best interpolator, over cubic and over each added method."""
    interpolators, added = names_of(record, "interpolator"), names_of(record, "added")
    if not interpolators:
        return
    against = {
        "best interpolator": interpolators,
        **{name: [name] for name in ("cubic", *added) if name in (*interpolators, *added)},
    }
    for ours in names_of(record, "model"):
        rows = []
        for key, cases in _groups(record["cases"]).items():
            cells = (_spread([lead(case, ours, names) for case in cases]) for names in against.values())
            rows.append([key, *cells, _spread([lead(case, ours, interpolators, "ssim") for case in cases], 4)])
        header = ["", *(f"over {name}, dB" for name in against), "SSIM over best interpolator"]
        yield f"## Lead of {ours}, mean (least)\n\n" + _table(header, rows) + "\n\n" + _behind_text(record, ours)


def _behind_text(record: Facts, ours: str) -> str:
    if "cubic" not in record["methods"]:
        return ""
    worse = behind(record, ours)
    text = f"{ours} is behind cubic in {len(worse)} of {len(record['cases'])} cases"
    listed = [f"{case['scan']} x{case['z_scale']:g} {profile_of(case)} ({_lead_text(case, ours)})" for case in worse]
    return text + (": " + "; ".join(listed) if listed else "") + "."


def _lead_text(case: Facts, ours: str) -> str:
    value = lead(case, ours, ["cubic"])
    return "-" if value is None else f"{value:+.2f} dB"


def case_table(record: Facts, figure: str, digits: int = 2) -> str:
    """One figure of every case: scan and protocol down, methods across, beside the truth or its ceiling."""
    names, ours = list(record["methods"]), names_of(record, "model")
    interpolators = names_of(record, "interpolator")
    leads = [f"lead of {name}" for name in ours] if figure == "psnr_generated" and interpolators else []
    beside = ["ceiling", "through"] if figure == "psnr_generated" else ["truth"] if figure in OF_TRUTH else []
    rows = []
    for case in record["cases"]:
        row = [case["scan"], f"{case['z_scale']:g}", profile_of(case)]
        if figure == "psnr_generated":
            row += [_cell(case["noise_ceiling"][name], digits) for name in ("psnr_db", "through_db")]
        elif beside:
            row.append(_cell(case["truth"][figure], digits))
        row += [_cell(figure_of(case, name, figure), digits) for name in names]
        if leads:
            row += [_spread([lead(case, name, interpolators)]) for name in ours]
        rows.append(row)
    return _table(["scan", "z-scale", "profile", *beside, *names, *leads], rows)


def _notes(record: Facts) -> str:
    lines = ["## How it was measured", ""]
    lines += [f"- {name}: {text}." for name, text in record["protocol"].items()]
    lines += [f"- {name} {value}" for name, value in record["versions"].items()]
    return "\n".join(lines)


# --- small things ---------------------------------------------------------------------------------------------
def _groups(cases: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Cases by modality and profile."""
    groups: dict[str, list[Facts]] = {}
    for case in cases:
        groups.setdefault(f"{case['modality']} {profile_of(case)}", []).append(case)
    return groups


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _spread(leads: Sequence[float | None], digits: int = 2) -> str:
    known = [value for value in leads if value is not None]
    if not known:
        return "-"
    least = f" ({min(known):+.{digits}f})" if len(known) > 1 else ""
    return f"{mean(known):+.{digits}f}{least}"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in body)
