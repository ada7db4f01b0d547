"""What stands beside picture and sound is carried where the container takes it, and a line tells what is left out."""

import io
from fractions import Fraction

import av
import pytest
from PIL import Image

from data.media import open_media, open_writer, output_path
from data.media.probe import probe
from data.media.tags import carried, global_tags, stream_tags
from tests.data.media_samples import even_times, smooth_clip, write_clip

CLIP, TIMES = smooth_clip(25, 32, 48), even_times(25)
DISPOSITION = av.stream.Disposition
LINES = [(0, 300, b"first <i>slanted</i> line"), (400, 300, "zweite Zeile, äöü".encode())]
EMPTY_PGS = b"\x16\0\x0b\0\x30\0\x20\x10\0\0\x80\0\0\0\0" + b"\x80\0\0"  # a composition and its end


def cover(picture_format="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 60)).save(file, picture_format)
    return file.getvalue()


def clip_with(path, *, tags=(), tracks=(), subtitles=(), chapters=(), files=(), start_s=0):
    """A clip of one second with what is asked for.

    tracks: (tags, disposition) of sound; subtitles: (codec, tags, disposition); files: (name, type, data).
    """
    source = write_clip(path.with_name("source.mkv"), CLIP, TIMES, audio="aac")
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        video, sound = original.streams.video[0], original.streams.audio[0]
        container.metadata.update(dict(tags))
        targets = {video.index: [container.add_stream_from_template(video, opaque=True)], sound.index: []}
        for own, disposition in tracks:
            stream = container.add_stream_from_template(sound)
            stream.metadata.update(own)
            stream.disposition = disposition
            targets[sound.index].append(stream)
        texts = []
        for codec, own, disposition in subtitles:
            stream = container.add_mux_stream(codec, time_base=Fraction(1, 1000))
            stream.metadata.update(own)
            stream.disposition = disposition
            texts.append((codec, stream))
        for name, mimetype, data in files:
            container.add_attachment(name, mimetype, data)
        base = Fraction(1, 1000)
        container.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": base, "metadata": {"title": t}}
                for n, (a, b, t) in enumerate(chapters, start=1)
            ]
        )
        for codec, stream in texts:
            for start, duration, text in LINES:
                text = {"ass": b"0,0,Default,,0,0,0,," + text, "hdmv_pgs_subtitle": EMPTY_PGS}.get(codec, text)
                packet = av.Packet(text)
                packet.pts = packet.dts = start + 1000 * start_s
                packet.duration, packet.time_base, packet.stream = duration, base, stream
                container.mux(packet)
        for packet in original.demux():
            if not packet.size:
                continue
            late = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + late, packet.dts + late
            for stream in targets[packet.stream_index]:
                packet.stream = stream
                container.mux(packet)
    return path


def through(source, folder, suffix=None, **options):
    """(path of the result, open result) of a clip that goes through reader and writer."""
    with open_media(source) as reader:
        target = output_path(source, folder, reader.info)
        target = target.with_suffix(suffix) if suffix else target
        with open_writer(target, reader.info, (32, 48), **options) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    return target


def lowered(tags):
    return {name.lower(): value for name, value in tags.items()}


TRACKS = [({"language": "eng"}, 0), ({"language": "fra", "title": "Commentaire"}, DISPOSITION.default)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_all_sound_tracks_keep_language_title_and_default(tmp_path, suffix):
    source = clip_with(tmp_path / "in.mkv", tracks=[*TRACKS, ({"language": "jpn"}, DISPOSITION.comment)])
    with av.open(str(through(source, tmp_path / "out", suffix))) as result:
        sounds = result.streams.audio
        assert [s.language for s in sounds] == ["eng", "fra", "jpn"]
        titles = [lowered(s.metadata).get("title") or s.metadata.get("name") for s in sounds]
        assert titles == [None, "Commentaire", None]
        assert [bool(s.disposition & DISPOSITION.default) for s in sounds] == [False, True, False]
        assert suffix == ".mov" or sounds[2].disposition & DISPOSITION.comment


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


def test_marks_that_a_container_lacks_are_told(tmp_path, caplog):
    source = clip_with(tmp_path / "in.mkv", tracks=[*TRACKS, ({}, DISPOSITION.comment)])
    through(source, tmp_path / "out", ".mp4")
    assert not caplog.text
    through(source, tmp_path / "out", ".mov")
    assert caplog.text.count("marks of tracks left out, mov has no place for them: comment") == 1


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


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_chapters_stand_where_they_stood(tmp_path, suffix):
    source = clip_with(
        tmp_path / "in.mkv", tracks=TRACKS[:1], chapters=[(2000, 2400, "One"), (2400, 3000, "Two")], start_s=2
    )
    with av.open(str(through(source, tmp_path / "out", suffix))) as result:
        found = [(c["metadata"]["title"], c["start"] * c["time_base"]) for c in result.chapters()]
    assert found == [("One", 0), ("Two", Fraction(2, 5))]


TAGS = {"title": "Holiday", "ARTIST": "Somebody", "COMMENT": "keep me", "date": "2021-05-06"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tags_and_creation_date_go_over(tmp_path, suffix, caplog):
    tags = TAGS | {"creation_time": "2021-05-06T07:08:09.000000Z", "location": "+48.1374+011.5755/", "MADE_UP": "x"}
    source = clip_with(tmp_path / "in.mkv", tags=tags, tracks=TRACKS[:1])
    with av.open(str(through(source, tmp_path / "out", suffix))) as result:
        held = lowered(result.metadata)
    assert {name: held.get(name) for name in lowered(tags)} == lowered(tags) and not caplog.text


def test_what_phones_write_goes_over(tmp_path):
    tags = {f"com.apple.quicktime.{name}": value for name, value in (("make", "A"), ("model", "B 15"))}
    tags |= {"com.apple.quicktime.location.ISO6709": "+48.1374+011.5755+519.000/"}
    tags |= {"com.apple.quicktime.creationdate": "2024-05-01T10:11:12+0200", "creation_time": "2024-05-01T08:11:12Z"}
    source = tmp_path / "phone.mov"
    plain = write_clip(tmp_path / "plain.mp4", CLIP, TIMES, audio="aac", rotation=90)
    with av.open(str(plain)) as original, av.open(str(source), "w", options={"movflags": "use_metadata_tags"}) as made:
        made.metadata.update(tags)
        targets = {s.index: made.add_stream_from_template(s, opaque=True) for s in original.streams}
        for packet in original.demux():
            if packet.size:
                packet.stream = targets[packet.stream_index]
                made.mux(packet)
    with open_media(source) as reader:
        target = tmp_path / "out.mp4"
        with open_writer(target, reader.info, (48, 32)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    with av.open(str(target)) as result:
        assert tags.items() <= result.metadata.items() and "location" in result.metadata
        assert result.streams.video[0].metadata.get("rotate") is None
    assert b"loci" in target.read_bytes()  # where other programs than Apple's look for the place


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_timecode_goes_over_and_a_wrong_one_costs_itself_alone(tmp_path, suffix, caplog):
    source = clip_with(tmp_path / "in.mkv", tags={"title": "T", "timecode": "10:00:00:05"}, tracks=TRACKS[:1])
    with av.open(str(through(source, tmp_path / "out", suffix))) as result:
        assert lowered(result.metadata)["timecode"] == "10:00:00:05"
    wrong = clip_with(tmp_path / "wrong.mkv", tags={"title": "T", "timecode": "noon"}, tracks=TRACKS[:1])
    with av.open(str(through(wrong, tmp_path / "out", suffix))) as result:
        assert result.metadata["title"] == "T" and len(result.streams.audio) == 1
    assert not caplog.text


@pytest.mark.parametrize("picture_format,kind", [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_a_cover_goes_over_and_is_told_where_it_cannot(tmp_path, picture_format, kind, caplog):
    data = cover(picture_format)
    source = clip_with(tmp_path / "in.mkv", tags=TAGS, tracks=TRACKS[:1], files=[("cover", kind, data)])
    for suffix in (".mp4", ".mkv", ".mov"):
        target = through(source, tmp_path / "out", suffix)
        with av.open(str(target)) as result:
            covers = [s for s in result.streams.video if s.disposition & DISPOSITION.attached_pic]
            assert len(covers) == (suffix != ".mov") and lowered(result.metadata)["artist"] == "Somebody"
            if covers:
                assert bytes(next(result.demux(covers[0]))) == data
    assert caplog.text.count("1 cover picture left out") == 1


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


def test_without_metadata_only_sound_text_and_their_languages_go_over(tmp_path):
    source = clip_with(
        tmp_path / "in.mkv",
        tags=TAGS | {"creation_time": "2021-05-06T07:08:09Z", "location": "+48.1+011.5/", "timecode": "10:00:00:05"},
        tracks=TRACKS,
        subtitles=[("subrip", {"language": "deu", "title": "secret"}, 0)],
        files=[("cover", "image/jpeg", cover())],
    )
    target = through(source, tmp_path / "out", metadata=False)
    with av.open(str(target)) as result:
        assert [s.language for s in (*result.streams.audio, *result.streams.subtitles)] == ["eng", "fra", "deu"]
        assert len(result.streams.video) == 1
    data = target.read_bytes()
    assert not [word for word in (b"Holiday", b"Somebody", b"Commentaire", b"secret", b"+48", b"2021") if word in data]


def test_a_new_rate_leaves_out_what_is_timed_and_says_so(tmp_path, caplog):
    source = clip_with(
        tmp_path / "in.mkv", tags=TAGS, tracks=TRACKS[:1], subtitles=[("subrip", {}, 0)], chapters=[(0, 900, "One")]
    )
    with av.open(str(through(source, tmp_path / "out", frame_rate=Fraction(10)))) as result:
        assert not result.streams.subtitles and not result.chapters() and result.metadata["title"] == "Holiday"
    assert caplog.text.count("subtitles and chapters are left out") == 1


def test_nothing_beside_the_picture_ever_costs_it(tmp_path, monkeypatch, caplog):
    source = clip_with(tmp_path / "in.mkv", tags=TAGS, tracks=TRACKS, chapters=[(0, 900, "One")])

    def fail(*args, **options):
        raise RuntimeError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr("data.media.mux._attach", lambda output, extras, stack: fail() if extras else [])
        with av.open(str(through(source, tmp_path / "a"))) as result:
            assert len(result.streams.audio) == 2 and not result.chapters()
    assert caplog.text.count("tags, chapters, cover and subtitles are left out") == 1
    with monkeypatch.context() as patch:
        patch.setattr("data.media.extras.plan_extras", fail)
        with av.open(str(through(source, tmp_path / "b"))) as result:
            assert len(result.streams.audio) == 2
    assert caplog.text.count("they cannot be read (made to fail)") == 1


def test_what_describes_the_old_file_stays_behind(tmp_path):
    source = clip_with(tmp_path / "in.mkv", tags={"title": "T", "ENCODER": "other", "DURATION": "9"}, tracks=TRACKS)
    with av.open(str(source)) as container:
        assert set(global_tags(container)) == {"title"}
        assert stream_tags(container.streams.audio[1], ".mkv") == {"language": "fra", "title": "Commentaire"}
    assert carried({"title": "T", "made_up": "x"}, ".mp4", Fraction(25), keys=False) == {"title": "T"}
    assert len(carried({"title": "T", "made_up": "x"}, ".mp4", Fraction(25), keys=True)) == 2
