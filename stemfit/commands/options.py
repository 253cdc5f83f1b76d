"""Options that several commands have, with the words that explain them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Image = Annotated[
    Path, typer.Argument(help="TIFF, PNG, dm3, dm4, emd, ser, emi, mrc, hspy or zspy.", show_default=False)
]
Host = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Crystal: auto, one of MoS2 MoSe2 MoTe2 WS2 WSe2 WTe2 hBN graphene GaSe InSe blackP, or a CIF.",
    ),
]
PixelSize = Annotated[
    float | None, typer.Option(metavar="ANGSTROM", help="Pixel size; wins over the lattice and the file.")
]
Voltage = Annotated[float | None, typer.Option(metavar="KV", help="Acceleration voltage.  [default: the file's]")]
Convergence = Annotated[
    float | None, typer.Option(metavar="MRAD", help="Probe's convergence semi-angle.  [default: the file's]")
]
Detector = Annotated[
    str | None, typer.Option(metavar="IN,OUT", help="Annular detector's range, mrad.  [default: the file's]")
]
Roi = Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Analyse this rectangle only, px.")]
Mask = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TIFF, PNG or NPY of the image's size: 0 is analysed.")
]
Frame = Annotated[
    str | None,
    typer.Option(metavar="N", help="Image of a stack, counted from 0; mean: of all; aligned: after shifting them."),
]
Signal = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Signal of a file with several, or its number from 0.  [default: dark field]",
        show_default=False,
    ),
]
Network = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the network, see stemfit model.")]
Relaxer = Annotated[
    Literal["definet", "teacher", "keep"],
    typer.Option(help="Relax candidates with the network, with its teacher, a potential (slow), or not at all."),
]
Simulator = Annotated[
    Literal["fast", "multislice"],
    typer.Option(
        help="Brightness of columns from the table, or of the best candidates by abTEM (slow); simulated.tif is "
        "always drawn fast."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="KELVIN",
        help="Weigh structures of one name by their relaxation energies at this temperature.  [default: do not]",
        show_default=False,
    ),
]
ImageDevice = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where columns are fitted and the network runs.")
]
NetworkDevice = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")]
AsJson = Annotated[bool, typer.Option("--json/--no-json", help="Print analysis.json instead of the table.")]
Verbose = Annotated[bool, typer.Option("--verbose/--no-verbose", "-v", help="Say on stderr what is being done.")]
Debug = Annotated[bool, typer.Option("--debug/--no-debug", help="Show tracebacks.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Options from a file (stemfit config); those given here win.")
]
