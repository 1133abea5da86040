"""The benchmark's stock model is the plain path: ours computes the same, and every workload runs."""

import json

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.stock import StockFoalNet
from benchmark.timing import FORMULAS
from scripts import benchmark
from tiny import build_model, make_batch


def run(kind, labels, weigh):
    """Losses, logits and gradients of one training pass of the same weights as a `kind`, without dropout."""
    model = build_model().train()
    model.__class__ = kind or model.__class__
    output = model(**make_batch(labels))
    weigh(output).backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("labels", "names"),
    [([0, 1, 2, 3, 0, 0, 2], ["loss_cls", "loss_avel"]), ([0, 3], ["loss_cls", "loss_avel", "loss_mem"])],
    ids=["seven", "two, where the only other emotion is the hard negative"],
)
def test_stock_and_ours_agree_forward_and_gradient(labels, names):
    def weigh(output):
        return sum(output[name] for name in names)

    (stock, stock_gradients), (ours, gradients) = run(StockFoalNet, labels, weigh), run(None, labels, weigh)
    for name in ("logits", "audio_embeds", "video_embeds", "logits_per_audio", "logits_per_video", *names):
        torch.testing.assert_close(ours[name], stock[name], rtol=1e-4, atol=1e-5)
    assert gradients.keys() == stock_gradients.keys()
    largest = max(gradient.abs().max() for gradient in stock_gradients.values())
    for name, gradient in stock_gradients.items():
        error = (gradients[name] - gradient).abs().max()
        assert error <= 1e-4 * max(gradient.abs().max(), 0.01 * largest), name


def test_every_workload_leaves_its_rows(tmp_path, capsys):
    flags = ["--size=tiny", "--clip_size=tiny", "--video_dim=16", "--rounds=1", "--batch=2", "--video_seconds=3"]
    flags += ["--utterances=40"]
    table = benchmark.main([*flags, "--lengths", "1", "--profile", f"--out={tmp_path}"])
    assert set(table["workload"]) == set(benchmark.WORKLOADS)
    assert (table["seconds"] > 0).all()
    assert (table.loc[table["workload"].isin(["train", "eval"]), "of ceiling"].dropna() > 0).all()
    saved = pd.read_csv(tmp_path / "benchmark.csv")
    assert list(saved["arm"]) == list(table["arm"])
    assert (tmp_path / "benchmark.png").stat().st_size > 0
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["arm"] for row in record["rows"]] == list(table["arm"])
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["flags"]["size"] == "tiny"
    assert record["ceilings"]["bytes"] > 0
    out = capsys.readouterr().out
    assert "ceilings" in out
    assert " %  aten::mm" in out


def test_flops_of_a_grouped_convolution_count_its_groups():
    """Its backward pass is twice its forward pass, which torch's own formula says is many times that."""
    layer, states = torch.nn.Conv1d(8, 8, 3, groups=4), torch.randn(2, 8, 10, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        out = layer(states)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 2 * 8 * 8 * 2 * 3  # sequences, steps, channels out, channels in of a group, taps
    assert counter.get_total_flops() == 3 * forward
