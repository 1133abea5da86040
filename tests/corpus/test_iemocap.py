"""corpus/iemocap.py: what an id says about speaker, style and picture."""

import pytest

from corpus.iemocap import iemocap_speaker, parse_iemocap_id, picture_half


@pytest.mark.parametrize(
    ("utt_id", "speaker", "wears_markers", "style"),
    [
        ("Ses01F_impro01_F000", "Ses01F", True, "improvised"),
        ("Ses03F_impro03_M012", "Ses03M", False, "improvised"),
        ("Ses05M_script01_1b_F003", "Ses05F", False, "scripted"),
        ("Ses05M_script03_2_M041", "Ses05M", True, "scripted"),
    ],
)
def test_iemocap_ids(utt_id, speaker, wears_markers, style):
    parsed = parse_iemocap_id(utt_id)
    assert iemocap_speaker(utt_id) == parsed.speaker == speaker
    assert (parsed.wears_markers, parsed.style) == (wears_markers, style)
    assert picture_half(parsed) == ("left" if wears_markers else "right")
    assert parsed.dialogue == utt_id.rsplit("_", 1)[0]


@pytest.mark.parametrize("utt_id", ["03-01-01_01", "Ses01F_impro01", "Ses01X_impro01_F000", "Ses01F_impro01_X000", ""])
def test_other_ids_have_no_known_speaker(utt_id):
    assert iemocap_speaker(utt_id) is None
