"""Images that the coordinator has collected, opened from wherever they lie. None is private.

    typeset-digits      0 to 9 in 21 typefaces that ship with matplotlib; nothing to be brought
    PATH                a folder of images, searched to its bottom
    PATH.npz            an array ``images``, (N, H, W) or (N, H, W, C) uint8

They have no labels: what institutions answer says what is on them. Whoever collects sees to it that
they are of the classes that teachers know, and are nobody's secret.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from fedkd.errors import DataError

Shape = tuple[int, int, int]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
TYPEFACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
FINE = 16
"""Times as fine as they are shown are typeset digits drawn."""


def collection(name: str, shape: Shape) -> Tensor:
    """Collected images, as teachers read them.

    Args:
        name: as the module says.
        shape: (C, H, W). A picture of another size is cut to this one's proportions in its middle,
            and made smaller or larger; colours are made grey, or grey is made of three colours.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"teachers read {shape[0]} channels; collected images have 1 or 3")
    pictures = typeset_digits(shape) if name == "typeset-digits" else _found(Path(name))
    mode, size = "L" if shape[0] == 1 else "RGB", (shape[2], shape[1])
    read = [np.asarray(ImageOps.fit(each.convert(mode), size)) for each in pictures]
    if not read:
        raise DataError(f"no collected images at {name}; put some there")
    return torch.tensor(np.stack(read)).view(len(read), *shape[1:], shape[0]).permute(0, 3, 1, 2)


def typeset_digits(shape: Shape) -> Iterator[Image.Image]:
    """Digits, white on black, each as large as an image of ``shape`` allows."""
    from matplotlib import get_data_path  # takes a second, and few runs need it

    height, width = (FINE * side for side in shape[1:])
    for typeface in TYPEFACES:
        path = Path(get_data_path(), "fonts", "ttf", f"{typeface}.ttf")
        font = ImageFont.truetype(str(path), height)
        for digit in "0123456789":
            left, top, right, bottom = font.getbbox(digit)
            glyph = Image.new("L", (round(right - left), round(bottom - top)))
            ImageDraw.Draw(glyph).text((-left, -top), digit, fill=255, font=font)
            yield ImageOps.pad(glyph, (width, height))


def _found(path: Path) -> Iterator[Image.Image]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield from (Image.fromarray(pixels) for pixels in file["images"])
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                with Image.open(file) as picture:
                    yield picture.convert("RGB")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"collected images at {path} cannot be read; give a folder of images, or an .npz file "
            "with an array images of uint8"
        ) from error
