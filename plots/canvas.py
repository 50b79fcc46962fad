"""From a matplotlib figure to pixels and PNG bytes, without pyplot and its global state."""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.atomic import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
FONT = "DejaVu Sans"  # shipped inside matplotlib, so that pictures look the same everywhere
INK, QUIET, MISSING = "#1a1a1a", "#5f5f5f", "#dcdcdc"
COLOURS = "viridis"  # even in lightness, told apart by every kind of colour sight, and without grey


def figure(width: int, height: int) -> Figure:
    """An empty white figure of so many pixels with an Agg canvas attached."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(sheet)
    return sheet


def pixels(sheet: Figure) -> np.ndarray:
    """The drawn figure, (height, width, 3) uint8."""
    canvas: Any = sheet.canvas  # Agg's, as `figure` makes it
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def text_style(size: float, **more) -> dict:
    """Keyword arguments for a piece of text: fixed font, dollar signs taken literally."""
    return {"fontfamily": FONT, "fontsize": size, "color": INK, "parse_math": False, **more}


def printable(text: str, longest: int = 80) -> str:
    """The text in glyphs the font has (others become ?), cut in the middle when too long."""
    known = _glyphs()
    text = "".join(c if ord(c) in known else "?" for c in text)
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=FONT))).get_charmap())


def encode(image: np.ndarray) -> bytes:
    """A (h, w, 3) uint8 image as PNG bytes."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return buffer.getvalue()


def save(image: np.ndarray, path: str | os.PathLike) -> Path:
    """Write a (h, w, 3) uint8 image as PNG; the file appears whole or not at all.

    Raises:
        OSError: the folder is missing or full.
    """
    with whole(path) as file:
        file.write(encode(image))
    return Path(path)
