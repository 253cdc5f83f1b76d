"""Images with dark columns are told apart from those with bright ones, also where these run into each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stemfit.contrast import looks_inverted
from stemfit.errors import NotAnalysable
from stemfit.micrograph import from_array, read
from stemfit.pipeline import Settings, analyze
from stemfit.relax import keep
from stemfit.synthetic import crystal

SAMPLE = Path(__file__).parents[1] / "sample_images/wse2_sv_dv.tif"
A_PX = 3.16 / 0.12


def drawn(half_share: float, blur: float = 0.0) -> np.ndarray:
    """A honeycomb without noise, `blur` in lattice constants."""
    image = crystal((200, 220), pixel_size_A=0.12, rotation_deg=21.0, half_share=half_share, seed=4).image
    return np.asarray(gaussian_filter(image, blur * A_PX)) if blur else image


@pytest.mark.parametrize("half_share", [0.2, 0.45])
@pytest.mark.parametrize("blur", [0.0, 0.1, 0.2])
def test_a_model_that_fits_is_never_inverted(half_share: float, blur: float) -> None:
    """Noise and a gain do not matter; that the image's own inverse is told apart shows that the test can fail."""
    clean = drawn(half_share, blur)
    noisy = 7 * clean + np.random.default_rng(1).normal(0, 3 * clean.std(), clean.shape)
    assert not looks_inverted(noisy, 7 * clean, A_PX)
    if gaussian_skewness(clean) > 0.5:
        assert looks_inverted(-noisy, clean, A_PX)


def gaussian_skewness(image: np.ndarray) -> float:
    fine = gaussian_filter(image, 0.05 * A_PX) - gaussian_filter(image, 0.5 * A_PX)
    return float(np.mean((fine - fine.mean()) ** 3) / fine.std() ** 3)


def test_masked_pixels_do_not_count() -> None:
    image = drawn(0.3)
    model = image.copy()
    model[:90], image[:90] = np.nan, -40 * image[:90]
    assert not looks_inverted(image, model, A_PX)
    assert not looks_inverted(image, np.full_like(image, np.nan), A_PX)


@pytest.mark.filterwarnings("ignore:invalid value encountered in log")  # of what is fitted to no columns
@pytest.mark.parametrize("sign", [1, -1])
def test_the_analysis_says_so(sign: int) -> None:
    """Who names the crystal is warned; without a name, what no crystal explains is no result."""
    image = sign * read(SAMPLE).image[:240, :260]
    warnings = analyze(from_array(image), Settings(host="WSe2"), keep).warnings
    assert (warnings[0].startswith("dark spots stand on a bright ground")) == (sign == -1) if warnings else sign == 1
    assert sum("bright ground" in warning for warning in warnings) == (sign == -1)
    if sign == -1:
        with pytest.raises(NotAnalysable, match="dark spots on a bright ground"):
            analyze(from_array(image), Settings(), keep)
