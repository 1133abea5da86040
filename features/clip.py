"""CLIP: a checkpoint's vision tower with its projection, from uint8 pictures to embeddings.

The embedding is CLIP's `get_image_features`, not normalised. Source: Radford et al. 2021.
"""

import torch
from transformers import AutoConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from running.errors import InputError
from running.quiet import quiet_transformers

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_clip(name):
    """Load the vision tower and the image processor of a CLIP checkpoint.

    Args:
        name: folder or hub id; a whole CLIP model or its vision part.
    Returns: (CLIPVisionModelWithProjection in float32, CLIPImageProcessorPil). A checkpoint without
        preprocessor_config.json gets CLIP's own processor at the image size of the model.
    Raises: InputError when there is no such checkpoint, it is not CLIP, or weights of the tower are missing.
    """
    try:
        with quiet_transformers():
            model, info = CLIPVisionModelWithProjection.from_pretrained(
                name, config=_read_config(name), output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--clip_model {name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise InputError(f"--clip_model {name}: no weights for {sorted(info['missing_keys'])[0]}")
    size = model.config.image_size
    try:
        processor = CLIPImageProcessorPil.from_pretrained(name)
    except OSError:
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return model, processor


def _read_config(name):
    """The configuration of the vision tower; raises ValueError where it is no CLIP."""
    config = AutoConfig.from_pretrained(name)
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim  # which of the two is right, CLIPModel says
        return config.vision_config
    if config.model_type != "clip_vision_model":
        raise ValueError(f"it is of type {config.model_type!r}, not clip or clip_vision_model")
    return config


class ClipEncoder:
    """The vision tower of a CLIP checkpoint with its projection, ready for uint8 pictures.

    Args:
        model: CLIPVisionModelWithProjection.
        processor: the CLIPImageProcessorPil of the same checkpoint (scale, mean and deviation are used).
        device: where to compute.
        dtype: precision of weights and activations.
    """

    def __init__(self, model, processor, device="cpu", dtype=torch.float32):
        self.model = model.to(device=device, dtype=dtype).eval()
        self.device, self.dtype = torch.device(device), dtype
        self.dim = model.config.projection_dim
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (mean, std))
        self.scale, self.shift = scale / std, -mean / std

    @torch.inference_mode()
    def __call__(self, pixels):
        """(B, size, size, 3) uint8 array -> (B, dim) float32 tensor on the device, after the projection."""
        batch = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        batch = (batch * self.scale + self.shift).to(self.dtype)
        return self.model(pixel_values=batch).image_embeds.float()


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
