"""Pictures of a report, as (height, width, 3) uint8 arrays and PNG files."""

from .bars import kept_energy
from .canvas import encode, save
from .clusters import clusters
from .heatmap import heatmap

__all__ = ["clusters", "encode", "heatmap", "kept_energy", "save"]
