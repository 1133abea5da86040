"""From the words of a command line to sources: files, folders, globs, lists, stdin; their order, names and faults."""

import io
import os

import numpy as np
import pytest

from inference.sources import Source, find_sources, show_text
from running.errors import InputError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working directory with media (empty files; nobody opens them), other files and an empty folder."""
    names = "b.wav a.mp4 c.txt sub/z.FLAC sub/deep/y.webm sub/.hidden.wav sub/notes.csv.bak [x].wav empty/readme"
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_paths(*words, **more):
    sources, problems = find_sources(list(words), **more)
    assert problems == []
    return [source.path for source in sources]


def test_files_keep_their_order_and_their_names(tree):
    sources, _ = find_sources(["b.wav", "a.mp4", str(tree / "b.wav")])
    assert [source.name for source in sources] == ["b.wav", "a.mp4", str(tree / "b.wav")]
    assert sources[0] == Source("b.wav", "b.wav")


def test_folder_gives_the_media_below_it(tree):
    assert list_paths("sub") == [os.path.join("sub", "deep", "y.webm"), os.path.join("sub", "z.FLAC")]
    assert len(list_paths(".")) == 5


def test_folder_of_any_media_is_found_whatever_their_ending(tree):
    for ending in "wav flac ogg mp3 m4a aac opus mp4 avi mov mkv webm m4v mpg wmv flv MP4 Wav".split():
        (tree / "kinds").mkdir(exist_ok=True)
        (tree / "kinds" / f"{ending}.{ending}").touch()
    assert len(list_paths("kinds")) == 18


def test_globs(tree):
    assert list_paths("*.wav") == ["[x].wav", "b.wav"]
    assert sorted(list_paths("**/*.*")) == sorted(list_paths("."))
    assert list_paths("s*") == list_paths("sub")
    assert list_paths("[ab].*") == ["a.mp4", "b.wav"]
    assert list_paths("*") == ["[x].wav", "a.mp4", "b.wav", *list_paths("sub")]  # `empty` gives nothing, c.txt is none


def test_name_of_a_file_that_looks_like_a_glob(tree):
    assert list_paths("[x].wav") == ["[x].wav"]


def test_file_that_is_not_there_is_left_to_the_reader(tree):
    assert list_paths("no.wav", "b.wav") == ["no.wav", "b.wav"]


def test_a_source_once(tree):
    assert list_paths("b.wav", "*.wav", "b.wav", "sub", "sub") == ["b.wav", "[x].wav", *list_paths("sub")]


@pytest.mark.parametrize("word", ["empty", "*.nothing", "empty/*", "list.scp", "list.csv"])
def test_word_that_gives_nothing_is_named_beside_others_and_ends_it_alone(word, tree):
    (tree / "list.scp").touch()
    (tree / "list.csv").write_text("id,path\n")
    with pytest.raises(InputError) as error:
        find_sources([word])
    assert word in str(error.value)
    sources, problems = find_sources(["b.wav", word, "a.mp4"])
    assert [source.path for source in sources] == ["b.wav", "a.mp4"]
    assert len(problems) == 1
    assert word in problems[0]


def test_two_bad_words_are_both_named(tree):
    with pytest.raises(InputError) as error:
        find_sources(["empty", "*.nothing"])
    assert "empty" in str(error.value)
    assert "*.nothing" in str(error.value)


def test_scp(tree):
    (tree / "some.scp").write_bytes("u1 b.wav neu\r\nu2 a name with spaces.mp4 ü\r\n".encode())
    sources, _ = find_sources(["some.scp"])
    assert [(source.name, source.path) for source in sources] == [("u1", "b.wav"), ("u2", "a name with spaces.mp4")]


def test_manifest(tree):
    rows = ["id,path,start,end,crop,video,whatever", "x,b.wav,1.5,,left,sub/v.avi,1", "y,a.mp4,,2,,,2", "z,a.mp4,,,,,3"]
    (tree / "sub" / "m.csv").write_text("\n".join(rows))
    x, y, z = sorted(find_sources([os.path.join("sub", "m.csv")])[0], key=lambda source: source.name)
    assert (x.path, x.video) == (str(tree / "sub" / "b.wav"), str(tree / "sub" / "sub" / "v.avi"))
    assert (x.start, x.end, x.crop) == (1.5, None, "left")
    assert (y.start, y.end) == (0.0, 2.0)
    assert y.picture == y.path == str(tree / "sub" / "a.mp4")
    assert x.span == (0.0, None)  # its sound is a file of its own
    assert y.span == (0.0, 2.0)
    assert (z.span, z.crop) == ((0.0, None), "full")


def test_manifest_keeps_every_row(tree):
    rows = [f"u{k},b.wav,{k},{k + 1}" for k in range(12)]
    (tree / "m.csv").write_text("\n".join(["id,path,start,end", *rows]))
    assert {source.name: source.start for source in find_sources(["m.csv"])[0]} == {f"u{k}": k for k in range(12)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,path\nx,\n", "line 2"),
        ("id,path,start\nx,b.wav,-1\n", "start '-1'"),
        ("id,path,start,end\nx,b.wav,nan,1\n", "nan"),
        ("id,path,start,end\nx,b.wav,2,2\n", "end"),
        ("id,path\nx,b.wav\ny,b.wav\nx,a.mp4\n", "line 4"),
        ("id,path,path\nx,b.wav,c.wav\n", "path"),
        ("id,path\nx,b.wav,c\n", "line 2"),
        ("id,path\n../x,b.wav\n", "../x"),
    ],
)
def test_bad_manifest_is_named_by_its_line(content, words, tree):
    (tree / "m.csv").write_text(content)
    with pytest.raises(InputError) as error:
        find_sources(["m.csv"])
    assert "m.csv" in str(error.value)
    assert words in str(error.value)


def test_all_that_is_wrong_with_a_manifest_is_said(tree):
    (tree / "m.csv").write_text("id,path,start\nx,b.wav,-1\ny,,1\n")
    sources, problems = find_sources(["b.wav", "m.csv"])
    assert len(sources) == 1
    assert len(problems) == 2
    assert all("m.csv" in problem for problem in problems)


def test_stdin(tree):
    (tree / "some.scp").write_text("u1 b.wav neu\n")
    words = "b.wav\n\n  a.mp4  \r\nsub\n-\nsome.scp\nmissing.wav\n"
    assert list_paths("-", stdin=io.StringIO(words)) == ["b.wav", "a.mp4", *list_paths("sub"), "b.wav", "missing.wav"]
    with pytest.raises(InputError, match="stdin"):
        find_sources(["-"], stdin=io.StringIO("\n"))
    sources, problems = find_sources(["b.wav", "-"], stdin=io.StringIO(""))
    assert len(sources) == len(problems) == 1


def test_names_that_clash(tree):
    (tree / "one.scp").write_text("u b.wav neu\n")
    (tree / "two.scp").write_text("u a.mp4 neu\n")
    sources, problems = find_sources(["one.scp", "two.scp", "one.scp"])
    assert [source.path for source in sources] == ["b.wav"]
    assert len(problems) == 1
    assert "a.mp4" in problems[0]


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "a\rb", "\x07", "\u202eevil", "\x9bC1", "\udcff"])
def test_text_that_would_act_is_shown_escaped(text):
    shown = show_text(text)
    assert shown.isprintable()
    assert shown.isascii()
    shown.encode("utf-8")


def test_text_that_is_harmless_is_shown_as_it_is():
    text = 'ünïcødé 感情 name\'s "x" =1+1.wav'
    assert show_text(text) == text


def test_picture_and_span_of_sources():
    assert Source("x", "a.wav", "v.avi", 1.0, 2.0).picture == "v.avi"
    assert Source("x", "a.mp4", "a.mp4", 1.0, 2.5).span == (1.0, 1.5)
    assert Source("x", "a.mp4", None, 1.0).span == (1.0, None)
    assert Source("x", samples=np.zeros(3)).picture is None
