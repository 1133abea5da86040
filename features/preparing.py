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

    def __call__(self, picture, crop):
        """(height, width, 3) uint8 and `full`, `left` or `right` -> (size, size, 3) uint8."""
        if self.rows:
            picture = picture[self.rows[0] : self.rows[1]]
        half = picture.shape[1] // 2
        if crop != "full":
            picture = picture[:, :half] if crop == "left" else picture[:, half:]
        height, width = picture.shape[:2]
        if self.edge:
            short = min(height, width)
            new_height, new_width = (int(self.edge * side / short) for side in (height, width))
        else:
            new_height, new_width = self.resize_to
        image = Image.fromarray(np.ascontiguousarray(picture)).resize((new_width, new_height), self.resample)
        top, left = (new_height - self.size[0]) // 2, (new_width - self.size[1]) // 2
        return np.asarray(image)[top : top + self.size[0], left : left + self.size[1]]


def parse_rows(text):
    """`112:368` -> (112, 368); empty -> None."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InputError(f"--rows {text}: expected FIRST:LAST+1, two rising row numbers such as 112:368")
    return int(first), int(last)
