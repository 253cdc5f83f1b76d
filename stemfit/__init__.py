"""From an atomic-resolution STEM image of a 2D material to its defects, their structures and how sure that is."""

__version__ = "0.1.0"
