"""What is missing, mixed or different is said."""

import json

from run_folders import draw_labels, load, write_ablation, write_run


def test_what_is_missing_is_said(tmp_path):
    write_ablation(tmp_path / "r", ["audio only", "+ AVEL"], folds=3)
    (tmp_path / "r" / "avel" / "seed1234" / "session2" / "result.json").unlink()
    _, problems = load(tmp_path / "r")
    text = "\n".join(problems)
    assert "session2 is not finished" in text
    assert "+ AVEL, seed 1234: no fold session2" in text
    assert "different utterances" in text


def test_a_fold_that_no_row_has_is_missed_from_its_list(tmp_path):
    for fold in (1, 2, 3):
        (tmp_path / f"session{fold}_train.scp").write_text("")
    utt_ids = [f"u{i}" for i in range(12)]
    labels = draw_labels(utt_ids)
    for fold in (1, 2):
        ids = [f"{fold}{utt_id}" for utt_id in utt_ids]
        source = str(tmp_path / f"session{fold}_train.scp")
        write_run(tmp_path / "runs" / f"session{fold}", ids, labels, labels, train_src=source)
    _, problems = load(tmp_path / "runs")
    assert any("no fold session3" in problem for problem in problems)


def test_differing_flags_and_commits_are_said(tmp_path):
    write_ablation(tmp_path, ["audio only", "+ AVEL"], folds=2)
    path = tmp_path / "avel" / "seed1234" / "session1" / "args.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lr": 3e-4}))
    path = path.with_name("environment.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_commit": "fedcba9876543210"}))
    _, problems = load(tmp_path)
    assert any("+ AVEL: runs with different --lr in one row" in problem for problem in problems)
    assert any("different commits" in problem for problem in problems)
