"""A page in the browser: give it a clip, see the emotion, the moments and what stands behind the answer.

clip -> FoalPredictor -> label, probabilities, notes; a moment -> its picture and probabilities; then the figure of
inference/pictures.py. Nothing of it is kept.
scripts/app.py opens it.
"""

import contextlib
import functools
import html
import io
import logging
import os
import re

import av
import gradio as gr
import numpy as np
from av.stream import Disposition
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from features.reading import read_frames
from inference.answers import name_streams, share_out
from inference.examples import turn_upright
from inference.explaining import prepare_explanations
from inference.pictures import draw_explanation
from inference.sources import Source
from running.errors import InputError, describe_error
from running.pictures import save_figure, styled

logger = logging.getLogger("foalnet")

FORGET = 600  # seconds after which an upload is deleted
RECORDED = {"width": 640, "height": 480}  # of a webcam
INTRODUCTION = """# Which emotion does this clip show?
Give a video or a sound, up to {max_mb} MB, or take an example. The model answers with one of **{labels}**,
from {streams}."""
SMALL_PRINT = """**Not for judging people.** The model guesses how annotators of one corpus would have labelled a clip;
it does not know what a person feels. Nothing that you give leaves this computer; it is deleted after {minutes} minutes,
and when the program ends."""
STYLE = """
.gradio-container { max-width: 1200px !important; margin: auto; }
/* Trimming fetches code from elsewhere. */
#video button[aria-label^="Trim"], #video button[aria-label^="Reset"] { display: none; }
#video video { max-height: 300px; }
#small { font-size: 0.9em; opacity: 0.85; }
"""
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
# On a narrow page the answer is below what was given.
SCROLL = "() => document.querySelector('#answer').scrollIntoView({behavior: 'smooth', block: 'nearest'})"
# The browser itself is to refuse whatever the page's parts would fetch from elsewhere.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'"


class OnlyThisHost:
    """ASGI middleware: the page and its requests stay on this host (Content-Security-Policy), and send no referrer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def build_page(predictor, examples=((), ()), max_mb=100):
    """The page, not yet open.

    Args:
        predictor: FoalPredictor, which answers one clip at a time.
        examples: of `make_examples`. max_mb: of a file, as the page says it.
    Returns: gr.Blocks, for `open_page`.
    """
    introduction = {
        "labels": ", ".join(predictor.labels),
        "streams": name_streams(predictor.modality),
        "max_mb": max_mb,
    }
    with gr.Blocks(title="Foal-Net", analytics_enabled=False, delete_cache=(60, FORGET)) as page:
        gr.Markdown(INTRODUCTION.format(**introduction))
        with gr.Row():
            with gr.Column(min_width=300), gr.Tabs():
                asked = [_add_input(kind, clips) for kind, clips in zip(("Video", "Sound"), examples, strict=True)]
            with gr.Column(min_width=300, elem_id="answer"):
                answer = gr.Label(label="Emotion of the whole clip", elem_id="emotion")
                notes = gr.Markdown("The answer will be here.", elem_id="notes")
                gr.Markdown(SMALL_PRINT.format(minutes=FORGET // 60), elem_id="small")
        with gr.Column(visible=False) as details:
            moment = _add_moment()
            gr.Markdown("### What stands behind the answer\nA click on the figure chooses the moment.")
            figure = gr.Image(show_label=False, buttons=["fullscreen"], format="png", elem_id="figure")
        answered, axis = gr.State(time_to_live=FORGET), gr.State()
        _connect(predictor, asked, [answered, answer, notes, details], moment, figure, axis)
    return page.queue(max_size=16)


@contextlib.contextmanager
def open_page(page, host, port, max_mb):
    """Serve a page on one address until the block ends. Yields: the address. Raises: InputError for a port in use."""
    middleware = [Middleware(OnlyThisHost), Middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])]
    options = {"share": False, "mcp_server": False, "ssr_mode": False, "run_history": False, "pwa": False}
    options |= {"enable_monitoring": False, "footer_links": [], "quiet": True, "prevent_thread_lock": True}
    options |= {"show_error": True, "max_file_size": f"{max_mb}mb", "css": STYLE, "theme": THEME}
    options |= {"app_kwargs": {"middleware": middleware}}
    try:
        _, address, _ = page.launch(server_name=host, server_port=port, **options)
    except OSError as error:
        raise InputError(f"--port {port}: is taken or not allowed; another one is needed") from error
    try:
        yield address
    finally:
        page.close(verbose=False)


def _add_input(kind, examples):
    """A tab with a clip to give and its examples. Returns: (gr.Button, the component of the clip)."""
    options, name = {"show_label": False, "buttons": []}, kind.lower()
    with gr.Tab(kind):
        if kind == "Video":
            options["webcam_options"] = gr.WebcamOptions(mirror=False, constraints={"video": RECORDED})
            clip = gr.Video(sources=["upload", "webcam"], include_audio=True, elem_id=name, **options)
        else:
            clip = gr.Audio(sources=["upload", "microphone"], type="filepath", elem_id=name, **options)
        button = gr.Button("Which emotion?", variant="primary", elem_id=f"ask_{name}")
        if examples:
            gr.Examples([[path] for path in examples], clip, label="Examples", api_visibility="private")
    return button, clip


def _add_moment():
    """Returns: the components of a moment: gr.Slider of its seconds, its gr.Image, gr.Label of its classes."""
    seconds = gr.Slider(label="Moment, seconds from the start", step=0.1, buttons=[], elem_id="moment")
    with gr.Row():
        picture = gr.Image(show_label=False, height=300, buttons=[], min_width=300, elem_id="picture")
        part = gr.Label(label="Emotion at this moment", min_width=300, elem_id="part")
    return seconds, picture, part


def _connect(predictor, asked, answers, moment, figure, axis):
    """What happens on the page: the answer comes first, then the figure; a moment is moved by its slider or a click."""
    options = {"api_visibility": "private", "concurrency_limit": 1}
    model = {**options, "concurrency_id": "model"}
    (answered, answer, *_), (seconds, *shown) = answers, moment
    for button, clip in asked:
        ask = functools.partial(answer_clip, predictor)
        event = button.click(ask, clip, [*answers, *moment, figure], show_progress_on=[answer], **model)
        event.success(None, js=SCROLL, **options)
        event.success(functools.partial(explain_clip, predictor), answered, [figure, axis], **model)
    options |= {"show_progress": "hidden", "trigger_mode": "always_last"}
    seconds.input(show_moment, [answered, seconds], shown, **options)
    figure.select(find_moment, [answered, axis], seconds, **options).success(
        show_moment, [answered, seconds], shown, **options
    )


def answer_clip(predictor, path):
    """What the page shows of a clip at once, parallel to its outputs. Raises: gr.Error where there is no answer."""
    require_clip(path)
    with open_clip(path) as source:
        (prediction,) = predictor.predict(source)
    clearest = max(prediction.windows, key=lambda w: w.probabilities[prediction.labels.index(prediction.label)])
    moment, end = (clearest.start + clearest.end) / 2, prediction.windows[-1].end
    answered = {"path": path, "prediction": prediction}
    return (
        answered,
        name_classes(prediction.labels, prediction.probabilities),
        describe_answer(predictor, prediction),
        gr.Column(visible=True),
        gr.Slider(minimum=0, maximum=max(round(end, 1), 0.1), value=round(moment, 1)),
        *show_moment(answered, moment),
        None,
    )


def explain_clip(predictor, answered):
    """The figure of a clip that was answered, and where its axis of time lies. Raises: gr.Error."""
    prediction = recall(answered)
    with open_clip(answered["path"]) as source:
        (give,) = prepare_explanations(predictor, [source], [prediction])
        return draw(give())


def require_clip(path):
    """Raises: gr.Error for a clip that was not given, or has been deleted since."""
    if path is None:
        raise gr.Error("Give a clip first: drop a file, record one, or take an example.", print_exception=False)
    if not os.path.isfile(path):
        raise gr.Error("This clip has been deleted: give it again.", print_exception=False)


def recall(answered):
    """The Prediction of a clip that was answered. Raises: gr.Error where it has been deleted since."""
    require_clip(answered["path"] if answered else "")
    return answered["prediction"]


@contextlib.contextmanager
def open_clip(path):
    """The Source of a given clip. What is wrong with it inside of the block becomes one line on the page, gr.Error."""
    name = os.path.basename(path)
    try:
        yield Source(name, path)
    except (InputError, OSError) as error:
        if (message := describe_error(error)) is None:
            raise
        message = re.sub(r"\[Errno \d+\]", "", message.replace(path, name))
        raise gr.Error(html.escape(" ".join(message.split())), duration=None, print_exception=False) from error


def name_classes(labels, probabilities):
    return {label: float(p) for label, p in zip(labels, probabilities, strict=True)}


def describe_answer(predictor, prediction):
    """Markdown: what the answer is of, and what it lacked, in the words of predict.py."""
    parts = len(prediction.windows)
    of = f"Of {prediction.seconds:.1f} s of {name_streams(prediction.streams)}"
    lines = [f"{of}, the mean of {parts} windows." if parts > 1 else f"{of}, as one window."]
    for note in prediction.notes:
        note = note.split(": ", 1)[-1]
        absent = note in ("has no picture", "has no sound")
        worth = f"; {predictor.explain_absence(note.split()[-1])}" if absent else ""
        lines.append(f"⚠️ The clip {note}{worth}." if absent else f"⚠️ {note}")
    return "\n\n".join(lines)


def show_moment(answered, seconds):
    """The picture and the probabilities of a moment. Raises: gr.Error for a clip that is gone."""
    prediction = recall(answered)
    windows = share_out(prediction.windows)
    _, _, window = min(windows, key=lambda w: max(w[0] - seconds, seconds - w[1], 0))
    picture = read_picture(answered["path"], seconds)
    return gr.Image(value=picture, visible=picture is not None), name_classes(prediction.labels, window.probabilities)


def read_picture(path, seconds):
    """The picture of a video at a moment, (height, width, 3) uint8; None where there is none."""
    try:
        with av.open(path) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                return None
            container.seek((container.start_time or 0) + int(seconds * av.time_base))
            shown = None
            for time, frame in read_frames(container, streams[0]):
                if time is None:
                    continue
                if shown is not None and time > seconds:
                    break
                shown = frame
            return None if shown is None else turn_upright(shown)
    except (av.FFmpegError, OSError):
        return None


@styled
def draw(explanation):
    """The figure of an Explanation as a Pillow picture, and where its axis of time lies: (start, end) in pixels."""
    figure, file = draw_explanation(explanation), io.BytesIO()
    save_figure(figure, file)
    picture, box = Image.open(file), figure.axes[0].get_position()
    return picture, (box.x0 * picture.width, box.x1 * picture.width)


def find_moment(answered, axis, event: gr.SelectData):
    """Seconds of a click on the figure."""
    prediction = recall(answered)
    share = (event.index[0] - axis[0]) / (axis[1] - axis[0])
    return round(float(np.clip(share, 0, 1)) * prediction.windows[-1].end, 1)
