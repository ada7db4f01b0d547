"""Which tags of a clip does the result get, and under which names? Tags that describe the old file are left out."""

import io
from collections.abc import Mapping
from fractions import Fraction

import av

from data.media.names import WRITABLE_VIDEOS

# Tags that describe the container, the encoder or the streams of the input.
OF_THE_OLD_FILE = frozenset(
    "major_brand minor_version compatible_brands encoder encoder_options encoded_by duration bps number_of_frames "
    "number_of_bytes source_id handler_name vendor_id rotate filename mimetype hw_encoder alpha_mode "
    "_statistics_tags _statistics_writing_app _statistics_writing_date_utc "
    # MXF: identifiers of the file itself, and the program that wrote it
    "uid generation_uid operational_pattern_ul file_package_umid material_package_umid company_name product_name "
    "product_uid product_version product_version_num toolkit_version_num application_platform modification_date".split()
)
PROGRAMS = ("Lavf", "Lavc")
OF_THE_STREAM = ("language", "name", "creation_time", "timecode")  # tags of tracks that are handled separately
APPLE_PLACE, PLACE = "com.apple.quicktime.location.ISO6709", "location"
QUICKTIME = (".mp4", ".mov")
# For these languages, MOV uses the bibliographic code of ISO 639-2 instead of the terminological one.
LANGUAGES_OF_MOV = dict(
    pair.split("=")
    for pair in "deu=ger nld=dut ell=gre isl=ice zho=chi fas=per ces=cze slk=slo ron=rum mkd=mac mya=bur cym=wel "
    "swe=sve eus=baq hye=arm kat=geo msa=may sqi=alb bod=tib".split()
)


def global_tags(container: av.container.Container) -> dict[str, str]:
    """The tags of a clip as a whole. Apple's location is also given as `location`, and a track's timecode is added."""
    tags = _not_of_the_muxer(container.metadata)
    names = {name.lower(): name for name in tags}
    if APPLE_PLACE.lower() in names:
        tags[APPLE_PLACE] = tags.pop(names[APPLE_PLACE.lower()])
        tags.setdefault(PLACE, tags[APPLE_PLACE])
    timecode = next((s.metadata["timecode"] for s in container.streams if "timecode" in s.metadata), None)
    if timecode and "timecode" not in names:
        tags["timecode"] = timecode
    return tags


def with_apple_place(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags to be written as QuickTime keys: the location is also given under the key that programs look for."""
    return {APPLE_PLACE: tags[PLACE], **tags} if PLACE in tags else dict(tags)


def stream_tags(stream: av.stream.Stream, suffix: str, metadata: bool = True) -> dict[str, str]:
    """The tags of one track, under the names of the output container.

    Args:
        suffix: the suffix of the output, one of `WRITABLE_VIDEOS`.
        metadata: False: only the language.
    """
    language = stream.metadata.get("language", "und")
    if suffix == ".mov":
        language = LANGUAGES_OF_MOV.get(language, language)
    tags = {} if language == "und" else {"language": language}
    if not metadata:
        return tags
    names = {name.lower(): value for name, value in stream.metadata.items()}
    kept = _not_of_the_muxer(stream.metadata)
    tags.update({name: kept[name] for name in kept if name.lower() not in OF_THE_STREAM})
    title = names.get("title") or names.get("name")
    if title:
        tags["title"] = title
    if suffix in QUICKTIME and (title or names.get("handler_name")):
        tags["handler_name"] = title or names["handler_name"]
    return tags


def carried(tags: Mapping[str, str], suffix: str, rate: Fraction, keys: bool) -> dict[str, str]:
    """The tags that a file can store: those that are found again in a test file; {} if that cannot be written.

    Args:
        tags: the tags to write.
        suffix: the suffix of the file, one of `WRITABLE_VIDEOS`.
        rate: frames per second, on which a timecode depends.
        keys: write the tags of an MP4 or MOV as QuickTime keys, which may have any name.
    """
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=WRITABLE_VIDEOS[suffix], options=keys_option(keys)) as trial:
            codec, options = ("libvpx-vp9", {}) if suffix == ".webm" else ("libx264", {"preset": "ultrafast"})
            stream = trial.add_stream(codec, rate=rate, options=options)
            assert isinstance(stream, av.VideoStream), "of a codec of pictures"
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            trial.metadata.update(tags)
            trial.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            trial.mux(stream.encode(None))
        file.seek(0)
        with av.open(file, metadata_errors="replace") as result:
            held = {name.lower() for name in result.metadata}
            held |= {"timecode" for stream in result.streams if "timecode" in stream.metadata}
    except (av.FFmpegError, ValueError, UnicodeError):
        return {}
    return {name: value for name, value in tags.items() if name.lower() in held}


def keys_option(keys: bool) -> dict[str, str]:
    """The option of FFmpeg's MP4 and MOV muxers that writes tags as QuickTime keys; {} if they are not wanted."""
    return {"movflags": "+use_metadata_tags"} if keys else {}


def _not_of_the_muxer(tags: Mapping[str, str]) -> dict[str, str]:
    kept = {}
    for name, value in tags.items():
        plain = name.lower()
        base, _, language = plain.rpartition("-")
        translated = len(language) == 3 and base in tags  # FFmpeg gives such a tag with and without its language
        if plain in OF_THE_OLD_FILE or base in OF_THE_OLD_FILE or translated or value.startswith(PROGRAMS) or not value:
            continue
        kept[plain if name.isupper() else name] = value  # Matroska writes all names in capitals
    return kept
