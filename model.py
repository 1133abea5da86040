"""Foal-Net: speech and video of one utterance -> emotion.

    waveform -> WavLM -> (B, Ta, Da) -+- AVEL: projections, supervised contrastive loss, hard negatives
    CLIP frames ------> (B, Tv, Dv) -+- cross attention both ways -> MEM heads, classifier

Symbols in the shape comments: B utterances of this process, G of the global batch, Ta audio frames (50 Hz), Tv video
frames, Da and Dv their widths, P fused (audio, video) pairs, H heads, C classes, E the embedding width.

Sources: Li et al., "Enhancing Modal Fusion by Alignment and Label Matching for Multimodal Emotion Recognition",
Interspeech 2024 (section numbers below); Chen et al. 2022 (WavLM); Khosla et al. 2020 (supervised contrastive loss);
Li et al. 2021, ALBEF (hard negatives by contrastive similarity). Names in the state dict are those of the authors'
release; another speech encoder than WavLM (encoders.py) has its own name there.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from encoders import (
    add_adapters,
    build_encoder,
    check_layer,
    choose_mix,
    encode,
    find_checkpoint,
    find_holder,
    freeze,
    is_packed,
    load_encoder,
    merge_adapters,
    read_adapters,
)
from wavlm import SharedDraws, encode_upper

MODALITIES = ("av", "a", "v")
POOLINGS = ("mean", "max")
INITIAL_TEMPERATURE = math.log(1 / 0.07)  # as released: the temperature divides
MIN_TEMPERATURE = 1e-3


class FoalNetConfig(PreTrainedConfig):
    """Everything that rebuilds a FoalNet.

    Args:
        audio_config: configuration of a speech encoder of encoders.py (dict with `model_type`, or transformers' own);
            None where sound comes as ready features, or not at all.
        wavlm: the same for a WavLM, whose dict needs no `model_type`.
        audio_dim, video_dim: width of ready audio features, and of the video features.
        labels: class names in index order.
        modality: `av`, or `a` or `v` for a one-stream model (masked mean, dropout, linear).
        fusion_layers, fusion_heads, fusion_dropout: cross attention, section 2.3.
        embed_dim, projection_dropout: AVEL's projections, section 2.2.
        initial_temperature: first value of the learnt divisor of the similarities.
        avel_weight, mem_weight: weights of the two auxiliary losses; a task of weight 0 is not computed.
        pooling: how states become one vector over time, `mean` (paper) or `max`.
        normalize_audio: whether waveforms were normalised in training (the data path reads it).
        audio_layer: which of the encoder's states are taken, see `check_layer`.
        train_layers: the encoder's last layers that are trained; those below stay in evaluation mode. None: all.
        lora_rank: of the adapters that are trained in the encoder's place; 0: none.
        audio_model, audio_crc32: the checkpoint under the adapters and the CRC-32 of its weights.
        final_dropout: of the encoders' states and before the classifier; None: what the speech encoder's says, or 0.1.
        modality_dropout: probability that the classifier gets one stream of a training utterance alone; above 0 the
            model has a learnt stand-in for a stream that is absent.
        calibration_temperature: divisor of the logits that makes the probabilities believable; 1: not fitted.
        evaluation: dict of scores, lists and protocol, once the training is finished (running/conclusion.py); or None.
        initializer_range: standard deviation of the new linear layers' first weights.
    """

    model_type = "foalnet"
    sub_configs = {"audio_config": AutoConfig}

    def __init__(
        self,
        wavlm=None,
        audio_config=None,
        audio_dim=None,
        video_dim=768,
        labels=("hap", "neu", "sad", "ang"),
        modality="av",
        fusion_layers=2,
        fusion_heads=4,
        fusion_dropout=0.1,
        embed_dim=512,
        projection_dropout=0.5,
        initial_temperature=INITIAL_TEMPERATURE,
        avel_weight=1.0,
        mem_weight=0.1,
        pooling="mean",
        normalize_audio=False,
        audio_layer="last",
        train_layers=None,
        lora_rank=0,
        audio_model=None,
        audio_crc32=None,
        final_dropout=None,
        modality_dropout=0.0,
        calibration_temperature=1.0,
        evaluation=None,
        initializer_range=0.02,
        **kwargs,
    ):
        if modality not in MODALITIES:
            raise ValueError(f"modality {modality!r} is not one of {', '.join(MODALITIES)}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
        kwargs.pop("freeze_encoder", None)  # of checkpoints before there was audio_dim
        if wavlm is not None:
            audio_config = {**(wavlm if isinstance(wavlm, dict) else wavlm.to_dict()), "model_type": "wavlm"}
        elif audio_config is None and audio_dim is None and "a" in modality:
            audio_config = {"model_type": "wavlm"}
        if isinstance(audio_config, dict):
            fields = {name: value for name, value in audio_config.items() if name != "model_type"}
            audio_config = AutoConfig.for_model(audio_config["model_type"], **fields)
        self.audio_config = audio_config
        if audio_config is not None:
            check_layer(audio_layer, audio_config)
            self._check_trained(train_layers, audio_layer)
        self.audio_dim = audio_dim if audio_config is None else audio_config.hidden_size
        self.video_dim = video_dim
        self.labels = list(labels)
        self.modality = modality
        self.fusion_layers = fusion_layers
        self.fusion_heads = fusion_heads
        self.fusion_dropout = fusion_dropout
        self.embed_dim = embed_dim
        self.projection_dropout = projection_dropout
        self.initial_temperature = initial_temperature
        self.avel_weight = avel_weight
        self.mem_weight = mem_weight
        self.pooling = pooling
        self.normalize_audio = normalize_audio
        self.audio_layer = audio_layer
        self.train_layers = train_layers
        self.lora_rank = lora_rank
        self.audio_model = audio_model
        self.audio_crc32 = audio_crc32
        self.final_dropout = getattr(audio_config, "final_dropout", 0.1) if final_dropout is None else final_dropout
        self.modality_dropout = modality_dropout
        self.calibration_temperature = calibration_temperature
        self.evaluation = evaluation
        self.initializer_range = initializer_range
        names = {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}
        super().__init__(**{**kwargs, **names})

    @property
    def width(self):
        """Of the widest layers."""
        return self.audio_dim or self.video_dim

    @property
    def encoder_layers(self):
        """Layers of the speech encoder that run."""
        return self.audio_layer if isinstance(self.audio_layer, int) else self.audio_config.num_hidden_layers

    def _check_trained(self, train_layers, audio_layer):
        """Raise ValueError where the lower layers can't be kept as they are."""
        if train_layers is None:
            return
        n = audio_layer if isinstance(audio_layer, int) else self.audio_config.num_hidden_layers
        if not 0 < train_layers <= n:
            raise ValueError(f"train_layers {train_layers}: a number from 1 to {n}, the layers that run, is expected")
        if audio_layer in ("mean", "weighted"):
            raise ValueError(f"train_layers {train_layers}: audio_layer {audio_layer} needs the states of every layer")
        if not is_packed(self.audio_config):
            kind = self.audio_config.model_type
            raise ValueError(
                f"train_layers {train_layers}: a {kind} can't be entered at a layer; WavLM and its like can"
            )


@dataclass
class FoalNetOutput(ModelOutput):
    """What FoalNet.forward returns; entries that the modality, the weights or absent labels leave out are None.

    logits (B, C); loss = loss_cls + avel_weight * loss_avel + mem_weight * loss_mem, all scalars over the global batch
    (under several processes: this process's share, their mean over processes is the global loss).
    audio_pooled (B, Da), video_pooled (B, Dv): over time, before AVEL. audio_embeds, video_embeds (B, E): after AVEL's
    projection, L2 norm 1. fused (B, Da + Dv): input of the classifier. logits_per_audio, logits_per_video (B, G):
    similarities over temperature. mem_logits_audio, mem_logits_video (2B, 2): first the real pairs, then the negatives,
    with mem_targets (2B,), 1 = same emotion, and mem_mask (2B,) bool, False where a row has no negative.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    loss_cls: torch.Tensor | None = None
    loss_avel: torch.Tensor | None = None
    loss_mem: torch.Tensor | None = None
    audio_pooled: torch.Tensor | None = None
    video_pooled: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    fused: torch.Tensor | None = None
    logits_per_audio: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    mem_logits_audio: torch.Tensor | None = None
    mem_logits_video: torch.Tensor | None = None
    mem_targets: torch.Tensor | None = None
    mem_mask: torch.Tensor | None = None


def is_distributed():
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _AllGather(torch.autograd.Function):
    """All-gather of equal shapes; the gradient of a process's part is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx, tensor):
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


class GlobalBatch:
    """The batch of all processes as this one sees it: the gather policy of AVEL and MEM.

    Contract of `gather`: rows of all processes in rank order, with gradient; backward sums over processes. So if each
    process's loss is N times its share of the global loss (`global_mean`), then the mean that DistributedDataParallel
    takes over processes is the gradient of the global loss. One process: everything is as it is.

    Attributes:
        rows: utterances of each process.
        steps: longest sequence over the processes, one number a stream.
        first: where this process's rows begin.
    """

    def __init__(self, *streams):
        """streams: (B, T, D) tensors of the same B; B and T may differ between processes."""
        shape = [len(streams[0]), *(stream.shape[1] for stream in streams)]
        shapes = [shape]
        if is_distributed():
            device = streams[0].device
            parts = [torch.empty(len(shape), dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, torch.tensor(shape, device=device))
            shapes = torch.stack(parts).tolist()
        self.rows = [rows for rows, *_ in shapes]
        self.steps = [max(steps) for steps in list(zip(*shapes, strict=True))[1:]]
        self.first = sum(self.rows[: dist.get_rank()]) if len(shapes) > 1 else 0

    def gather(self, tensor, steps=None):
        """(B, ...) -> (G, ...), or with `steps` (B, T, ...) -> (G, steps, ...), shorter sequences padded with zeros."""
        if len(self.rows) == 1:
            return tensor
        padding = [0, 0] * tensor.dim()
        padding[-1] = max(self.rows) - len(tensor)
        if steps is not None:
            padding[-3] = steps - tensor.shape[1]
        parts = _AllGather.apply(F.pad(tensor, padding))
        return torch.cat([part[:rows] for part, rows in zip(parts, self.rows, strict=True)])


def global_mean(values, weights=None):
    """This process's share of a mean over the rows of all processes (times N, see `GlobalBatch`).

    Args:
        values: (B,) float.
        weights: (B,) 0/1 or bool, the rows that count; all by default. No row at all gives 0.
    """
    weights = torch.ones_like(values) if weights is None else weights.to(values.dtype)
    total = weights.sum()
    share = 1
    if is_distributed():
        share = dist.get_world_size()
        dist.all_reduce(total)
    return share * (values * weights).sum() / total.clamp(min=1)


def masked_mean(states, mask):
    """Mean over the valid steps of each sequence.

    Args:
        states: (B, T, D) float.
        mask: (B, T) bool, True where valid; every row has at least one True.
    Returns: (B, D), the dtype of states.
    """
    weights = mask.to(states.dtype) / mask.sum(1, keepdim=True)
    return torch.einsum("btd,bt->bd", states, weights.to(states.dtype))


def masked_max(states, mask):
    """Maximum over the valid steps of each sequence; shapes as in `masked_mean`."""
    return states.masked_fill(~mask[..., None], -torch.inf).amax(1)


class Projection(nn.Module):
    """AVEL's projection of one stream, (B, D) -> (B, E); section 2.2."""

    def __init__(self, width, embed_dim, dropout):
        super().__init__()
        self.linear1 = nn.Linear(width, embed_dim, bias=False)
        self.linear2 = nn.Linear(embed_dim, embed_dim, bias=False)
        self.layer_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled):
        first = self.linear1(pooled)
        second = self.dropout(self.linear2(F.gelu(first)))
        return self.layer_norm(first + second)


class CrossAttention(nn.Module):
    """One fusion layer: a stream asks, the raw other stream answers; no feed-forward part. Section 2.3.

    The residual is the layer's input, as it was before w_q. With row indices a layer fuses P pairs out of fewer
    sequences, and each sequence is projected once, however many pairs it stands in.
    """

    def __init__(self, width, other_width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.w_q = nn.Linear(width, width)
        self.w_k = nn.Linear(other_width, width)
        self.w_v = nn.Linear(other_width, width)
        self.w_concat = nn.Linear(width, width)
        self.ln = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states, other, other_mask, rows=None, other_rows=None):
        """
        Args:
            states: (B, T, D) the stream's own state.
            other: (B', T', D') the other stream, other_mask (B', T') bool.
            rows, other_rows: (P,) int, the sequences of each pair; None: pair i is (i, i).
        Returns: (P, T, D).
        """
        q = _take(self.w_q(states), rows)  # (P, T, D)
        k = _take(self.w_k(other), other_rows)  # (P, T', D)
        v = _take(self.w_v(other), other_rows)
        mask = _take(other_mask, other_rows)[:, None, None, :]  # (P, 1, 1, T')
        heads = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v)]  # (P, H, T, D / H)
        attended = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        output = self.dropout(self.w_concat(attended.transpose(1, 2).flatten(2)))
        return self.ln(output + _take(states, rows))

    def attend(self, states, other, other_mask):
        """What forward weighs the other stream by: (B, T, T') float, mean over the heads, rows sum to 1."""
        q, k = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.w_q(states), self.w_k(other)))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T')
        return scores.masked_fill(~other_mask[:, None, None, :], -torch.inf).softmax(-1).mean(1)


def _count_valid(sequences, mask):
    """Valid steps of each sequence, list of B int. Args: sequences: (B, T, ...). mask: (B, T) or None."""
    return [sequences.shape[1]] * len(sequences) if mask is None else mask.long().sum(1).tolist()


def _take(tensor, rows):
    return tensor if rows is None else tensor[rows]


def avel_losses(similarities, labels, all_labels):
    """AVEL's loss of each row: minus the sum of log softmax over the row's positives (same emotion). Section 2.2.

    Args:
        similarities: (B, G) float32, over temperature.
        labels: (B,) of the rows, all_labels: (G,) of the columns.
    Returns: (B,).
    """
    positives = labels[:, None] == all_labels[None, :]
    return -(F.log_softmax(similarities, dim=-1) * positives).sum(-1)


def sample_hard_negatives(similarities, labels, all_labels, gumbel, candidates=None):
    """For each row one column of another emotion, drawn from the softmax of its similarities over those; no gradient.

    The draw is an argmax of similarity + Gumbel noise, which is a draw from the softmax without any device sync.

    Args:
        similarities: (B, G), over temperature.
        labels: (B,) of the rows, all_labels: (G,) of the columns.
        gumbel: (B, G) standard Gumbel noise.
        candidates: (G,) bool, the columns that may be drawn; None: all.
    Returns: (B,) int64 columns; without meaning for a row that has no column of another emotion.
    """
    others = find_others(labels, all_labels, candidates)
    return (similarities.detach() + gumbel).masked_fill(~others, -torch.inf).argmax(-1)


def find_others(labels, all_labels, candidates=None):
    """(B, G) bool: the columns of another emotion, of those that are candidates."""
    others = labels[:, None] != all_labels[None, :]
    return others if candidates is None else others & candidates


def draw_gumbel(size, device, generator=None):
    """Standard Gumbel noise, (size, size) float32."""
    return -torch.empty(size, size, device=device).exponential_(generator=generator).log()


def draw_absences(rows, probability, device, seed=None):
    """Which utterances of a global batch lose a stream: (2, G) bool, the sound and the picture, never both.

    Args:
        rows: G. probability: of losing either. seed: int, the same in every process; None: the default generator.
    """
    generator = None
    if seed is not None:
        generator = torch.Generator(device).manual_seed(int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    draws = torch.rand(rows, device=device, generator=generator)
    audio = draws < probability / 2
    return torch.stack([audio, (draws < probability) & ~audio])


class FoalNet(PreTrainedModel):
    """Audio-video emotion recognition with alignment (AVEL) and label matching (MEM)."""

    config_class = FoalNetConfig
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config):
        super().__init__(config)
        width, n_classes = 0, len(config.labels)
        self.pool = {"mean": masked_mean, "max": masked_max}[config.pooling]
        self.dropout = nn.Dropout(config.final_dropout)
        self.encoder_passes = 1  # parts of a training batch that the encoder takes one after the other, to save memory
        self.encoder_name = None  # of the speech encoder in the state dict
        if "a" in config.modality and config.audio_config is not None:
            self._build_encoder(config)
        if "a" in config.modality:
            width += config.audio_dim
        if "v" in config.modality:
            width += config.video_dim
        if config.modality == "av":
            self._build_fusion(config, config.audio_dim, config.video_dim)
        self.cls_head = nn.Linear(width, n_classes)
        self.post_init()
        if config.lora_rank:
            self._adapt()
        self._freeze_unused()

    def _build_encoder(self, config):
        self.encoder_name = config.audio_config.model_type.replace("-", "_")
        self.add_module(self.encoder_name, build_encoder(config.audio_config, config.audio_layer))
        if config.audio_layer == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(config.encoder_layers + 1))

    def _adapt(self):
        add_adapters(self.encoder, self.config.lora_rank, self.config.train_layers)
        self._keys_to_ignore_on_load_missing = [rf"^{self.encoder_name}\."]  # they come from elsewhere

    @property
    def encoder(self):
        """The speech encoder, None where sound comes as ready features, or not at all."""
        return None if self.encoder_name is None else getattr(self, self.encoder_name)

    def _build_fusion(self, config, audio_dim, video_dim):
        for name in ("audio", "video"):
            width = {"audio": audio_dim, "video": video_dim}[name]
            if width % config.fusion_heads:
                raise ValueError(f"{name} width {width} is not a multiple of fusion_heads {config.fusion_heads}")
        fusion = (config.fusion_heads, config.fusion_dropout)
        self.a2v = nn.ModuleList(CrossAttention(audio_dim, video_dim, *fusion) for _ in range(config.fusion_layers))
        self.v2a = nn.ModuleList(CrossAttention(video_dim, audio_dim, *fusion) for _ in range(config.fusion_layers))
        self.audio_project = Projection(audio_dim, config.embed_dim, config.projection_dropout)
        self.video_project = Projection(video_dim, config.embed_dim, config.projection_dropout)
        self.a2v_head = nn.Linear(audio_dim, 2)
        self.v2a_head = nn.Linear(video_dim, 2)
        self.temp = nn.Parameter(torch.tensor(float(config.initial_temperature)))
        if config.modality_dropout:
            self.absent_audio = nn.Parameter(torch.zeros(audio_dim))
            self.absent_video = nn.Parameter(torch.zeros(video_dim))

    def _init_weights(self, module):
        """N(0, initializer_range) for linear layers, bias 0; LayerNorm 1 and 0; WavLM initialises itself.

        As released: there, transformers' initialisation of WavLM (`initializer_range` 0.02 in every published WavLM)
        runs over all layers.
        """
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, FoalNet):
            if hasattr(module, "temp"):
                nn.init.constant_(module.temp, self.config.initial_temperature)
            for name in ("absent_audio", "absent_video", "layer_weights"):
                if hasattr(module, name):
                    nn.init.zeros_(getattr(module, name))

    def _freeze_unused(self):
        """Take parameters that get no gradient out of training, so that distributed training need not look for them."""
        config, unused = self.config, []
        if self.encoder is not None:
            freeze(self.encoder, config.train_layers, bool(config.lora_rank))
        if config.modality == "av" and not config.avel_weight:
            unused += [*self.audio_project.parameters(), *self.video_project.parameters(), self.temp]
        if config.modality == "av" and not config.mem_weight:
            unused += [*self.a2v_head.parameters(), *self.v2a_head.parameters()]
        for parameter in unused:
            parameter.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder, *args, **kwargs):
        """As in transformers, which forgets on the way what is frozen; adapters and what is under them come after."""
        loaded = super().from_pretrained(folder, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.lora_rank:
            base = load_encoder(find_checkpoint(model.config.audio_model, folder)).state_dict()
            own = {name: name.replace(".base_layer", "") for name in model.encoder.state_dict() if ".lora_" not in name}
            weights = {name: base[clean] for name, clean in own.items()}
            model.encoder.load_state_dict({**weights, **read_adapters(folder)})
        model._freeze_unused()
        return loaded

    @classmethod
    def from_encoder(cls, audio_model, **config):
        """Start from the pretrained weights of a speech encoder.

        Args:
            audio_model: folder or hub id of a checkpoint of a type of encoders.py, for example microsoft/wavlm-large.
            config: further fields of FoalNetConfig.
        Raises: ValueError or OSError whose first line says what is wrong with the checkpoint or the fields.
        """
        encoder = load_encoder(audio_model)
        model = cls(FoalNetConfig(audio_config=encoder.config, **{**config, "lora_rank": 0}))
        wanted = model.encoder.state_dict().keys()  # those of layers above audio_layer are left over
        model.encoder.load_state_dict({name: w for name, w in encoder.state_dict().items() if name in wanted})
        if config.get("lora_rank"):
            model.config.lora_rank, model.config.audio_model = config["lora_rank"], str(audio_model)
            model._adapt()
            model._freeze_unused()
        return model

    def base_weights(self):
        """The weights under the adapters, {name in their own checkpoint: tensor}."""
        weights = self.encoder.state_dict()
        return {name.replace(".base_layer", ""): w for name, w in weights.items() if ".lora_" not in name}

    def own_state_dict(self):
        """All weights, without those under adapters, which have a checkpoint of their own."""
        return {name: w for name, w in self.state_dict().items() if not self._is_base(name)}

    def load_own_state_dict(self, weights):
        """Take up what `own_state_dict` gave. Raises: RuntimeError for names or shapes of another model."""
        found = self.load_state_dict(weights, strict=False)
        if lost := [*found.unexpected_keys, *(name for name in found.missing_keys if not self._is_base(name))]:
            raise RuntimeError(f"{len(lost)} weights are missing or of another model, such as {lost[0]}")

    def _is_base(self, name):
        return bool(self.config.lora_rank) and name.startswith(f"{self.encoder_name}.") and ".lora_" not in name

    def merge_adapters(self):
        """Add the adapters to the weights that they are of; from here on this is a model like any other."""
        merge_adapters(self.encoder)
        self.config.lora_rank, self.config.audio_model, self.config.audio_crc32 = 0, None, None
        self._keys_to_ignore_on_load_missing = None

    def train(self, mode=True):
        """As in torch; layers that are not trained, and what is below them, stay in evaluation mode."""
        super().train(mode)
        if self.encoder is not None and self.config.train_layers is not None:
            self.encoder.eval()
            find_holder(self.encoder).layers[-self.config.train_layers :].train(mode)
        return self

    def forward(
        self,
        input_values=None,
        attention_mask=None,
        video_features=None,
        video_mask=None,
        labels=None,
        seed=None,
        first_row=0,
        samples=None,
        audio_features=None,
        audio_states=None,
        audio_mask=None,
    ):
        """
        Args:
            input_values: (B, Na) float, 16 kHz waveform; attention_mask: (B, Na), 1 where valid, None = all. A
                model of both streams predicts from one where all arguments of the other are None.
            audio_features, audio_mask: (B, Ta, Da) and (B, Ta), the speech encoder's output, or what takes its place,
                instead of the two above.
            audio_states: (B, Ta, Da), what the lowest of the `train_layers` takes, instead of audio_features.
            video_features: (B, Tv, Dv) float; video_mask: (B, Tv), 1 where valid, None = all.
            labels: (B,) int64; None predicts: no loss, and only the real pairs are fused.
            seed: int, the same on every process, of the draws that all share: hard negatives, dropped layers and
                SpecAugment, which N processes then make as one does; None takes the default generators.
            first_row: where this process's rows begin in the global batch.
            samples: list of B int, valid samples (or rows of audio_states), on the host; None reads them off the mask.
        Returns: FoalNetOutput.
        """
        streams, draws = {}, None if seed is None else SharedDraws(seed, first_row)
        if "a" in self.config.modality and audio_features is not None:
            streams["audio"] = self.take_features(audio_features, audio_mask)
        elif "a" in self.config.modality and audio_states is not None:
            streams["audio"] = self.encode_states(audio_states, audio_mask, samples, draws)
        elif "a" in self.config.modality and input_values is not None:
            streams["audio"] = self.encode_audio(input_values, attention_mask, samples, draws)
        if "v" in self.config.modality and video_features is not None:
            streams["video"] = self.take_features(video_features, video_mask)
        self._stand_in(streams, labels)
        output = FoalNetOutput(**{f"{name}_pooled": self.pool(*stream) for name, stream in streams.items()})
        if self.config.modality == "av":
            self._align_and_fuse(streams["audio"], streams["video"], labels, seed, output)
        else:
            output.fused = output.audio_pooled if "audio" in streams else output.video_pooled
        output.logits = self.cls_head(self.dropout(output.fused))
        if labels is not None:
            self._add_losses(labels, output)
        return output

    def encode_audio(self, input_values, attention_mask=None, samples=None, draws=None):
        """The encoder's states after dropout, (B, Ta, Da), padded frames 0, and their mask (B, Ta) bool."""
        samples = _count_valid(input_values, attention_mask) if samples is None else samples
        states, mask = encode(self.encoder, input_values, samples, self.encoder_passes, draws, self.mix_layers())
        return self.dropout(states), mask

    def encode_states(self, states, mask=None, lengths=None, draws=None):
        """As `encode_audio`, from what the lowest of the trained layers takes, (B, Ta, Da); lengths: list of B int."""
        lengths = _count_valid(states, mask) if lengths is None else lengths
        first = self.config.encoder_layers - self.config.train_layers
        states, mask = encode_upper(self.encoder, states, lengths, first, self.encoder_passes, draws)
        return self.dropout(states), mask

    def mix_layers(self):
        """Weights of the encoder's hidden states, (layers + 1,) float, or None for the last one."""
        if self.config.audio_layer == "weighted":
            return self.layer_weights.softmax(0)
        return choose_mix(self.encoder, self.config.audio_layer)

    def take_features(self, features, mask=None):
        """Ready features after dropout, (B, T, D), padded frames 0, and their mask (B, T) bool."""
        if mask is None:
            mask = torch.ones(features.shape[:2], device=features.device)
        features = features.to(self.cls_head.weight.dtype)
        return self.dropout(features) * mask[..., None].to(features.dtype), mask.bool()

    def _stand_in(self, streams, labels):
        """Give the model the stand-in of a stream that no utterance of the batch has; see `hide`."""
        absent = [name for name in ("audio", "video") if name[0] in self.config.modality and name not in streams]
        if not absent:
            return
        if not streams or labels is not None:
            raise ValueError(f"no {' and no '.join(absent)} in the batch; every stream of the model is needed here")
        (states, _), (name,) = next(iter(streams.values())), absent
        width = self.config.audio_dim if name == "audio" else self.config.video_dim
        rows = states.shape[0]
        blank = states.new_zeros(rows, 1, width), states.new_ones(rows, 1, dtype=torch.bool)
        streams[name] = self.hide(name, *blank, blank[1][:, 0])

    def hide(self, name, states, mask, absent):
        """A stream without that of some utterances: one step of the learnt stand-in, or of zeros where none was learnt.

        Args:
            name: `audio` or `video`. states: (B, T, D), mask: (B, T) bool. absent: (B,) bool.
        Returns: states and mask of the same shapes.
        """
        first = torch.arange(states.shape[1], device=states.device) == 0  # (T,)
        stand_in = self.get_parameter(f"absent_{name}") if self.config.modality_dropout else states.new_zeros(())
        blank = torch.where(first[:, None], stand_in.to(states.dtype), states.new_zeros(()))  # (T, D) or (T, 1)
        return torch.where(absent[:, None, None], blank, states), torch.where(absent[:, None], first, mask)

    def _align_and_fuse(self, audio, video, labels, seed, output):
        """The two-stream part: AVEL, negatives, fusion, MEM. audio and video are (states, mask).

        Where utterances lose a stream (`modality_dropout`), AVEL still sees both, the classifier what is left, and MEM,
        which could not know, goes without them on both sides.
        """
        output.audio_embeds = F.normalize(self.audio_project(output.audio_pooled).float(), dim=-1)
        output.video_embeds = F.normalize(self.video_project(output.video_pooled).float(), dim=-1)
        config, complete = self.config, None
        if labels is not None and (config.avel_weight or config.mem_weight or config.modality_dropout):
            batch = GlobalBatch(audio[0], video[0])
            all_labels = batch.gather(labels)
            local = slice(batch.first, batch.first + len(labels))
            if config.avel_weight or config.mem_weight:
                self._align(labels, all_labels, batch, output)
            if config.modality_dropout and self.training:
                absent = draw_absences(len(all_labels), config.modality_dropout, labels.device, seed)
                audio = self.hide("audio", *audio, absent[0, local])
                video = self.hide("video", *video, absent[1, local])
                complete = ~absent.any(0)
        if labels is None or not config.mem_weight:
            output.fused = torch.cat([self.fuse(self.a2v, *audio, *video), self.fuse(self.v2a, *video, *audio)], -1)
            return
        negatives = self._draw_negatives(labels, all_labels, local, complete, seed, output)
        all_audio, all_video = (
            [batch.gather(tensor, steps) for tensor in stream]
            for stream, steps in zip((audio, video), batch.steps, strict=True)
        )
        audio_out = self.fuse(self.a2v, *audio, *all_video, negatives[0], batch.first)
        video_out = self.fuse(self.v2a, *video, *all_audio, negatives[1], batch.first)
        has_negative = find_others(labels, all_labels, complete).any(-1)
        self._match(audio_out, video_out, has_negative if complete is None else has_negative & complete[local], output)
        output.fused = torch.cat([audio_out[: len(labels)], video_out[: len(labels)]], -1)

    def _draw_negatives(self, labels, all_labels, local, complete, seed, output):
        """For each row of this process a video and an audio of another emotion: two (B,) int64 of the global batch."""
        generator = None if seed is None else torch.Generator(labels.device).manual_seed(seed)
        noise = [draw_gumbel(len(all_labels), labels.device, generator)[local] for _ in ("audio", "video")]
        similarities = output.logits_per_audio, output.logits_per_video
        return [
            sample_hard_negatives(s, labels, all_labels, gumbel, complete)
            for s, gumbel in zip(similarities, noise, strict=True)
        ]

    def fuse(self, layers, states, mask, other, other_mask, negatives=None, first=0):
        """Cross attention of one stream over the other, pooled over time.

        Args:
            layers: self.a2v or self.v2a.
            states, mask: (B, T, D) and (B, T) of the stream; other, other_mask: of the other one.
            negatives: (B,) int64 rows of `other` that make a second, negative pair with each row; `other` then holds
                the global batch and `first` says where the rows' own partners begin.
        Returns: (B, D), or (2B, D) with negatives: first the real pairs.
        """
        rows = other_rows = None
        if negatives is not None:
            rows = torch.arange(len(states), device=states.device)
            other_rows = torch.cat([rows + first, negatives])
            rows = rows.repeat(2)
            mask = mask[rows]
        for layer in layers:
            states = layer(states, other, other_mask, rows, other_rows)
            rows = None  # from here on the states are those of the pairs
        return self.pool(states, mask)

    def _align(self, labels, all_labels, batch, output):
        """Similarities against the global batch, and AVEL's loss."""
        self.temp.data.clamp_(min=MIN_TEMPERATURE)  # out of autograd's sight: other passes may await their backward
        all_audio, all_video = batch.gather(output.audio_embeds), batch.gather(output.video_embeds)
        with torch.autocast(labels.device.type, enabled=False):
            output.logits_per_audio = output.audio_embeds @ all_video.T / self.temp
            output.logits_per_video = output.video_embeds @ all_audio.T / self.temp
        if self.config.avel_weight:
            losses = [avel_losses(s, labels, all_labels) for s in (output.logits_per_audio, output.logits_per_video)]
            output.loss_avel = global_mean(sum(losses) / 2)

    def attend(self, layers, states, other, other_mask):
        """How a stream attends to the other, arguments of `fuse`: (B, T, T') float, mean over layers and heads."""
        maps = []
        for layer in layers:
            maps.append(layer.attend(states, other, other_mask))
            states = layer(states, other, other_mask)
        return torch.stack(maps).mean(0)

    def _match(self, audio_out, video_out, counts, output):
        """MEM's loss on the fused pairs, first the real ones, then the negatives; counts: (B,) bool, rows with both."""
        output.mem_mask = counts.repeat(2)
        output.mem_targets = torch.cat([torch.ones_like(counts), torch.zeros_like(counts)]).long()
        output.mem_logits_audio, output.mem_logits_video = self.a2v_head(audio_out), self.v2a_head(video_out)
        losses = [
            F.cross_entropy(logits.float(), output.mem_targets, reduction="none")
            for logits in (output.mem_logits_audio, output.mem_logits_video)
        ]
        output.loss_mem = global_mean(sum(losses) / 2, output.mem_mask)

    def _add_losses(self, labels, output):
        output.loss_cls = global_mean(F.cross_entropy(output.logits.float(), labels, reduction="none"))
        output.loss = output.loss_cls
        if output.loss_avel is not None:
            output.loss = output.loss + self.config.avel_weight * output.loss_avel
        if output.loss_mem is not None:
            output.loss = output.loss + self.config.mem_weight * output.loss_mem


AutoConfig.register(FoalNetConfig.model_type, FoalNetConfig, exist_ok=True)
AutoModel.register(FoalNetConfig, FoalNet, exist_ok=True)
