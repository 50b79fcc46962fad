"""Pictures of a report, as (height, width, 3) uint8 arrays and PNG files."""

from .canvas import encode, save
from .cells import cells
from .clusters import clusters
from .curve import loss_curve
from .heatmap import heatmap
from .sheet import contact_sheet

__all__ = ["cells", "clusters", "contact_sheet", "encode", "heatmap", "loss_curve", "save"]
