"""Pictures reach CLIP as transformers' own CLIP image processor would hand them over."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from features.picture_encoders import PictureEncoder
from features.preparing import FramePreparer


@pytest.mark.parametrize("shape", [(256, 360), (270, 361), (480, 240), (64, 64), (50, 41)])
@pytest.mark.parametrize("size", [64, 224])
def test_preprocessing_is_that_of_the_clip_image_processor(shape, size):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]

    seen = {}

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = CLIPVisionConfig(projection_dim=1)

        def forward(self, pixel_values):
            seen["pixel_values"] = pixel_values
            return {"image_embeds": pixel_values.mean((1, 2, 3))}

    PictureEncoder(Recorder(), processor)(np.stack([FramePreparer(processor)(picture, "full")]))
    torch.testing.assert_close(seen["pixel_values"], expected.float(), rtol=0, atol=2e-6)
