"""Reproducible, versioned Incus images, built sealed from locked inputs."""

__version__ = "0.1.0"
