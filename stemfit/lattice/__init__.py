"""The crystal in the image: cell, sublattices, polarity, smooth scan distortion and what area can be used."""

from stemfit.lattice.alloy import Alloy, find_alloy
from stemfit.lattice.cell import Grid, fit_grid
from stemfit.lattice.identify import Identity, identify, name_lattice, name_sites
from stemfit.lattice.neighbour import fit_turned
from stemfit.lattice.pattern import PatternFit, fit_pattern
from stemfit.lattice.populations import Levels, Populations, log_densities
from stemfit.lattice.reading import Look, Optics, Reading, read_crystal
from stemfit.lattice.regions import find_regions, outside
from stemfit.lattice.rows import RowOffsets, row_offsets
from stemfit.lattice.sites import Brightness, Honeycomb, honeycomb, measure, sites_near
from stemfit.lattice.survey import Survey, survey
from stemfit.lattice.types import Lattice, Region, SiteMap

__all__ = [
    "Alloy", "Brightness", "Grid", "Honeycomb", "Identity", "Lattice", "Levels", "Look", "Optics", "PatternFit",
    "Populations", "Reading", "Region", "RowOffsets", "SiteMap", "Survey", "find_alloy", "find_regions", "fit_grid",
    "fit_pattern", "fit_turned", "honeycomb", "identify", "log_densities", "measure", "name_lattice", "name_sites",
    "outside", "read_crystal", "row_offsets", "sites_near", "survey",
]
