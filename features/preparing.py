"""A decoded picture -> the pixels that an encoder sees: the rows and the part of it that are wanted, resized.

As transformers' image processors do it (to the shortest edge and a centre crop, or to a square), with Pillow.
"""

import numpy as np
from PIL import Image
from transformers.image_utils import SizeDict

from running.errors import InputError


class FramePreparer:
    """Crop, resize and centre-crop a frame as an image processor of transformers does, up to the normalisation.

    Args:
        processor: with Pillow, such as CLIPImageProcessorPil; its resize and crop sizes are used.
        rows: (first, last + 1) picture rows to keep, or None for all.
    Raises: InputError for a processor that does not resize and crop to one fixed size.
    """

    def __init__(self, processor, rows=None):
        size, crop = processor.size, processor.crop_size or SizeDict()
        self.resample, self.rows, self.edge = processor.resample, rows, size.shortest_edge
        fixed = (size.height, size.width)
        self.size = (crop.height, crop.width) if processor.do_center_crop else fixed
        self.resize_to = None if self.edge else fixed
        smallest = (self.edge, self.edge) if self.edge else fixed
        usable = processor.do_resize and None not in (*self.size, *smallest)
        if not usable or smallest[0] < self.size[0] or smallest[1] < self.size[1]:
            raise InputError(
                f"preprocessor_config.json: size {dict(size)}, crop_size {dict(crop)}; needed: do_resize with "
                "shortest_edge (or height and width) no smaller than crop_size"
            )

    def __call__(self, picture, crop, square=None):
        """A part of a picture as the encoder takes it.

        Args:
            picture: (height, width, 3) uint8. crop: `full`, `left` or `right`.
            square: (x, y of the centre, side) in pixels of that part, the square of it that is wanted; None: all of it.
        Returns: (size, size, 3) uint8.
        """
        top, bottom, left, right = find_part(*picture.shape[:2], self.rows, crop)
        picture = picture[top:bottom, left:right]
        if square is not None:
            picture = cut_square(picture, *square)
        height, width = picture.shape[:2]
        if self.edge:
            short = min(height, width)
            new_height, new_width = (int(self.edge * side / short) for side in (height, width))
        else:
            new_height, new_width = self.resize_to
        image = Image.fromarray(np.ascontiguousarray(picture)).resize((new_width, new_height), self.resample)
        top, left = (new_height - self.size[0]) // 2, (new_width - self.size[1]) // 2
        return np.asarray(image)[top : top + self.size[0], left : left + self.size[1]]


def find_part(height, width, rows, crop):
    """(top, bottom, left, right) of the rows and the half that are wanted of a picture, pixels, as slices have them."""
    top, bottom = rows or (0, height)
    half = width // 2
    left, right = {"full": (0, width), "left": (0, half), "right": (half, width)}[crop]
    return top, bottom, left, right


def cut_square(picture, x, y, side):
    """The square of a picture around (x, y), moved to lie inside; one that is larger than it is made smaller."""
    height, width = picture.shape[:2]
    side = min(max(round(side), 1), height, width)
    left, top = (min(max(round(centre - side / 2), 0), whole - side) for centre, whole in ((x, width), (y, height)))
    return picture[top : top + side, left : left + side]


def parse_rows(text):
    """`112:368` -> (112, 368); empty -> None."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InputError(f"--rows {text}: expected FIRST:LAST+1, two rising row numbers such as 112:368")
    return int(first), int(last)
