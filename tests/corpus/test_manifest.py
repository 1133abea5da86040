"""corpus/manifest.py: every cell of the table is read into its column, or the line is refused by number."""

import pandas as pd
import pytest

from corpus.manifest import read_manifest
from running.errors import InputError

HEADER = "id,path,label,speaker,session"
ROWS = ["a,a.wav,neu,ann,1", "b,b.wav,sad,ben,2"]


@pytest.fixture
def read(tmp_path):
    """Write the lines of a manifest and read them."""

    def write_and_read(*lines):
        path = tmp_path / "manifest.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        return read_manifest(path)

    return write_and_read


def errors_of(read, *lines):
    with pytest.raises(InputError) as error:
        read(*lines)
    return str(error.value).splitlines()


def test_defaults_are_filled_in_and_further_columns_kept(read, tmp_path):
    table = read(f"{HEADER},style", f"{ROWS[1]},scripted", f"{ROWS[0]},")
    assert table["id"].tolist() == ["a", "b"]
    assert table["path"].tolist() == table["video"].tolist() == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert table[["start", "end"]].isna().all(axis=None)
    assert table["crop"].tolist() == ["full", "full"]
    assert table["style"].tolist() == ["", "scripted"]


def test_quoted_cells_hold_commas_quotes_and_line_breaks(read):
    table = read(f"{HEADER},note", 'a,"a, b.wav",neu,ann,1,"said ""no""\nand left"', f"{ROWS[1]},")
    assert table["path"][0].endswith("/a, b.wav")
    assert table["note"][0] == 'said "no"\nand left'


def test_blank_lines_short_lines_and_empty_fields_at_the_end_say_nothing(read):
    assert len(read(HEADER, ROWS[0], "", ",,,,", ROWS[1])) == 2
    assert read(f"{HEADER},gender", *ROWS)["gender"].tolist() == ["", ""]
    assert read(f"{HEADER},,", *(f"{row},,,," for row in ROWS))["session"].tolist() == ["1", "2"]


def test_the_row_numbers_that_pandas_writes_are_no_column(read, tmp_path):
    read(HEADER, *ROWS)
    pd.read_csv(tmp_path / "manifest.csv", dtype=str).to_csv(tmp_path / "numbered.csv")
    assert read_manifest(tmp_path / "numbered.csv")["id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(("header", "name"), [(f"{HEADER},label", "label"), (f"{HEADER},style, style ", "style")])
def test_a_column_that_stands_twice_is_refused(read, tmp_path, header, name):
    (error,) = errors_of(read, header, *(row + ",x" * header.count(",", len(HEADER)) for row in ROWS))
    assert error.startswith(f"{tmp_path / 'manifest.csv'}: line 1: ")
    assert f"column {name} stands 2 times" in error
    assert "once" in error


def test_more_fields_than_columns_are_refused(read, tmp_path):
    errors = errors_of(read, HEADER, ROWS[0], "b,b, too.wav,sad,ben,2", "c,c.wav,sad,ben,2,x,y", "d,d.wav,s d,ben,2")
    assert [error.split(": ")[:2] for error in errors] == [
        [str(tmp_path / "manifest.csv"), f"line {n}"] for n in (3, 4, 5)
    ]
    assert "'2'" in errors[0]
    assert "'x', 'y'" in errors[1]
    assert all("5 columns" in error and "double quotes" in error for error in errors[:2])


def test_problems_name_the_line_in_the_file(read):
    quoted = 'a,a.wav,neu,ann,"session\n1"'
    (error,) = errors_of(read, HEADER, quoted, "", "b,b.wav,,ben,2")
    assert ": line 5: column label is empty" in error


@pytest.mark.parametrize(
    ("utt_id", "message"),
    [("a\0b", "can't be printed"), ("x" * 300, "is 300 bytes long; at most 200"), ("../a", "slash"), ("a b", "space")],
)
def test_an_id_that_is_no_file_name_is_refused(read, utt_id, message):
    (error,) = errors_of(read, HEADER, ROWS[0], f"{utt_id},x.wav,neu,ann,1")
    assert ": line 3: id " in error
    assert message in error


@pytest.mark.parametrize("content", [b"", b"id,path\xff", b'id,path,label,speaker,session\n"a,a.wav,neu,ann,1\n'])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a UTF-8 csv file with a header line"):
        read_manifest(path)
