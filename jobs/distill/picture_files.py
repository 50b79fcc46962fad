"""The user's own pictures in a folder, with a text file beside each that describes it. Files are only read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import SettingsError, in_words

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
OTHER_FORMATS = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jxl", ".tif", ".tiff")
NAMED = 5  # files named in a message
MOST_PIXELS = 100_000_000
LONGEST_CAPTION = 20_000  # bytes


@dataclass(frozen=True)
class PictureFolder:
    """What a folder holds, in natural order: picture 2 before picture 10.

    pictures: png, jpg and webp files. texts: of each picture the text file of its name, or None.
    lonely: text files without a picture. unread: pictures in formats that are not read.
    """

    folder: Path
    pictures: list[Path]
    texts: list[Path | None]
    lonely: list[Path]
    unread: list[Path]

    def captions(self) -> list[str]:
        """The text beside each picture.

        Raises:
            SettingsError: a picture has none, or one that is empty or no text.
        """
        missing = [picture for picture, text in zip(self.pictures, self.texts, strict=True) if text is None]
        if missing:
            hint = f"Write {missing[0].stem}.txt beside {missing[0].name}, or all captions into the input captions."
            if self.lonely:
                hint += f" Without a picture of their name are {named(self.lonely)}."
            raise SettingsError(
                f"{len(missing)} of {len(self.pictures)} pictures have no caption: {named(missing)}",
                file=self.folder,
                hint=hint,
            )
        return [read_caption(text) for text in self.texts if text is not None]

    def notes(self, *, texts_used: bool) -> list[str]:
        """Sentences on the files that are passed over."""
        found = []
        if self.unread:
            found.append(
                f"Not read, for only png, jpg and webp are: {named(self.unread)}. Convert what should be learnt."
            )
        if texts_used and self.lonely:
            found.append(f"Text files without a picture of their name: {named(self.lonely)}.")
        if not texts_used and (count := sum(text is not None for text in self.texts)):
            found.append(f"The captions came from the input; {count} text files beside the pictures were not used.")
        return found


def open_folder(folder: Path) -> PictureFolder:
    """What is in a folder, not in those within it; names that begin with a dot are passed over.

    Raises:
        SettingsError: there is no such folder, it cannot be listed, or no picture is in it.
    """
    if not folder.exists():
        raise SettingsError("There is no such folder", file=folder, hint="Check the path of the pictures.")
    if not folder.is_dir():
        raise SettingsError("This is a file, not a folder", file=folder, hint="Give the folder that it lies in.")
    try:
        files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    except OSError as problem:
        raise SettingsError(f"The folder cannot be read: {in_words(problem)}", file=folder) from problem
    files.sort(key=lambda file: _natural(file.name))
    pictures = [file for file in files if file.suffix.lower() in FORMATS]
    texts = {file.stem: file for file in files if file.suffix.lower() == ".txt"}
    unread = [file for file in files if file.suffix.lower() in OTHER_FORMATS]
    if not pictures:
        raise SettingsError(
            _nothing(list(texts.values()), unread), file=folder, hint="Put png, jpg or webp files there."
        )
    stems = {picture.stem for picture in pictures}
    lonely = [text for stem, text in texts.items() if stem not in stems]
    return PictureFolder(folder, pictures, [texts.get(picture.stem) for picture in pictures], lonely, unread)


def _natural(name: str) -> list:
    """Sort key that reads runs of digits as numbers and does not tell large letters from small ones."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name.casefold()))]


def _nothing(texts: list[Path], unread: list[Path]) -> str:
    if unread:
        return f"No picture in the folder can be read: {named(unread)}"
    if texts:
        return f"The folder has captions but no pictures: {named(texts)}"
    return "The folder has no pictures"


def named(files: Sequence[Path]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(file.name for file in files[:NAMED]) + more


def read_picture(file: Path) -> Tensor:
    """(height, width, 3) in [0, 1]: turned as the camera says, on white where it is transparent, the first of several
    frames.

    Raises:
        SettingsError: it cannot be read, is no picture of its format, or is too large.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=[FORMATS[file.suffix.lower()]]) as found:
            if found.width * found.height > MOST_PIXELS:
                raise SettingsError(
                    f"The picture is too large, {found.width} × {found.height}", file=file, hint="Make it smaller."
                )
            image = ImageOps.exif_transpose(found)
            if image.mode.startswith("I"):
                grey = np.asarray(image, dtype=np.float32) / 65535
                return torch.from_numpy(grey.clip(0, 1)).unsqueeze(2).repeat(1, 1, 3)
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
    except SettingsError:
        raise
    except Exception as problem:  # decoders raise OSError, ValueError, SyntaxError, struct.error and more
        kind = FORMATS[file.suffix.lower()]
        raise SettingsError(
            f"The picture cannot be read as {kind}: {problem}",
            file=file,
            hint="Save it again, as png for example, or take it out of the folder.",
        ) from problem


def read_caption(file: Path) -> str:
    """The text of a file in one line.

    Raises:
        SettingsError: it is empty, too long, or not UTF-8.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(LONGEST_CAPTION + 1)
        text = " ".join(data.decode("utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"The caption cannot be read: {problem}", file=file, hint="Save it as UTF-8.") from problem
    if len(data) > LONGEST_CAPTION:
        raise SettingsError("The caption is too long", file=file, hint=f"At most {LONGEST_CAPTION} bytes are read.")
    if not text:
        raise SettingsError("The caption is empty", file=file, hint="Describe the picture in a few words.")
    return text
