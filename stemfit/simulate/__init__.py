"""From a structure to the image that a microscope would take of it."""
