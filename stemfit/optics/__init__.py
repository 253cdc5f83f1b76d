"""Electrons in the microscope: wavelength and scattering."""
