"""Public data: load the coordinator's own unlabelled images, of one data set or of several.

    typeset-digits      0 to 9 in 21 typefaces that ship with matplotlib; nothing to be brought
    PATH, folder:PATH   a folder of images, searched to its bottom
    PATH.npz, npz:PATH  an array ``images`` or ``train_images``, (N, H, W) or (N, H, W, C) uint8
    parquet:PATH        PATH/*train*.parquet with a column img or image; needs fedkd[data]
    torchvision:NAME    NAME/raw/train-images*, of MNIST, FashionMNIST or KMNIST

PATH and NAME are taken relative to ``images.public_root``. Images are labelled by the answers of
institutions. Whoever provides them makes sure that some show classes that teachers know, and that
they are not confidential.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from fedkd.core.public_data import PublicData
from fedkd.errors import DataError
from fedkd.experiment.sections import Images
from fedkd.server.run.public_image_files import image_reader

Shape = tuple[int, int, int]

TYPESET_DIGITS = "typeset-digits"
TYPEFACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
SUPERSAMPLING = 16
"""Factor of supersampling of typeset digits."""


def load_public_data(settings: Images, shape: Shape) -> PublicData:
    """All public data that ``settings`` name, joined in their order.

    Args:
        settings: `fedkd.experiment.sections.Images` with at least one name in ``public``.
        shape: (C, H, W) that teachers read.

    Raises:
        SettingsError: a data set that cannot be read without its library.
        DataError: there are none, fewer than ``public_counts``, or they cannot be read.
    """
    names = settings.public_names
    counts = settings.public_counts or (None,) * len(names)
    return PublicData.joined(
        {
            name: load_public_images(name, shape, settings.public_root, count, settings.public_trim)
            for name, count in zip(names, counts, strict=True)
        }
    )


def check_public_data(settings: Images) -> None:
    """Check that what ``settings`` name is there, without reading it.

    Raises:
        SettingsError, DataError: as `load_public_data`.
    """
    for name in settings.public_names:
        if name != TYPESET_DIGITS:
            image_reader(name, settings.public_root)


def load_public_images(
    name: str, shape: Shape, root: str | None = None, count: int | None = None, trim: bool = False
) -> Tensor:
    """Public images of one data set in the input shape of the teachers.

    Args:
        name: as the module docstring says.
        shape: (C, H, W). An image is converted to grey, or to three channels; one of another size
            is cropped at its centre to the shape's proportions and brought to its size by area
            interpolation, typeset digits by cubic.
        root: folder that paths are relative to.
        count: the first so many; None: all.
        trim: whether an image is first cut to the smallest square around what differs from its
            upper left pixel.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        SettingsError: a data set that cannot be read without its library.
        DataError: there are none, fewer than ``count``, or they cannot be read.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"teachers read {shape[0]} channels; collected images have 1 or 3")
    drawn = name == TYPESET_DIGITS
    images = typeset_digits(shape) if drawn else image_reader(name, root)()
    mode, size = "L" if shape[0] == 1 else "RGB", (shape[2], shape[1])
    method = Image.Resampling.BICUBIC if drawn else Image.Resampling.BOX
    read = []
    for image in islice(images, count):
        converted = image.convert(mode)
        trimmed = _trimmed(converted) if trim else converted
        read.append(np.asarray(ImageOps.fit(trimmed, size, method)))
    if not read:
        raise DataError(f"no collected images at {name}; put some there")
    if count is not None and len(read) < count:
        raise DataError(
            f"{name} has {len(read):,} images and images.public_counts asks for {count:,}; lower it"
        )
    return torch.tensor(np.stack(read)).view(len(read), *shape[1:], shape[0]).permute(0, 3, 1, 2)


def _trimmed(image: Image.Image) -> Image.Image:
    """The smallest square within ``image`` around what differs from its upper left pixel."""
    plain = Image.new(image.mode, image.size, image.getpixel((0, 0)))
    box = ImageChops.difference(image, plain).getbbox()
    if box is None:
        return image
    side = min(max(box[2] - box[0], box[3] - box[1]), *image.size)
    left, top = (
        min(max(0, (low + high - side) // 2), whole - side)
        for low, high, whole in ((box[0], box[2], image.width), (box[1], box[3], image.height))
    )
    return image.crop((left, top, left + side, top + side))


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
