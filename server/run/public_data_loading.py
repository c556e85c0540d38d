"""Public data: load the coordinator's own unlabelled images from a folder, an array or fonts.

    typeset-digits      0 to 9 in 21 typefaces that ship with matplotlib; nothing to be brought
    PATH                a folder of images, searched to its bottom
    PATH.npz            an array ``images``, (N, H, W) or (N, H, W, C) uint8

They are labelled by the answers of institutions. Whoever provides them makes sure that they show
classes that teachers know, and that they are not confidential.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from fedkd.errors import DataError

Shape = tuple[int, int, int]

TYPESET_DIGITS = "typeset-digits"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
TYPEFACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
SUPERSAMPLING = 16
"""Factor of supersampling of typeset digits."""


def load_public_images(name: str, shape: Shape) -> Tensor:
    """Public images in the input shape of the teachers.

    Args:
        name: as the module docstring says.
        shape: (C, H, W). An image of another size is cropped at its centre and resized; it is
            converted to grey, or to three channels.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"teachers read {shape[0]} channels; collected images have 1 or 3")
    images = typeset_digits(shape) if name == TYPESET_DIGITS else _open_images(Path(name))
    mode, size = "L" if shape[0] == 1 else "RGB", (shape[2], shape[1])
    read = [np.asarray(ImageOps.fit(each.convert(mode), size)) for each in images]
    if not read:
        raise DataError(f"no collected images at {name}; put some there")
    return torch.tensor(np.stack(read)).view(len(read), *shape[1:], shape[0]).permute(0, 3, 1, 2)


def typeset_digits(shape: Shape) -> Iterator[Image.Image]:
    """Digits, white on black, each as large as an image of ``shape`` allows."""
    from matplotlib import get_data_path  # takes a second, and few runs need it

    height, width = (SUPERSAMPLING * side for side in shape[1:])
    for typeface in TYPEFACES:
        path = Path(get_data_path(), "fonts", "ttf", f"{typeface}.ttf")
        font = ImageFont.truetype(str(path), height)
        for digit in "0123456789":
            left, top, right, bottom = font.getbbox(digit)
            glyph = Image.new("L", (round(right - left), round(bottom - top)))
            ImageDraw.Draw(glyph).text((-left, -top), digit, fill=255, font=font)
            yield ImageOps.pad(glyph, (width, height))


def _open_images(path: Path) -> Iterator[Image.Image]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield from (Image.fromarray(pixels) for pixels in file["images"])
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                with Image.open(file) as image:
                    yield image.convert("RGB")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"collected images at {path} cannot be read; give a folder of images, or an .npz file "
            "with an array images of uint8"
        ) from error
