"""Relax defect structures of 2D crystals in one forward pass of a defect-informed equivariant network."""
