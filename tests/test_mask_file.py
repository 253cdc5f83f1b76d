"""What a user masks is neither fitted nor judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from chain import taken
from numpy.typing import NDArray
from PIL import Image

from stemfit.columns import find
from stemfit.errors import InputError, UsageError
from stemfit.lattice import survey
from stemfit.mask_file import read_mask
from stemfit.synthetic import crystal

SHAPE = (200, 230)


def blot() -> NDArray[np.bool_]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.hypot(x - 70, y - 110) < 38)


@pytest.mark.parametrize("kind", ["tif", "png", "npy"])
def test_every_format_gives_the_same_mask(tmp_path: Path, kind: str) -> None:
    mask, path = blot(), tmp_path / f"mask.{kind}"
    values = 3 * mask.astype(np.uint8)
    if kind == "tif":
        tifffile.imwrite(path, values)
    elif kind == "png":
        Image.fromarray(values).save(path)
    else:
        np.save(path, values)
    assert np.array_equal(read_mask(path, SHAPE), mask)


def test_a_bad_mask_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as missing:
        read_mask(tmp_path / "none.tif", SHAPE)
    assert missing.value.exit_code == 3
    (tmp_path / "junk.tif").write_bytes(b"no mask at all")
    with pytest.raises(InputError, match="cannot be read as a mask"):
        read_mask(tmp_path / "junk.tif", SHAPE)
    np.save(tmp_path / "small.npy", np.zeros((5, 7)))
    with pytest.raises(UsageError, match="7 x 5 px for an image of 230 x 200 px") as other:
        read_mask(tmp_path / "small.npy", SHAPE)
    assert other.value.exit_code == 2
    np.save(tmp_path / "all.npy", np.ones(SHAPE))
    with pytest.raises(UsageError, match="leaves no pixel"):
        read_mask(tmp_path / "all.npy", SHAPE)


def test_what_is_masked_is_a_region_and_no_site_there_is_judged() -> None:
    image, _ = taken(crystal(SHAPE, pixel_size_A=0.16, seed=4), 60.0, 4)
    mask = blot()
    spoilt = np.where(mask, image.max() - image, image)  # a lattice, but the wrong way round
    seen = find(spoilt, calibrate=False)
    said = survey(spoilt, seen, masked=mask)
    assert "masked by the user" in [region.reason for region in said.regions]
    assert (said.region_map[mask] > 0).all()
    at = np.rint(said.sites.xy_px).astype(int)
    assert not said.sites.inside[mask[at[:, 1], at[:, 0]]].any()
    assert said.sites.inside.any()
    clean = survey(image, find(image, calibrate=False))
    assert np.allclose(said.grid.a_px_iso, clean.grid.a_px_iso, rtol=2e-3)
