"""The release's way, written with our modules: what the benchmark compares with, and the path that tests hold us to.

transformers' WavLM as it is, everything padded to 6 s and 180 frames, real pairs fused twice, negatives drawn row by
row, all losses computed in evaluation too. Source: the code released with Li et al. 2024.
"""

import numpy as np
import soundfile as sf
import torch
import torch.nn.functional as F

from dataloader import SAMPLE_RATE, FoalDataset
from model import FoalNet, avel_losses

MAX_LENGTH, MAX_FRAMES = 6.0, 180  # seconds, video frames


class StockFoalNet(FoalNet):
    """The same modules and mathematics the way the release runs them; also the plain path that tests hold ours to."""

    def encode_audio(self, input_values, attention_mask=None, samples=None, draws=None):
        states = self.wavlm(input_values, attention_mask).last_hidden_state
        mask = self.wavlm._get_feature_vector_attention_mask(states.shape[1], attention_mask)
        return self.dropout(states) * mask[..., None], mask

    def _align_and_fuse(self, audio, video, labels, seed, output):
        output.audio_embeds = F.normalize(self.audio_project(output.audio_pooled).float(), dim=-1)
        output.video_embeds = F.normalize(self.video_project(output.video_pooled).float(), dim=-1)
        output.fused = torch.cat([self.fuse(self.a2v, *audio, *video), self.fuse(self.v2a, *video, *audio)], -1)
        if labels is None:
            return
        generator = None if seed is None else torch.Generator(labels.device).manual_seed(seed)
        output.logits_per_audio = output.audio_embeds @ output.video_embeds.T / self.temp
        output.logits_per_video = output.video_embeds @ output.audio_embeds.T / self.temp
        losses = [avel_losses(s, labels, labels).mean() for s in (output.logits_per_audio, output.logits_per_video)]
        output.loss_avel = sum(losses) / 2
        losses = [
            self.match(self.a2v, self.a2v_head, audio, video, output.logits_per_audio, labels, generator),
            self.match(self.v2a, self.v2a_head, video, audio, output.logits_per_video, labels, generator),
        ]
        output.loss_mem = sum(losses) / 2

    def match(self, layers, head, stream, other, similarities, labels, generator):
        """MEM of one direction: the real pairs fused again, a negative drawn for each row by itself."""
        weights = similarities.detach().softmax(-1) * (labels[:, None] != labels)
        rows = [i for i, row in enumerate(weights) if row.sum() > 0]
        negatives = [torch.multinomial(weights[i], 1, generator=generator).item() for i in rows]
        real = self.fuse(layers, stream[0][rows], stream[1][rows], other[0][rows], other[1][rows])
        false = self.fuse(layers, stream[0][rows], stream[1][rows], other[0][negatives], other[1][negatives])
        targets = torch.tensor([1] * len(rows) + [0] * len(rows), device=labels.device)
        return F.cross_entropy(head(torch.cat([real, false])).float(), targets)


class StockDataset(FoalDataset):
    """The whole file read, then cut and padded to the fixed length, as the release does."""

    def __getitem__(self, i):
        utterance = self.utterances[i]
        samples, _ = sf.read(utterance.path, dtype="float32")
        features = np.load(utterance.features)
        audio, video = np.zeros(round(MAX_LENGTH * SAMPLE_RATE), np.float32), np.zeros((MAX_FRAMES, features.shape[1]))
        n, frames = min(len(audio), len(samples)), min(MAX_FRAMES, len(features))
        audio[:n], video[:frames] = samples[:n], features[:frames]
        return {"utt_id": utterance.utt_id, "label": 0, "input_values": audio, "video_features": video}
