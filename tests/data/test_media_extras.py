"""What stands beside picture and sound is carried where the container takes it, and a line tells what is left out."""

from fractions import Fraction

import av
import pytest

from data.media import OutputOptions, open_media, open_writer
from data.media.tags import carried, global_tags, stream_tags
from tests.data.extras_samples import CLIP, DISPOSITION, TIMES, TRACKS, clip_with, cover, lowered, through
from tests.data.media_samples import write_clip


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


def test_marks_that_a_container_lacks_are_told(tmp_path, caplog):
    source = clip_with(tmp_path / "in.mkv", tracks=[*TRACKS, ({}, DISPOSITION.comment)])
    through(source, tmp_path / "out", ".mp4")
    assert not caplog.text
    through(source, tmp_path / "out", ".mov")
    assert caplog.text.count("marks of tracks left out, mov has no place for them: comment") == 1


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
        said = [tags.get("timecode") for tags in (lowered(result.metadata), *(s.metadata for s in result.streams))]
        assert "10:00:00:05" in said
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


def test_without_metadata_only_sound_text_and_their_languages_go_over(tmp_path):
    source = clip_with(
        tmp_path / "in.mkv",
        tags=TAGS | {"creation_time": "2021-05-06T07:08:09Z", "location": "+48.1+011.5/", "timecode": "10:00:00:05"},
        tracks=TRACKS,
        subtitles=[("subrip", {"language": "deu", "title": "secret"}, 0)],
        files=[("cover", "image/jpeg", cover())],
    )
    target = through(source, tmp_path / "out", options=OutputOptions(metadata=False))
    with av.open(str(target)) as result:
        assert [s.language for s in (*result.streams.audio, *result.streams.subtitles)] == ["eng", "fra", "deu"]
        assert len(result.streams.video) == 1
    data = target.read_bytes()
    assert not [word for word in (b"Holiday", b"Somebody", b"Commentaire", b"secret", b"+48", b"2021") if word in data]


def test_a_new_rate_leaves_out_what_is_timed_and_says_so(tmp_path, caplog):
    source = clip_with(
        tmp_path / "in.mkv", tags=TAGS, tracks=TRACKS[:1], subtitles=[("subrip", {}, 0)], chapters=[(0, 900, "One")]
    )
    with av.open(str(through(source, tmp_path / "out", options=OutputOptions(frame_rate=Fraction(10))))) as result:
        assert not result.streams.subtitles and not result.chapters() and result.metadata["title"] == "Holiday"
    assert caplog.text.count("subtitles and chapters are left out") == 1


def test_nothing_beside_the_picture_ever_costs_it(tmp_path, monkeypatch, caplog):
    source = clip_with(tmp_path / "in.mkv", tags=TAGS, tracks=TRACKS, chapters=[(0, 900, "One")])

    def fail(*args, **options):
        raise RuntimeError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr("data.media.mux._attach", lambda output, extras, until, stack: fail() if extras else [])
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
    for rate in (Fraction(25), Fraction(118125, 5638), Fraction(90_000), Fraction(1, 60)):
        assert len(carried({"title": "T", "made_up": "x"}, ".mov", rate, keys=True)) == 2


def test_a_track_of_measurements_is_told_and_titles_of_chapters_are_not(tmp_path, caplog):
    chapters = [(0, 400, "One"), (400, 900, "Two")]
    source = clip_with(tmp_path / "in.mp4", tracks=TRACKS[:1], chapters=chapters)
    with av.open(str(source)) as container:
        assert len(container.streams.data) == 1  # the titles
    source.write_bytes(source.read_bytes().replace(b"SubtitleHandler", b"Some other name"))
    through(source, tmp_path / "out")
    assert not caplog.text
    source = clip_with(tmp_path / "plain.mp4", tracks=TRACKS[:1], subtitles=[("mov_text", {}, 0)])
    source.write_bytes(source.read_bytes().replace(b"sbtl", b"meta").replace(b"tx3g", b"gpmd"))
    with av.open(str(source)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "data"]
    through(source, tmp_path / "out")
    assert caplog.text.count("plain.mp4: 1 data track (measurements, commands) left out") == 1


def test_an_mxf_leaves_its_timecode_and_not_the_names_of_the_old_file(tmp_path):
    path = tmp_path / "tape.mxf"
    with av.open(str(path), "w") as container:
        container.metadata["timecode"] = "01:02:03:04"
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(48, 32, "yuv420p")), *stream.encode(None)):
            container.mux(packet)
    with av.open(str(path)) as source:
        assert "uid" in source.metadata and "product_name" in source.metadata
        assert list(global_tags(source).items()) == [("timecode", "01:02:03:04")]
        assert stream_tags(source.streams.video[0], ".mkv") == {}
