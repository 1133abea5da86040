"""The page, as a process and in a real browser: what it shows, what it says of bad files, what it leaves."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import av
import numpy as np
import pytest
import soundfile as sf

from features.preprocessing import Preprocessing
from inference.answers import share_out
from inference.predictor import FoalPredictor
from running.model_folder import write_model
from scripts import app
from tiny import build_model

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["Chromium"]
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def write_clip(path, seconds=2.5):
    """A video of shifting colours with a rising tone, that a browser plays."""
    times = np.arange(round(16000 * seconds)) / 16000
    sound = (8000 * np.sin(2 * np.pi * (200 + 300 * times) * times)).astype(np.int16)
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", 16000, layout="mono")
        picture = container.add_stream("libx264", 20)
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuv420p"
        for number in range(round(20 * seconds)):
            pixels = np.full((64, 96, 3), (5 * number, 255 - 5 * number, 90), np.uint8)
            pixels[:, : 2 * number] = 255
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(picture.encode())
        samples = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        samples.sample_rate = 16000
        container.mux(track.encode(samples))
        container.mux(track.encode())
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_clip):
    """A checkpoint whose windows are of a second, clips, and an empty folder for what is temporary."""
    folder = tmp_path_factory.mktemp("app")
    model = build_model(seed=3, video_dim=128, initializer_range=0.4, labels=["joy", "rest", "grief", "rage"])
    clip = {"model": tiny_clip, "rows": None, "crop": ["full"], "dtype": "float32", "mixed_precision": "no"}
    write_model(folder / "checkpoint", model, Preprocessing(max_length=1.0, max_frames=30, clip=clip))
    write_clip(folder / "clip.mp4")
    sf.write(folder / "sound.wav", np.random.default_rng(0).normal(0, 0.1, 14000), 16000)
    (folder / "letter.mp4").write_text("Dear reader,\n" * 100)
    (folder / "huge.mp4").write_bytes(bytes(1_200_000))
    (folder / "temporary").mkdir()
    return folder


@pytest.fixture(scope="module")
def program(folder):
    """The process of the page, and its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "scripts.app", folder / "checkpoint", "--port", str(port), "--max_mb", "1"]
    command += ["--examples", folder / "sound.wav"]
    env = {**os.environ, "TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=env, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line == f"http://127.0.0.1:{port}/ answers until Ctrl-C\n", line + process.stdout.read()
            yield process, line.split()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, program):
    """The opened page; at the end no request may have gone anywhere else."""
    page, hosts, (_, address) = browser.new_page(), set(), program
    page.on("request", lambda request: hosts.add(urlparse(request.url.removeprefix("blob:")).netloc))
    page.goto(address)
    page.wait_for_selector("#ask_video")
    yield page
    page.close()
    assert hosts - {""} == {urlparse(address).netloc}


def give(page, path, kind="video"):
    """Upload a file, in place of one that was given before, and press the button."""
    clear = page.locator(f"#{kind}").get_by_label("Clear")
    if clear.is_visible():
        clear.click()
    page.locator(f"#{kind} input[type=file]").set_input_files(str(path))
    clear.wait_for()
    page.locator(f"#ask_{kind}").click()


def read_label(page, where):
    """(label, {class: probability}) that the page shows, in steps of a hundredth."""
    page.wait_for_selector(f"{where} h2")
    text = page.locator(where).inner_text()
    shares = {name: int(share) / 100 for name, share in re.findall(r"^(\w+)\n(\d+)%$", text, re.MULTILINE)}
    return page.locator(f"{where} h2").inner_text().strip(), shares


def wait_for_picture(page, before):
    """The address of the picture of the moment, once it is not `before`."""
    page.wait_for_function("src => document.querySelector('#picture img').src != src", arg=before)
    return page.locator("#picture img").get_attribute("src")


def expect_shares(predictor, probabilities):
    return pytest.approx(dict(zip(predictor.labels, probabilities, strict=True)), abs=0.0051)


@needs_browser
def test_the_page_shows_what_the_predictor_answers(page, folder):
    predictor = FoalPredictor.from_pretrained(folder / "checkpoint")
    (prediction,) = predictor.predict(str(folder / "clip.mp4"))
    assert len(prediction.windows) > 2
    give(page, folder / "clip.mp4")
    assert read_label(page, "#emotion") == (prediction.label, expect_shares(predictor, prediction.probabilities))
    assert "sound and picture" in page.locator("#notes").inner_text()

    windows = [window for _, _, window in share_out(prediction.windows)]
    before = page.locator("#picture img").get_attribute("src")
    page.locator("#moment input[type=number]").fill("2.4")
    after = wait_for_picture(page, before)
    label = prediction.labels[int(windows[-1].probabilities.argmax())]
    assert read_label(page, "#part") == (label, expect_shares(predictor, windows[-1].probabilities))
    page.locator("#figure img").click(position={"x": 3, "y": 50})  # left of the figure's axis of time
    wait_for_picture(page, after)
    assert page.locator("#moment input[type=number]").input_value() == "0"
    label = prediction.labels[int(windows[0].probabilities.argmax())]
    assert read_label(page, "#part") == (label, expect_shares(predictor, windows[0].probabilities))


@needs_browser
def test_the_page_says_that_a_sound_has_no_picture(page, folder):
    page.get_by_role("tab", name="Sound").click()
    page.locator("#sound").wait_for()
    give(page, folder / "sound.wav", "sound")
    page.get_by_text("The clip has no picture; the model was NOT trained to do without").wait_for()
    predictor = FoalPredictor.from_pretrained(folder / "checkpoint")
    (prediction,) = predictor.predict(str(folder / "sound.wav"))
    assert read_label(page, "#emotion") == (prediction.label, expect_shares(predictor, prediction.probabilities))
    assert not page.locator("#picture").is_visible()


@needs_browser
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("huge.mp4", 'File(s) exceed the maximum allowed size of 1.0 Mb: "huge.mp4"'),
        ("letter.mp4", "letter.mp4: no sound or video that libsndfile or FFmpeg can read"),
    ],
)
def test_a_bad_file_is_one_line_and_the_page_goes_on(page, folder, name, said):
    if name == "huge.mp4":  # refused before it is asked about
        page.locator("#video input[type=file]").set_input_files(str(folder / name))
    else:
        give(page, folder / name)
    line = page.get_by_test_id("toast-text").filter(has_text=said)
    line.wait_for()
    assert "\n" not in line.inner_text()
    assert "/" not in line.inner_text()
    give(page, folder / "clip.mp4")
    page.wait_for_selector("#emotion h2")


@needs_browser
def test_it_ends_without_a_word_and_nothing_of_the_uploads_is_left(page, program, folder):
    """The last test of the program."""
    give(page, folder / "clip.mp4")
    page.wait_for_selector("#figure img")
    assert any((folder / "temporary").rglob("clip.mp4"))
    process, _ = program
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert list((folder / "temporary").iterdir()) == []


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match="2"):
        app.main(["nothing"])
    assert capfd.readouterr().err == "error: the page needs gradio: make app\n"
