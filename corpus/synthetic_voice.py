"""The voices of the synthetic release: a glottal pulse train through moving formants.

Pitch, energy, effort and rate follow the arousal of an utterance; its valence moves formants and tune a little.
"""

import numpy as np

from dataloader import SAMPLE_RATE

VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])


def synthesize_speech(actor, turn, rng):
    """A phrase of four to six syllables, and its energy contour.

    Args:
        actor: Actor. turn: Turn. rng: numpy Generator.
    Returns: (samples,) float32 at 16 kHz and (steps,) float in [0, 1], one per 10 ms.
    """
    arousal = float(np.clip(turn.voice_arousal + actor.effort, -2, 2))
    rate = actor.rate * 2 ** (0.35 * arousal)
    steps = int(100 * np.clip(rng.integers(4, 7) / rate, 0.8, 1.7))
    syllable = np.arange(steps) / 100 * rate
    index, part = syllable.astype(int), syllable % 1
    energy = np.sin(np.pi * part) ** 0.6 * (0.75 + 0.25 * rng.random(index[-1] + 1)[index])
    consonant = (part < 0.2) & (rng.random(index[-1] + 1)[index] < 0.6)
    formants = VOWELS[rng.integers(len(VOWELS), size=index[-1] + 1)][index].astype(float)
    kernel = np.hanning(9) / np.hanning(9).sum()
    formants = np.stack([np.convolve(np.pad(f, 4, mode="edge"), kernel, mode="valid") for f in formants.T])
    formants *= actor.tract * (1 + 0.03 * turn.voice_valence)
    along = np.linspace(-0.5, 0.5, steps)
    tune = 0.42 * arousal + 0.15 * turn.voice_valence * along - 0.15 * along
    tune += (0.06 + 0.05 * max(arousal, 0)) * np.sin(2 * np.pi * syllable / 2 + rng.uniform(0, 6.28))
    pitch = actor.pitch * 2**tune
    voice = _shape_spectrum(_pulse_train(pitch, consonant, arousal, rng), formants, 1.3 - 0.45 * arousal)
    voice *= np.repeat(energy, SAMPLE_RATE // 100)
    voice *= 0.05 * 10 ** (0.3 * arousal) / np.sqrt(np.mean(voice**2))
    voice += rng.normal(0, 0.002, len(voice))
    return np.clip(voice, -0.99, 0.99).astype(np.float32), energy


def _pulse_train(pitch, consonant, arousal, rng):
    """Glottal pulses at the given pitch (Hz per 10 ms) with jitter and breath; noise in the consonants."""
    hop = SAMPLE_RATE // 100
    jitter = 1 + 0.01 * rng.standard_normal(len(pitch))
    phase = np.cumsum(np.repeat(pitch * jitter, hop)) / SAMPLE_RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(SAMPLE_RATE / np.repeat(pitch, hop))
    noise = rng.standard_normal(len(phase))
    unvoiced = np.repeat(consonant, hop)
    return np.where(unvoiced, 0.4 * noise, pulses + (0.25 - 0.08 * np.clip(arousal, -1, 1)) * noise)


def _shape_spectrum(source, formants, tilt):
    """Filter by moving formants, (3, steps) in Hz, and a spectral tilt: overlapping windows of 20 ms."""
    hop = SAMPLE_RATE // 100
    padded = np.pad(source, hop)
    steps = formants.shape[1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop][:steps] * np.hanning(2 * hop + 1)[:-1]
    hertz = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    gains, widths = np.array([1.0, 0.6, 0.35]), np.array([90.0, 130.0, 200.0])
    peaks = gains[:, None, None] / (1 + ((hertz - formants[..., None]) / widths[:, None, None]) ** 2)
    envelope = (peaks.sum(0) + 0.02) * (np.maximum(hertz, 150) / 500) ** -tilt
    frames = np.fft.irfft(np.fft.rfft(frames, 512) * envelope, 512)
    sound = np.zeros(hop * steps + 512)
    for step, frame in enumerate(frames):
        sound[step * hop : step * hop + 512] += frame
    return sound[hop // 2 : hop // 2 + hop * steps]
