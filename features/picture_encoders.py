"""Picture encoders: the vision tower of a CLIP, SigLIP or DINOv2 checkpoint, from uint8 pictures to embeddings.

The embedding is the one that each family is published with, not normalised: CLIP's `get_image_features`, SigLIP's
pooled output, DINOv2's class token behind the last layer norm. Sources: Radford et al. 2021 (CLIP); Zhai et al. 2023
(SigLIP); Tschannen et al. 2025 (SigLIP 2, whose checkpoints of one fixed size are SigLIP's); Oquab et al. 2024
(DINOv2); Darcet et al. 2024 (registers).
"""

from dataclasses import dataclass, field

import torch
from transformers import (
    AutoConfig,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    Dinov2WithRegistersModel,
    SiglipVisionModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from running.errors import InputError
from running.quiet import quiet_transformers

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VISION_PART = "_vision_model"  # a checkpoint of a tower alone is of its family's type with this behind it


@dataclass(frozen=True)
class Family:
    """What differs between the families.

    Attributes: model, processor: classes of transformers. output: which of the model's outputs is the embedding.
        width: where the configuration says how wide it is. defaults: of the processor where a checkpoint has none;
        empty: its own, at the model's picture size.
    """

    model: type
    processor: type
    output: str = "pooler_output"
    width: str = "hidden_size"
    defaults: dict = field(default_factory=dict)


IMAGENET = {
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": IMAGENET_DEFAULT_MEAN,
    "image_std": IMAGENET_DEFAULT_STD,
}
FAMILIES = {
    "clip": Family(CLIPVisionModelWithProjection, CLIPImageProcessorPil, "image_embeds", "projection_dim"),
    "siglip": Family(SiglipVisionModel, SiglipImageProcessorPil),
    "dinov2": Family(Dinov2Model, BitImageProcessorPil, defaults=IMAGENET),
    "dinov2_with_registers": Family(Dinov2WithRegistersModel, BitImageProcessorPil, defaults=IMAGENET),
}


def load_picture_encoder(name):
    """Load the vision tower and the image processor of a checkpoint.

    Args:
        name: folder or hub id; a whole CLIP or SigLIP, its vision part, or a DINOv2.
    Returns: (model in float32, image processor), of the classes in FAMILIES. A checkpoint without
        preprocessor_config.json gets the processor of its family; CLIP's and SigLIP's at the image size of the model.
    Raises: InputError when there is no such checkpoint, it is of no such family, or weights of the tower are missing.
    """
    try:
        with quiet_transformers():
            config = _read_config(name)
            family = FAMILIES[find_family(config)]
            model, info = family.model.from_pretrained(
                name, config=config, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--image_model {name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise InputError(f"--image_model {name}: no weights for {sorted(info['missing_keys'])[0]}")
    try:
        processor = family.processor.from_pretrained(name)
    except OSError:
        processor = family.processor(**(family.defaults or _square(family.processor, config.image_size)))
    return model, processor


def _read_config(name):
    """The configuration of the vision tower; raises ValueError where it is of no family."""
    config = AutoConfig.from_pretrained(name)
    if find_family(config) not in FAMILIES:
        raise ValueError(f"it is of type {config.model_type!r}; accepted are {', '.join(FAMILIES)}")
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim  # which of the two is right, CLIPModel says
    config = getattr(config, "vision_config", config)
    if not getattr(config, "vision_use_head", True):
        raise ValueError("it has no pooled output: vision_use_head is false")
    return config


def _square(processor, size):
    square = {"height": size, "width": size}
    crops = getattr(processor, "crop_size", None) is not None
    return {"size": {"shortest_edge": size}, "crop_size": square} if crops else {"size": square}


def find_family(config):
    """The key of FAMILIES for a model's configuration, or a type that is none."""
    return config.model_type.removesuffix(VISION_PART)


def find_width(config):
    """How many numbers an embedding has, by the configuration of a model that `load_picture_encoder` gave."""
    return getattr(config, FAMILIES[find_family(config)].width)


class PictureEncoder:
    """A vision tower of one of the FAMILIES, ready for uint8 pictures.

    Args:
        model: as `load_picture_encoder` gives it.
        processor: the image processor of the same checkpoint (scale, mean and deviation are used).
        device: where to compute.
        dtype: precision of weights and activations.
    """

    def __init__(self, model, processor, device="cpu", dtype=torch.float32):
        self.model = model.to(device=device, dtype=dtype).eval()
        self.device, self.dtype = torch.device(device), dtype
        self.dim, self.output = find_width(model.config), FAMILIES[find_family(model.config)].output
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (mean, std))
        self.scale, self.shift = scale / std, -mean / std

    @torch.inference_mode()
    def __call__(self, pixels):
        """(B, size, size, 3) uint8 array -> (B, dim) float32 tensor on the device."""
        batch = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        batch = (batch * self.scale + self.shift).to(self.dtype)
        return self.model(pixel_values=batch)[self.output].float()


def choose_dtype(mixed_precision, device):
    """A key of DTYPES for `auto`: fp16 on a GPU, as CLIP was published, else fp32; other names stay."""
    return mixed_precision if mixed_precision != "auto" else "fp16" if device.type == "cuda" else "no"


def fetch_later(tensor):
    """Begin to copy a tensor to the host, beside what the device does next.

    Returns: a function that waits for this copy alone and gives the numpy array.
    """
    if not tensor.is_cuda:
        return tensor.numpy
    host, done = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), torch.cuda.Event()
    host.copy_(tensor, non_blocking=True)
    done.record()

    def fetch():
        done.synchronize()
        return host.numpy()

    return fetch
