"""The bundled scans in the Sample Data module."""

from pathlib import Path

from CycleINRLib.wholefile import SAMPLES, files_of

SCANS = (  # name, file, SHA256
    (
        "CycleINRAbdomenCT",
        "CT_abdomen_5mm.nrrd",
        "74d728351edcc2f9827b415b11b29211daf6e24a78185aadb1e7840b6aaf76e8",
    ),
    (
        "CycleINRKneeMR",
        "MR_knee_4.3mm.nrrd",
        "ccb0aa8cb2efe9d68c8a08c87ce20f4dfc810afa520edce86763775e666bf4da",
    ),
)


def register() -> None:
    """They are named by file URL: they load without a network, and are exactly those that the documentation shows.

    The checksum replaces an older copy in Slicer's cache.
    """
    import SampleData

    icons = Path(__file__).resolve().parents[1] / "Resources" / "Icons"
    for name, file, checksum in SCANS:
        thumbnail = icons / f"{name}.png"
        for path in files_of(SAMPLES, file):
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category="CycleINR",
                sampleName=name,
                thumbnailFileName=str(thumbnail) if thumbnail.is_file() else None,
                uris=path.as_uri(),
                fileNames=file,
                checksums=f"SHA256:{checksum}",
                nodeNames=name,
            )
