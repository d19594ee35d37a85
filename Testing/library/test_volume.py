"""Values and their place stay together."""

from __future__ import annotations

import numpy as np


def test_the_thick_fixtures_cover_the_same_millimeters_as_the_thin_ones(ct_thin, mr_thin, thick_ct, thick_mr):
    for thin, thick in ((ct_thin, thick_ct), (mr_thin, thick_mr)):
        assert thick.thickness_mm == thick.spacing_mm[0] == 4 * thin.spacing_mm[0]
        edges = [volume.geometry.ras_of(np.array([-0.5, 0, 0])) for volume in (thin, thick)]
        assert np.allclose(*edges, atol=1e-9)
