"""WavLM's forward pass on valid steps only: the same modules and mathematics as transformers' WavLMModel, less work.

Its relatives (wav2vec 2.0, HuBERT, data2vec-audio, UniSpeech) are built of the same modules without the position bias,
and run here, too.

Utterances differ in length (IEMOCAP: median 3.6 s, cut at 6 s), so a padded batch is up to a third padding. Here
everything but attention runs on the valid steps of all utterances laid end to end, "packed" (N, D), the positional
convolution with gaps between them. Attention runs sequence by sequence on a CPU; on a GPU all sequences are padded to
the longest and the fused kernel takes the gated relative position bias as its mask, where transformers 5.23 always
computes the weights. That bias is made again in the backward pass.

The host never waits for the device: lengths and random draws are made on the host, and no copy is waited for.

Source: Chen et al. 2022, "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing"; the
modules, names and random draws (layerdrop, SpecAugment) are those of transformers, but for `SharedDraws`. One thing
differs: data2vec's positions are those of each utterance alone; in transformers the padding of a batch reaches in.
"""

import contextlib
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.models.wavlm.modeling_wavlm import _compute_mask_indices

ALIGNMENT = 16  # steps; where the rows of the attention bias start elsewhere, CUDA kernels take a padded copy of it


@dataclass(frozen=True)
class SharedDraws:
    """Random draws that stay the same however a global batch is shared out over processes: dropped layers, SpecAugment.

    Args:
        seed: of the step, the same in every process.
        first_row: where this process's rows begin in the global batch.
    """

    seed: int
    first_row: int = 0

    def keep_layers(self, n, probability):
        """Which of n layers run, list of bool; the first always does, as in transformers."""
        draws = np.random.default_rng([self.seed, 0]).random(n)
        return [i == 0 or draw >= probability for i, draw in enumerate(draws)]

    @contextlib.contextmanager
    def row(self, i):
        """numpy's global generator, which transformers draws spans from, is that of row i of this process inside."""
        before = np.random.get_state()
        np.random.seed(np.random.SeedSequence([self.seed, 1, self.first_row + i]).generate_state(4))
        try:
            yield
        finally:
            np.random.set_state(before)


class _Pack(torch.autograd.Function):
    """Rows of a tensor by unique indices; backward copies where indexing would sort and accumulate."""

    @staticmethod
    def forward(ctx, states, index):
        ctx.save_for_backward(index)
        ctx.rows = len(states)
        return states.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient):
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_copy_(0, index, gradient), None


class Packing:
    """Where the valid steps of B sequences lie, padded (B, T) and packed (N,).

    Args:
        lengths: list of B int, all > 0.
        device: of the states.
        together: attention takes all sequences at once, padded to a multiple of ALIGNMENT; else one by one.
    """

    def __init__(self, lengths, device, together=True):
        self.lengths, self.steps, self.together = lengths, max(lengths), together
        if together:
            self.steps += -self.steps % ALIGNMENT
        self.mask = torch.arange(self.steps) < torch.tensor(lengths)[:, None]
        self.index = self.mask.flatten().nonzero()[:, 0].to(device, non_blocking=True)  # packed -> padded, flat
        self.mask = self.mask.to(device, non_blocking=True)

    def pack(self, padded):
        """(B, T, ...) -> (N, ...)."""
        return _Pack.apply(padded.flatten(0, 1), self.index)

    def unpack(self, packed):
        """(N, ...) -> (B, T, ...), zero where padded."""
        padded = packed.new_zeros(len(self.lengths) * self.steps, *packed.shape[1:])
        return padded.index_copy(0, self.index, packed).unflatten(0, (len(self.lengths), self.steps))

    def space(self, gap):
        """Where the packed steps lie, sequences end to end with `gap` steps between them, (N,) int64 on the host."""
        return torch.arange(sum(self.lengths)) + gap * torch.arange(len(self.lengths)).repeat_interleave(
            torch.tensor(self.lengths)
        )


INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def draw_kept(shape, p):
    """A dropout mask on a CPU, several times as fast as torch's: four elements share 64 bits, nothing is compared.

    Returns: int16 of this shape, all bits set where an element stays and none where it goes, and the factor of what
        stays; p is rounded to 1/32768.
    """
    dropped, n = round(p * 32768), math.prod(shape)
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n]
    gone = bits.bitwise_right_shift_(1).sub_(dropped - 16384).bitwise_right_shift_(15)  # -1 for `dropped` of 32768
    return gone.bitwise_not_().view(shape), 32768 / (32768 - dropped)


def keep(states, kept):
    """The states where `kept` (of `draw_kept`) has its bits set, else 0."""
    return states.view(INTEGERS[states.element_size()]).bitwise_and(kept).view(states.dtype)


class _Dropout(torch.autograd.Function):
    """Dropout on a CPU."""

    @staticmethod
    def forward(ctx, states, p):
        ctx.kept, ctx.scale = draw_kept(states.shape, p)
        return keep(states * ctx.scale, ctx.kept)

    @staticmethod
    def backward(ctx, gradient):
        return keep(gradient * ctx.scale, ctx.kept), None


def dropout(states, p, training):
    """nn.Dropout's function; p is rounded to 1/32768 on a CPU."""
    if not training or p == 0:
        return states
    return F.dropout(states, p) if states.is_cuda else _Dropout.apply(states.contiguous(), p)


def encode(wavlm, input_values, samples, passes=1, draws=None, mix=None):
    """WavLM's last hidden state, or a sum of all of them.

    Args:
        wavlm: transformers WavLMModel without adapter, or a relative.
        input_values: (B, Na) float, waveform at 16 kHz.
        samples: list of B int, the valid samples, which come first.
        passes: with gradients, run the batch in this many parts and keep the activations of none: the backward pass
            computes each part again, so that memory holds one part at a time (GradCache, Gao et al. 2021).
        draws: SharedDraws of layerdrop and SpecAugment; None draws them as transformers does.
        mix: (layers + 1,) weights of transformers' `hidden_states`, whose sum is wanted; None: the last hidden state.
    Returns: (B, Ta, D) states, zero where padded, and (B, Ta) bool mask. On the valid frames the states are those of
        `wavlm(input_values, attention_mask)`, dropout masks apart.
    """
    lengths = wavlm._get_feat_extract_output_lengths(torch.tensor(samples)).tolist()
    spans, channels = draw_masks(wavlm, lengths, draws)
    kept = choose_layers(wavlm, draws)

    def start(rows, packing):
        return extract_features(wavlm, input_values[rows], samples[rows], packing)

    def finish(features, rows, packing):
        masks = (None if mask is None else mask[rows] for mask in (spans, channels))
        return encode_features(wavlm, features, *masks, packing, kept, mix)

    return run_in_passes(lengths, input_values.device, passes, start, finish)


def encode_upper(wavlm, states, lengths, first, passes=1, draws=None):
    """The last hidden state out of that of a lower layer.

    Args:
        states: (B, T, D), transformers' `hidden_states[first]`. lengths: list of B int, the valid steps, which come
            first. first: index of the first layer that runs. The others as for `encode`.
    Returns: as `encode`.
    """
    kept = choose_layers(wavlm, draws)

    def start(rows, packing):
        return packing.pack(F.pad(states[rows], (0, 0, 0, packing.steps - states.shape[1])))

    def finish(packed, rows, packing):
        return run_layers(wavlm, packed, packing, kept, first=first)

    return run_in_passes(lengths, states.device, passes, start, finish)


def run_in_passes(lengths, device, passes, start, finish):
    """Run a batch in parts; with several, the backward pass computes what `finish` does again.

    Args:
        lengths: list of B int. passes: parts where gradients are wanted.
        start: function of rows (slice) and Packing. finish: function of what it gave, rows and Packing.
    Returns: (B, T, D) states, zero where padded, and (B, T) bool mask.
    """
    size = -(-len(lengths) // passes) if torch.is_grad_enabled() else len(lengths)
    together, parts = device.type == "cuda", []
    whole = Packing(lengths, device, together)
    for first in range(0, len(lengths), size):
        rows = slice(first, first + size)
        packing = Packing(lengths[rows], device, together)
        packed = start(rows, packing)
        again = size < len(lengths)
        parts.append(
            checkpoint(finish, packed, rows, packing, use_reentrant=False) if again else finish(packed, rows, packing)
        )
    return whole.unpack(torch.cat(parts)), whole.mask


def choose_layers(wavlm, draws):
    """Which of all layers run in this step, list of bool by the draws that all processes share; None: as it comes."""
    layers, layerdrop = wavlm.encoder.layers, wavlm.config.layerdrop
    if draws is None or not layerdrop or not layers[-1].training:
        return None
    kept = draws.keep_layers(len(layers), layerdrop)
    return [keep or not layer.training for keep, layer in zip(kept, layers, strict=True)]


def encode_features(wavlm, features, spans, channels, packing, kept=None, mix=None):
    """From convolutional features (N, conv_dim) to the last hidden state or the mix (N, D)."""
    projection = wavlm.feature_projection
    if getattr(projection, "feat_proj_layer_norm", True):  # some HuBERT go without
        features = projection.layer_norm(features)
    states = dropout(projection.projection(features), wavlm.config.feat_proj_dropout, wavlm.training)
    states = embed(wavlm, apply_masks(wavlm, states, spans, channels, packing), packing)
    return run_layers(wavlm, states, packing, kept, mix)


def extract_features(wavlm, input_values, samples, packing):
    """Convolutional features of the valid frames, (N, conv_dim).

    With layer norm a frame depends on its own 400 samples alone, so the utterances of a group are laid end to end, each
    from a multiple of the hop, and the frames across the seams left out. With group norm (WavLM base) the statistics
    are those of the padded batch, as in transformers.
    """
    if has_group_norm(wavlm.config):
        features = wavlm.feature_extractor(input_values).transpose(1, 2)[:, : packing.steps]
        return packing.pack(F.pad(features, (0, 0, 0, packing.steps - features.shape[1])))
    hop, parts, filters = math.prod(wavlm.config.conv_stride), [], unfold_filters(wavlm.feature_extractor, input_values)
    rows = range(len(samples))
    for group in [rows] if packing.together else ([i] for i in rows):
        slots = [-(-samples[i] // hop) for i in group]
        rows = [
            F.pad(input_values[i, : samples[i]], (0, slot * hop - samples[i]))
            for i, slot in zip(group, slots, strict=True)
        ]
        rows[-1] = input_values[group[-1], : samples[group[-1]]]
        features = run_convolutions(wavlm.feature_extractor, torch.cat(rows)[:, None], filters)
        if len(group) > 1:
            starts = itertools.accumulate(slots[:-1], initial=0)
            frames = [torch.arange(packing.lengths[i]) + start for i, start in zip(group, starts, strict=True)]
            features = _Pack.apply(features, torch.cat(frames).to(features.device, non_blocking=True))
        parts.append(features)
    return torch.cat(parts)


def has_group_norm(config):
    """Whether the convolutional features of an utterance depend on the batch, as in WavLM base."""
    return getattr(config, "feat_extract_norm", "layer") == "group"  # data2vec has no such field, and layer norm


def unfold_filters(extractor, like):
    """The filters of each convolution as a matrix (channels, kernel * channels before), in the products' precision."""
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    return [layer.conv.weight.permute(0, 2, 1).flatten(1).to(dtype) for layer in extractor.conv_layers]


def run_convolutions(extractor, states, filters):
    """The convolutional features with layer norm, (n samples, 1) -> (frames, conv_dim).

    Each convolution is one matrix product over overlapping windows, and the channels stay last from the first to the
    last: transformers turns them before and after every norm, which took longer than the convolutions.
    """
    for layer, weights in zip(extractor.conv_layers, filters, strict=True):
        channels, (kernel,), (stride,) = states.shape[1], layer.conv.kernel_size, layer.conv.stride
        frames = (len(states) - kernel) // stride + 1
        states = states.to(weights.dtype).contiguous()
        windows = states.as_strided((frames, kernel * channels), (stride * channels, 1))
        states = layer.activation(layer.layer_norm(F.linear(windows, weights, layer.conv.bias)))
    return states


def draw_masks(wavlm, lengths, draws=None):
    """SpecAugment's draws for a batch, those of transformers.

    Args:
        lengths: list of B int, valid frames.
        draws: SharedDraws, which draws each row by itself; None draws the batch at once.
    Returns: (B, T) bool of frames and (B, D) bool of channels to mask; None for what is off.
    """
    config, spans, channels = wavlm.config, None, None
    if not (wavlm.training and config.apply_spec_augment):
        return spans, channels
    if draws is not None:
        rows = []
        for i, length in enumerate(lengths):
            with draws.row(i):
                rows.append(draw_masks(wavlm, [length]))
        if rows[0][0] is not None:
            spans = np.zeros((len(lengths), max(lengths)), bool)
            for target, (row, _) in zip(spans, rows, strict=True):
                target[: row.shape[1]] = row
        if rows[0][1] is not None:
            channels = np.concatenate([row for _, row in rows])
        return spans, channels
    if config.mask_time_prob > 0:
        spans = np.zeros((len(lengths), max(lengths)), bool)  # none where a span is longer than the batch
        if max(lengths) >= config.mask_time_length:
            spans = _compute_mask_indices(
                spans.shape,
                config.mask_time_prob,
                config.mask_time_length,
                torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths]),
                config.mask_time_min_masks,
            )
    if config.mask_feature_prob > 0:
        channels = _compute_mask_indices(
            (len(lengths), config.hidden_size),
            config.mask_feature_prob,
            config.mask_feature_length,
            min_masks=getattr(config, "mask_feature_min_masks", 0),  # transformers 5.23 forgets the field
        )
    return spans, channels


def apply_masks(wavlm, states, spans, channels, packing):
    """SpecAugment on packed states (N, D)."""
    if spans is not None:
        spans = spans[:, : packing.steps]
        spans = np.pad(spans, ((0, 0), (0, packing.steps - spans.shape[1])))
        spans = packing.pack(torch.from_numpy(spans).to(states.device, non_blocking=True))
        states = torch.where(spans[:, None], wavlm.masked_spec_embed.to(states.dtype), states)
    if channels is not None:
        channels = torch.from_numpy(channels).to(states.device, non_blocking=True)
        channels = channels[:, None].expand(-1, packing.steps, -1)
        states = states.masked_fill(packing.pack(channels), 0)
    return states


def has_norm_before(config):
    """Whether the norm comes before (large) or after (base) each block."""
    return getattr(config, "do_stable_layer_norm", False)


def embed(wavlm, states, packing):
    """What the first layer takes, transformers' `hidden_states[0]`: (N, D) with positions -> (N, D)."""
    encoder, config = wavlm.encoder, wavlm.config
    states = states + embed_positions(encoder.pos_conv_embed, states, packing)
    if not has_norm_before(config):
        states = encoder.layer_norm(states)
    return dropout(states, config.hidden_dropout, wavlm.training)


def run_layers(wavlm, states, packing, kept=None, mix=None, first=0):
    """The transformer's layers, (N, D) -> (N, D).

    Args:
        kept: list of bool, which of all layers run; None draws them as transformers does.
        mix: as for `encode`. first: index of the first layer that is there to run.
    """
    encoder, config, bias = wavlm.encoder, wavlm.config, None
    attention = encoder.layers[0].attention
    if hasattr(attention, "compute_bias"):  # WavLM alone
        bias = attention.compute_bias(packing.steps, packing.steps)  # (H, T, T)
    mixed = None if mix is None else mix[0] * states
    for i, layer in enumerate(encoder.layers[first:], first):
        if kept is not None:
            skipped = not kept[i]
        else:
            skipped = layer.training and i > 0 and config.layerdrop > 0 and torch.rand([]) < config.layerdrop
        if not skipped and layer.training and encoder.gradient_checkpointing:
            states = checkpoint(run_layer, config, layer, states, bias, packing, use_reentrant=False)
        elif not skipped:
            states = run_layer(config, layer, states, bias, packing)
        if mix is not None:
            mixed = mixed + mix[i + 1] * states
    if mix is not None:
        return mixed
    return encoder.layer_norm(states) if has_norm_before(config) else states


def embed_positions(embedding, states, packing):
    """The positional convolution, (N, D) -> (N, D): all sequences in one, with gaps that no filter reaches across."""
    if not hasattr(embedding, "conv"):  # data2vec: several, whose norms fill the gaps
        return torch.cat([embedding(sequence[None])[0] for sequence in states.split(packing.lengths)])
    gap = embedding.conv.kernel_size[0] // 2
    rows = packing.space(gap).to(states.device, non_blocking=True)
    spaced = states.new_zeros(len(states) + gap * (len(packing.lengths) - 1), states.shape[1])
    spaced = spaced.index_copy(0, rows, states)
    return _Pack.apply(embedding(spaced[None])[0], rows)


def run_layer(config, layer, states, bias, packing):
    """One transformer block, (N, D) -> (N, D)."""
    if has_norm_before(config):
        attended = attend(config, layer.attention, layer.layer_norm(states), bias, packing)
        states = states + dropout(attended, config.hidden_dropout, layer.training)
        return states + feed_forward(config, layer.feed_forward, layer.final_layer_norm(states))
    attended = attend(config, layer.attention, states, bias, packing)
    states = layer.layer_norm(states + dropout(attended, config.hidden_dropout, layer.training))
    return layer.final_layer_norm(states + feed_forward(config, layer.feed_forward, states))


def feed_forward(config, block, states):
    states = block.intermediate_act_fn(block.intermediate_dense(states))
    states = dropout(states, config.activation_dropout, block.training)
    return dropout(block.output_dense(states), config.hidden_dropout, block.training)


def attend(config, attention, states, bias, packing):
    """Self attention with the gated relative position bias, (N, D) -> (N, D).

    Args:
        bias: (H, T, T) the ungated bias, shared by all layers; None: no bias.
    """
    heads, p, gate = attention.num_heads, config.attention_dropout if attention.training else 0.0, None
    if bias is not None:
        projected = attention.gru_rel_pos_linear(states.unflatten(-1, (heads, -1)))  # (N, H, 8)
        gate_a, gate_b = torch.sigmoid(projected.unflatten(-1, (2, 4)).sum(-1)).unbind(-1)
        gate = gate_a * (gate_b * attention.gru_rel_pos_const.view(-1) - 1.0) + 2.0  # (N, H)
    q, k, v = attention.q_proj(states), attention.k_proj(states), attention.v_proj(states)
    if not packing.together:
        attended = _AttentionOneByOne.apply(q * attention.scaling, k, v, gate, bias, packing.lengths, p, heads)
    elif bias is None:
        q, k, v = (packing.unpack(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, d)
        attended = F.scaled_dot_product_attention(q, k, v, packing.mask[:, None, None, :], dropout_p=p)
        attended = packing.pack(attended.transpose(1, 2).flatten(2))
    elif torch.is_grad_enabled():
        attended = checkpoint(attend_together, q, k, v, gate, bias, packing, p, use_reentrant=False)
    else:
        attended = attend_together(q, k, v, gate, bias, packing, p)
    return attention.out_proj(attended)


def attend_together(q, k, v, gate, bias, packing, p):
    """Attention of all sequences at once by a fused kernel, (N, D) each and gate (N, H) -> (N, D).

    The gated bias, (B, H, T, T), is the largest thing of a layer: the backward pass makes it again.
    """
    q, k, v = (packing.unpack(x).unflatten(-1, (gate.shape[1], -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, d)
    gated = packing.unpack(gate).transpose(1, 2)[..., None] * bias  # (B, H, T, T)
    gated = gated.masked_fill(~packing.mask[:, None, None, :], -torch.inf).to(q.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, gated, dropout_p=p)
    return packing.pack(attended.transpose(1, 2).flatten(2))


class _AttentionOneByOne(torch.autograd.Function):
    """Attention of packed sequences on a CPU, one after the other, with its gradients written out.

    Fewer passes over (H, t, t) than autograd takes, and the gradient of the bias, which all sequences share, is summed
    in place. Softmax and bias are in float32, the products in the precision of q; with bf16 the weights are kept in it.

    Args:
        q: (N, D), scaled; k, v: (N, D); gate: (N, H) and bias: (H, T, T), or None; lengths: list of B int;
        p: dropout; heads: H.
    Returns: (N, D).
    """

    @staticmethod
    def forward(ctx, q, k, v, gate, bias, lengths, p, heads):
        ctx.rows = [slice(end - t, end) for t, end in zip(lengths, itertools.accumulate(lengths), strict=True)]
        parts, saved, ctx.scale = [], [], 1.0
        for rows, t in zip(ctx.rows, lengths, strict=True):
            qi, ki, vi = (_split_heads(x[rows], heads) for x in (q, k, v))  # (H, t, d)
            scores = qi @ ki.transpose(1, 2)  # (H, t, t)
            if bias is None:
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            else:
                scores = (gate[rows].to(bias.dtype).T[..., None] * bias[:, :t, :t]).add_(scores)
            weights = torch.softmax(scores, -1).to(q.dtype)
            mask = None
            if p:
                mask, ctx.scale = draw_kept(weights.shape, p)
            saved += [weights, mask]
            weights = weights if mask is None else keep(weights, mask)
            parts.append((weights @ vi).transpose(0, 1).flatten(1))
        ctx.heads = heads
        ctx.save_for_backward(q, k, v, gate, bias, *saved)
        return torch.cat(parts) * ctx.scale

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, gate, bias, *saved = ctx.saved_tensors
        gradient = (gradient * ctx.scale).to(q.dtype)
        d_q, d_k, d_v, d_gate, d_bias = (None if x is None else torch.zeros_like(x) for x in (q, k, v, gate, bias))
        for rows, weights, mask in zip(ctx.rows, saved[::2], saved[1::2], strict=True):
            qi, ki, vi, gi = (_split_heads(x[rows], ctx.heads) for x in (q, k, v, gradient))
            t, used, d_weights = len(q[rows]), weights, gi @ vi.transpose(1, 2)  # (H, t, t)
            if mask is not None:
                used, d_weights = keep(weights, mask), keep(d_weights, mask)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_q[rows] = (d_scores @ ki).transpose(0, 1).flatten(1)
            d_k[rows] = (d_scores.transpose(1, 2) @ qi).transpose(0, 1).flatten(1)
            d_v[rows] = (used.transpose(1, 2) @ gi).transpose(0, 1).flatten(1)
            if bias is None:
                continue
            d_scores = d_scores.to(bias.dtype)
            d_gate[rows] = (d_scores * bias[:, :t, :t]).sum(-1).T.to(gate.dtype)
            d_bias[:, :t, :t].addcmul_(d_scores, gate[rows].to(bias.dtype).T[..., None])
        return d_q, d_k, d_v, d_gate, d_bias, None, None, None


def _split_heads(states, heads):
    """(t, D) -> (H, t, D / H)."""
    return states.unflatten(1, (heads, -1)).transpose(0, 1)
