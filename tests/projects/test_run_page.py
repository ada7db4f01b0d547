"""`--report`: one page a run that says what happened, needs nothing but itself, and never costs a result."""

import base64
import io
import json
import logging
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.distributed.process import process_group
from data.media import MediaInfo
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.restore import restore_clip
from projects.video_diffusion_sr.run_page import page as run_page
from projects.video_diffusion_sr.run_page.html import Page, page_text
from projects.video_diffusion_sr.run_page.lines import by_file
from projects.video_diffusion_sr.run_page.samples import POINTS, STILLS, Samples
from tests.parallel.ranks import run_ranks
from tests.projects.test_restore import SMALL, restorer, write_clip  # noqa: F401 (a fixture)

HOSTILE = "<img src=x onerror=alert(1)>&\u202e.mp4"
EMPTY = {"br", "col", "hr", "img", "input", "link", "meta", "path", "polyline"}


class Parsed(HTMLParser):
    """Attributes of every tag, the text, and whether tags are closed in the order in which they are opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.open, self.well_formed = "", [], True
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            self.well_formed &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def restore(folder: Path, *flags: str) -> int:
    settings = ["--random_weights", "--set", *SMALL, "--res_h", "48", "--res_w", "64", "--device", "cpu"]
    return main(
        SEEDVR2_TINY, ["--video_path", str(folder / "in"), "--output_dir", str(folder / "out"), *settings, *flags]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A clip, a picture and a file that is neither, restored with a page; and restored again, where both are there."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "in").mkdir()
    write_clip(folder / "in" / "a clip.mp4", 7)
    Image.new("RGB", (32, 24), (200, 60, 20)).save(folder / "in" / "still.png")
    (folder / "in" / HOSTILE).write_bytes(b"no clip")
    assert restore(folder, "--report") == 1
    return folder


def test_the_page_shows_every_file_and_asks_for_nothing_else(folder):
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    page = Parsed(text)
    assert page.well_formed and not page.open
    assert "2 of 3 files restored" in page.text and "1 failed" in page.text
    assert "not a video or picture that can be read" in page.text and "7 frames of 64x48" in page.text
    sliders = [a for a in page.of("input") if a.get("type") == "range"]
    assert len(page.of("img")) == 2 * len(sliders) == 2 * (STILLS + 1)
    assert all(a["src"].startswith("data:image/webp;base64,") for a in page.of("img"))
    assert len(page.of("polyline")) == 2  # of the clip alone
    assert not re.findall(r"https?://|@import|url\(", text) and not page.of("link")
    links = [a["href"] for a in page.of("a")]
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {href[1:] for href in links if href.startswith("#")} <= anchors and "./a%20clip.mp4" in links
    assert "\u202e" not in text and "onerror=alert" not in "".join(v or "" for _, a in page.tags for v in a.values())
    assert not [a for tag, a in page.tags if "onerror" in a]


def test_pictures_of_the_page_are_the_input_and_the_result(folder):
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    sources = {a["class"]: a["src"] for a in Parsed(text[text.index("<h2>still.png") :]).of("img")}
    pictures = {
        kind: np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")).astype(int)
        for kind, source in sources.items()
    }
    with Image.open(folder / "out" / "still.png") as result:
        expected = np.asarray(result.convert("RGB")).astype(int)
    assert (
        np.corrcoef(pictures["after"].mean(2).ravel(), expected.mean(2).ravel())[0, 1] > 0.8
    )  # noise, which WebP cannot keep
    assert np.abs(pictures["before"] - (200, 60, 20)).mean() < 4


def test_a_second_run_says_what_it_skipped(folder):
    target = folder / "second.html"
    assert restore(folder, "--report", str(target), "--skip_existing") == 1
    page = Parsed(target.read_text(encoding="utf-8"))
    assert "0 of 3 files restored" in page.text and "2 skipped" in page.text and "1 failed" in page.text


def test_results_are_the_same_with_a_page_and_without(folder, tmp_path, restorer):  # noqa: F811
    choices = [replace(restorer.result_options, page_bytes=room) for room in (None, 100_000)]
    reports = [restore_clip(folder / "in" / "still.png", tmp_path / str(i), replace(restorer, result_options=options))
               for i, options in enumerate(choices)]  # fmt: skip
    assert reports[0].samples is None and len(reports[1].samples.stills) == 1
    assert reports[0].output.read_bytes() == reports[1].output.read_bytes()


@pytest.mark.parametrize("broken", ["_take", "_encoded"])
def test_samples_that_fail_cost_nothing_but_themselves(folder, tmp_path, monkeypatch, restorer, caplog, broken):  # noqa: F811
    monkeypatch.setattr(Samples, broken, full_disk)
    shown = replace(restorer, result_options=replace(restorer.result_options, page_bytes=100_000))
    report = restore_clip(folder / "in" / "still.png", tmp_path, shown)
    assert report.samples is None and report.output.is_file()
    assert "still.png: cannot be shown in the report: No space left" in caplog.text


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_page_that_cannot_be_written_is_a_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_page, "page_text", full_disk)
    flags = ["--video_path", "in", "--output_dir", str(tmp_path), "--report"]
    with process_group("cpu") as process, run_page.page_of(SEEDVR2_TINY, read_flags(flags), process):
        pass
    assert "report.html: cannot be written: No space left" in caplog.text and list(tmp_path.iterdir()) == []


def test_a_run_that_is_interrupted_has_its_page(tmp_path):
    flags = read_flags(["--video_path", "in", "--output_dir", str(tmp_path), "--report"])
    with (
        pytest.raises(KeyboardInterrupt),
        process_group("cpu") as process,
        run_page.page_of(SEEDVR2_TINY, flags, process) as page,
    ):
        page.files = ["in/a.mp4"]
        page.add(Report(Path("in/b.mp4"), tmp_path / "b.mp4", 1, (8, 8), 1.0, 0))
        raise KeyboardInterrupt
    text = Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "ended early" in text and "1 not restored" in text and "1 of 2 files restored" in text


def read_flags(flags):
    return parser(SEEDVR2_TINY).parse_args(flags)


@pytest.mark.parametrize("name", ["report.txt", "report", "folder.html"])
def test_a_name_of_no_page_is_refused_before_anything_is_done(tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    assert restore(tmp_path, "--report", str(tmp_path / name)) == 2 and not (tmp_path / "out").exists()


def info(height: int, width: int) -> MediaInfo:
    return MediaInfo(Path("clip.mp4"), "video", width, height)


@pytest.mark.parametrize("frames", [1, 2, 13, 700])
def test_samples_of_any_length_stay_bounded_and_keep_a_jump(frames):
    samples, rng = Samples(info(8, 8), 100_000), np.random.default_rng(0)
    clip = torch.from_numpy(rng.integers(90, 110, (frames, 3, 8, 8), dtype=np.uint8))
    clip[frames // 2] = 255  # a flash
    for start in range(0, frames, 5):
        part = clip[start : start + 5]
        samples.write(part // 2, part, [Fraction(start + i, 25) for i in range(len(part))])
        assert len(samples.stills) < 2 * STILLS
    done = samples.complete()
    assert 1 <= len(done.stills) <= STILLS and len(done.curve.times) <= POINTS
    times = [still.seconds for still in done.stills]
    assert times == sorted(set(times)) and times[-1] >= 0.6 * (frames - 1) / 25
    if frames > 1:
        changes = (clip[1:].int() - clip[:-1].int()).abs().float().mean((1, 2, 3))
        assert max(done.curve.after) == pytest.approx(float(changes.max()), abs=1e-3)
        assert done.flicker[1] == pytest.approx(float(changes.mean()), abs=1e-3)
    else:
        assert done.flicker is None and not done.curve.times


@pytest.mark.parametrize("room", [0, 4_000, 40_000, 400_000])
def test_pictures_of_a_file_keep_to_their_room(room):
    samples, rng = Samples(info(90, 160), room), np.random.default_rng(0)
    for i in range(4):  # noise, which compresses worst
        frame = torch.from_numpy(rng.integers(0, 255, (1, 3, 180, 320), dtype=np.uint8))
        samples.write(frame, frame, [Fraction(i)])
    stills = samples.complete().stills
    assert sum(len(still.before) + len(still.after) for still in stills) <= room
    assert bool(stills) == (room > 0)


def test_a_page_of_a_thousand_pictures_stays_small(tmp_path):
    picture = base64.b64encode(bytes(run_page.ROOM // 1000)).decode()
    still = {"seconds": 0.0, "before": picture, "after": picture, "size": (90, 160)}  # twice what they may have
    samples = {"input_size": (90, 160), "stills": [still], "curve": None, "flicker": None}
    entries = [
        {"path": f"in/{i}.png", "output": f"out/{i}.png", "frames": 1, "size": (90, 160), "seconds": 1.0, "memory": 0,
         "damage": None, "samples": samples}
        for i in range(1000)
    ]  # fmt: skip
    kept = run_page.within_page_bytes(json.loads(json.dumps(entries)))
    lines = [("INFO", f"{i}.png -> out/{i}.png: 1 frame of 160x90 in 1.0 s") for i in range(1000)]
    text = page_text(Page({"model": "m", "seconds": "1"}, "now", [], kept, [], lines, tmp_path))
    assert len(text) < 20 * 2**20 and text.count("<figure>") == 500 and text.count("<details") == 1001


def test_lines_go_to_the_files_that_they_name():
    lines = [("INFO", "a.mp4: one"), ("INFO", "a.mp4.mkv: two"), ("INFO", "a.mp4 b.mp4: three"), ("INFO", "four")]
    own, others = by_file(lines, ["a.mp4", "a.mp4.mkv", "a.mp4 b.mp4", "c"])
    assert {name: [text for _, text in found] for name, found in own.items()} == {
        "a.mp4": ["a.mp4: one"], "a.mp4.mkv": ["a.mp4.mkv: two"], "a.mp4 b.mp4": ["a.mp4 b.mp4: three"], "c": [],
    }  # fmt: skip
    assert others == [("INFO", "four")]


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER := shutil.which("chromium")), reason="there is no Chromium here")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_draws_the_page(folder, tmp_path, width):
    page = folder / "out" / "report.html"
    common = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    drawn = tmp_path / "page.png"
    subprocess.run(
        [*common, "--hide-scrollbars", f"--window-size={width},4500", f"--screenshot={drawn}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(drawn) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (np.abs(colours.astype(int) - (200, 60, 20)).max(1) < 12).sum() > 5000  # the picture's input is there
    script = "document.title=[...document.images].filter(i=>i.naturalWidth>0).length+' of '+document.images.length+" \
        "(document.documentElement.scrollWidth<=innerWidth?' fit':' wide')"  # fmt: skip
    probe = tmp_path / "probe.html"
    probe.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"<script>onload=()=>{{{script}}}</script></body>"),
        encoding="utf-8",
    )
    dumped = subprocess.run(
        [*common, f"--window-size={width},4500", "--dump-dom", probe.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    images = 2 * (STILLS + 1)
    assert f"<title>{images} of {images} fit</title>" in dumped


@pytest.mark.parallel
def test_ranks_make_one_page(tmp_path):
    flags = read_flags(["--video_path", "in", "--output_dir", str(tmp_path), "--report"])

    def work(process):
        with run_page.page_of(SEEDVR2_TINY, flags, process) as page:
            page.files = ["in/0.mp4", "in/1.mp4", "in/2.mp4"]
            page.add(Report(Path(f"in/{process.rank}.mp4"), tmp_path / f"{process.rank}.mp4", 1, (8, 8), 1.0, 0))
            logging.getLogger("a.rank").warning("%d.mp4: said by rank %d", process.rank, process.rank)

    run_ranks(2, work)
    text = Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "2 of 3 files restored" in text and "1 not restored" in text
    assert "0.mp4: said by rank 0" in text and "1.mp4: said by rank 1" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
