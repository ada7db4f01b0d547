"""Subtitles keep text, times and language, or make the result Matroska; captions are told."""

import av
import pytest

from data.media import open_media, output_path
from data.media.probe import probe
from tests.data.extras_samples import CLIP, DISPOSITION, LINES, TRACKS, clip_with, through


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_subtitles_keep_text_times_and_language(tmp_path, suffix, caplog):
    german = ("subrip", {"language": "deu", "title": "Deutsch"}, DISPOSITION.default)
    source = clip_with(
        tmp_path / "in.mkv", tracks=TRACKS[:1], subtitles=[german, ("subrip", {"language": "fra"}, 0)], start_s=3
    )
    with av.open(str(through(source, tmp_path / "out", suffix))) as result:
        first, second = result.streams.subtitles
        assert (first.language, second.language) == ("ger" if suffix == ".mov" else "deu", "fra")
        assert first.disposition & DISPOSITION.default
        said = []
        for packet in result.demux(first):
            if packet.size > 2:
                rects = packet.decode()
                said.append((round(float(packet.pts * packet.time_base), 2), rects[0].dialogue.decode()))
    assert [time for time, _ in said] == [0, 0.4]
    assert "slanted" in said[0][1] and said[1][1] == LINES[1][2].decode()
    assert caplog.text.count("subtitles become plain text") == (suffix != ".mkv")


def test_webm_takes_what_its_definition_has(tmp_path, caplog):
    """Opus, WebVTT, tags and chapters; a line for all that is left out."""
    font = ("font.ttf", "application/x-truetype-font", b"font" * 9)
    source = clip_with(
        tmp_path / "in.mkv", tracks=TRACKS[:1], files=[font], subtitles=[("subrip", {"language": "deu"}, 0)]
    )
    result = through(source, tmp_path / "out", ".webm")
    with av.open(str(result)) as made, av.open(str(source)) as given:
        assert {s.codec_context.codec.canonical_name for s in made.streams.audio} == {"opus"}
        (lines,) = made.streams.subtitles
        assert lines.language == "deu" and lines.codec_context.codec.canonical_name == "webvtt"
        said = [(round(float(p.pts * p.time_base), 1), bytes(p)) for p in made.demux(lines) if p.size > 2]
        assert len(said) == 2 and said[1][1] == LINES[1][2]
        assert abs(made.duration - given.duration) < 100_000
        assert not [s for s in made.streams if s.type == "attachment"]
    assert caplog.text.count("re-encoded as Opus") == 1 and caplog.text.count("1 attached file left out") == 1


@pytest.mark.parametrize("codec", ["ass", "dvb_subtitle", "hdmv_pgs_subtitle"])
def test_subtitles_that_only_matroska_carries_make_it_matroska(tmp_path, codec, caplog):
    source = clip_with(tmp_path / "in.mkv", tracks=TRACKS[:1], subtitles=[(codec, {"language": "eng"}, 0)])
    assert output_path(source, tmp_path, probe(source)).suffix == ".mkv"
    with av.open(str(through(source, tmp_path / "out"))) as result, av.open(str(source)) as original:
        kept, given = ([bytes(p) for p in c.demux(c.streams.subtitles[0]) if p.size] for c in (result, original))
        assert kept == given and len(kept) == 2
    assert not caplog.text
    through(source, tmp_path / "asked", ".mp4")
    assert caplog.text.count("subtitles become plain text" if codec == "ass" else "subtitles left out, mp4") == 1


def test_attached_files_stay_in_matroska_and_are_told_elsewhere(tmp_path, caplog):
    font = ("font.ttf", "application/x-truetype-font", b"font" * 9)
    source = clip_with(tmp_path / "in.mkv", tracks=TRACKS[:1], files=[font], subtitles=[("ass", {}, 0)])
    with av.open(str(through(source, tmp_path / "out"))) as result:
        (file,) = (s for s in result.streams if s.type == "attachment")
        assert (file.metadata.get("filename") or file.metadata["FILENAME"]) == "font.ttf" and bytes(file.data) == font[
            2
        ]
    assert not caplog.text
    through(source, tmp_path / "asked", ".mp4")
    assert caplog.text.count("1 attached file left out") == 1


def test_captions_inside_the_picture_are_told(tmp_path, caplog):
    path = tmp_path / "a.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in CLIP[:3]:
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    open_media(path).close()
    assert not caplog.text
    captions = bytes.fromhex("b50031474139340341fffc942cff")  # ATSC A/53: one pair of bytes of CEA-608
    message = b"\0\0\0\1\6\4" + bytes([len(captions)]) + captions + b"\x80"
    data = path.read_bytes()
    place = data.index(b"\0\0\1\x65")  # the first picture
    path.write_bytes(data[:place] + message + data[place:])
    open_media(path).close()
    assert caplog.text.count("a.h264: closed captions inside the picture are left out") == 1
