"""What journals and slides ask of a figure: width, letters, lines, paper.

Letters are Liberation Sans and Liberation Serif, which are as wide as Arial and Times New Roman letter by letter; the
files are in `fonts/`, so that a figure is the same whatever is installed.

Widths and least sizes are those of the journals' instructions: Nature 89 mm, letters of 5 to 7 pt, panels by a bold
small letter of 8 pt; the American Physical Society 86 mm, capitals and lines of at least 2 mm and 0.5 pt, panels (a);
the American Chemical Society 84.6 mm (240 pt), lines of at least 0.5 pt. A slide is 16 to 9.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.font_manager import fontManager

MARGIN_MM = 1.0

USUAL_PT = 6.0
"""Letters for which distances on the page are given."""

SANS, SERIF = "Liberation Sans", "Liberation Serif"

ELSEWHERE = {
    SANS: "Arial, 'Liberation Sans', Helvetica, sans-serif",
    SERIF: "'Times New Roman', 'Liberation Serif', Times, serif",
}
"""What an svg, which names fonts and does not hold them, asks for: the first that is there, all of the same widths."""

for _file in sorted((Path(__file__).parent / "fonts").glob("*.ttf"), reverse=True):
    fontManager.addfont(_file)
    fontManager.ttflist.insert(0, fontManager.ttflist.pop())  # before other versions of it that may be installed


@dataclass(frozen=True)
class Style:
    """How a figure is set.

    Attributes
    ----------
    name : str
    width_mm : float
    family : str
        Of letters.
    text_pt, small_pt, letter_pt : float
        Size of text, of numbers at scales, and of the letters of panels.
    letter : str
        Letter of a panel, as a format.
    bold : bool
        Whether that is bold.
    least_line_pt : float
        No line is thinner.
    thicker : float
        All lines are so many times as thick as for a journal.
    paper, ink : str
        Colours of the background and of what is written on it.
    dpi : int
        Pixels of images per inch.
    tallest_mm : float
        Height that figures of panels keep within where they can.
    """

    name: str
    width_mm: float
    family: str
    text_pt: float
    small_pt: float
    letter_pt: float
    letter: str = "{}"
    bold: bool = True
    least_line_pt: float = 0.25
    thicker: float = 1.0
    paper: str = "white"
    ink: str = "black"
    dpi: int = 360
    tallest_mm: float = float("inf")

    @property
    def inner_mm(self) -> float:
        """Width between the margins."""
        return self.width_mm - 2 * MARGIN_MM

    def beside(self, mm: float) -> float:
        """A distance that goes with letters, given for those of `USUAL_PT`, in mm."""
        return mm * self.text_pt / USUAL_PT

    def line(self, width_pt: float) -> float:
        """Width of a line that would be `width_pt` thick in a journal that leaves it open."""
        return max(width_pt * self.thicker, self.least_line_pt)

    def context(self) -> AbstractContextManager[None]:
        """Settings under which a figure is both made and written."""
        return matplotlib.rc_context(self._settings)

    @property
    def _settings(self) -> Any:
        """Letters stay letters: TrueType in a pdf, as journals ask; text in an svg, so that it can be edited.

        An svg names the font without holding it (`ELSEWHERE`); the pdf holds it. Patches have no edge that nobody
        asked for.
        """
        # Slanted letters are nowhere set, and bold ones of the serif font do not come along.
        math = {f"mathtext.{face}": self.family for face in ("rm", "cal", "tt", "sf", "it", "bf", "bfit")}
        ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        return {
            "font.family": [self.family], "font.size": self.text_pt, "mathtext.fontset": "custom",
            "mathtext.fallback": "stixsans", **math, **dict.fromkeys(ink, self.ink),
            "pdf.fonttype": 42, "pdf.compression": 2, "svg.fonttype": "none", "svg.hashsalt": "stemfit",
            "patch.linewidth": 0.0,
        }  # fmt: skip


NATURE = Style("nature", 89.0, SANS, 6.0, 5.0, 8.0)

STYLES = {
    style.name: style
    for style in (
        NATURE,
        Style("aps", 86.0, SERIF, 8.7, 8.7, 8.7, letter="({})", bold=False, least_line_pt=0.5, dpi=600),
        Style("acs", 84.6, SANS, 7.0, 6.0, 8.0, letter="({})", least_line_pt=0.5, dpi=600),
        Style("dark", 120.0, SANS, 8.0, 7.0, 10.0, thicker=1.4, paper="#101418", ink="#E8EBEF", dpi=300),
        Style("slide", 254.0, SANS, 18.0, 14.0, 20.0, thicker=2.8, dpi=150, tallest_mm=142.8),
    )
}
"""By name. 2 mm of capitals are 8.7 pt in Times, whose capitals are two thirds of the size high."""
