"""features/folder.py: shards are read as the loose files that they were made of."""

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dataloader import Utterance, build_dataloaders, check_utterances, read_features
from features.folder import describe_files, open_shard
from features.preprocessing import describe_clip
from running.errors import InputError
from scripts import shard_features

IDS = ["a", "b#1", "ç", "Ses01F_impro01_F000", "e.npy"]


@pytest.fixture
def loose(tmp_path):
    """A folder of features of five utterances, of both dtypes, some in the folder of a session."""
    root, rng = tmp_path / "loose", np.random.default_rng(0)
    (root / "Session1").mkdir(parents=True)
    for i, utt_id in enumerate(IDS):
        rows = rng.standard_normal((3 + 2 * i, 7)).astype([np.float16, np.float32][i % 2])
        np.save((root / "Session1" if i > 2 else root) / f"{utt_id}.npy", rows)
    (root / "features.json").write_text(json.dumps({"model": "clip", "dim": 7}))
    return root


@pytest.fixture
def sharded(loose, tmp_path):
    assert shard_features.main([str(loose), str(tmp_path / "sharded"), "--size_mb", "0.0006"]) > 1
    return tmp_path / "sharded"


def check(root, utt_ids=IDS, **options):
    utterances = [Utterance(utt_id, "", i % 4) for i, utt_id in enumerate(utt_ids)]
    return check_utterances(utterances, "v", root, progress=False, **options)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_of_shards_are_those_of_the_loose_files_byte_by_byte(loose, sharded, num_workers):
    batches = []
    for root in (loose, sharded):
        checked, dims = check(root)
        assert dims == {"video": 7}
        loader, _ = build_dataloaders(checked, {}, 2, seed=1, num_workers=num_workers, modality="v", max_frames=6)
        batches.append([*loader])
    for first, second in zip(*batches, strict=True):
        assert first["utt_ids"] == second["utt_ids"]
        for key in ("video_features", "video_mask", "labels"):
            assert first[key].numpy().tobytes() == second[key].numpy().tobytes()


def test_shards_are_what_safetensors_reads_and_writes(loose, sharded, tmp_path):
    tensors = {}
    for path in sharded.glob("*.safetensors"):
        tensors |= load_file(path)
    places = {place.stem: place for place in loose.rglob("*.npy")}
    assert tensors.keys() == places.keys() == set(IDS)
    for utt_id, place in places.items():
        assert tensors[utt_id].dtype == np.load(place).dtype
        np.testing.assert_array_equal(tensors[utt_id], np.load(place))
    (tmp_path / "other").mkdir()
    save_file(tensors, tmp_path / "other" / "shard-0.safetensors", metadata={"format": "np"})
    for utterance in check(tmp_path / "other")[0]:
        np.testing.assert_array_equal(read_features(utterance.features), tensors[utterance.utt_id])


def test_a_shard_is_mapped_once_and_not_read(sharded):
    (first, *_), _ = check(sharded)
    rows = read_features(first.features, 2)
    assert isinstance(rows, np.memmap)
    assert rows.shape == (2, 7)
    path = first.features.partition("#")[0]
    assert open_shard(path) is open_shard(path)
    assert np.shares_memory(rows, open_shard(path).content)


def test_what_else_asks_for_features_finds_them_in_shards(sharded):
    checked, _ = check(sharded)
    assert describe_clip(checked)["model"] == "clip"
    files = dict(describe_files(checked, "v").items())
    assert files.keys() == {str(path) for path in sharded.glob("*.safetensors")}
    assert pickle.loads(pickle.dumps(checked)) == checked


def test_nan_in_a_shard_is_named_until_it_is_mended_and_then_not_read_again(sharded):
    path = sorted(sharded.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = next(iter(tensors))
    spoilt = {utt_id: rows.copy() for utt_id, rows in tensors.items()}
    spoilt[name][2, 3] = np.nan
    for content, time in ((spoilt, 1), (tensors, 2), (spoilt, 2)):
        save_file(content, path)
        os.utime(path, (time, time))
        if time == 1:
            with pytest.raises(InputError, match=f"{path.name}#{name}: row 2 holds NaN"):
                check(sharded)
        else:
            check(sharded)


@pytest.mark.parametrize("where", ["", "Session1"])
def test_an_utterance_in_a_shard_and_in_a_loose_file_is_refused(sharded, where):
    (sharded / where).mkdir(exist_ok=True)
    np.save(sharded / where / "ç.npy", np.ones((3, 7), np.float32))
    with pytest.raises(InputError, match="holds features of the same utterance; keep one") as caught:
        check(sharded)
    assert "ç.npy" in str(caught.value)
    assert ".safetensors#ç" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "a long header": lambda path: path.write_bytes(b"\xff" * 64),
    "no JSON": lambda path: path.write_bytes(b"\x08" + bytes(7) + b"{{{{{{{{"),
    "no object": lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"),
    "no tensors": lambda path: path.write_bytes(b"\x08" + bytes(7) + b'{"a": 1}'),
    "one dimension": lambda path: save_file({"a": np.ones(3, np.float32)}, path),
    "no rows": lambda path: save_file({"a": np.ones((0, 3), np.float32)}, path),
    "double": lambda path: save_file({"a": np.ones((2, 3))}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named(sharded, damage):
    DAMAGE[damage](sharded / "shard-00001.safetensors")
    with pytest.raises(InputError, match=r"shard-00001\.safetensors: ") as caught:
        check(sharded)
    assert len(str(caught.value).splitlines()) == 1


def test_sharding_is_all_or_nothing(loose, tmp_path, capsys):
    rows = np.ones((4, 7), np.float32)
    rows[1] = np.nan
    np.save(loose / "Session1" / "e.npy.npy", rows)
    with pytest.raises(SystemExit):
        shard_features.main([str(loose), str(tmp_path / "out"), "--size_mb", "0.0002"])
    assert "row 1 holds NaN" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["loose"]


@pytest.mark.parametrize("fault", ["there", "no features", "a shard"])
def test_sharding_refuses_what_it_cannot_do(loose, sharded, tmp_path, capsys, fault):
    (tmp_path / "empty").mkdir()
    root = {"there": loose, "no features": tmp_path / "empty", "a shard": sharded}[fault]
    with pytest.raises(SystemExit):
        shard_features.main([str(root), str(sharded if fault == "there" else tmp_path / "out")])
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
