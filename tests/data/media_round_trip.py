"""What tests of files do again and again: through the reader and the writer, and a look at what came out."""

import av

from data.media import open_media, open_writer, output_path
from tests.data.media_samples import even_times, smooth_clip

CLIP, TIMES = smooth_clip(25, 32, 48), even_times(25)


def through(source, folder):
    """(path of the result, reader) of a file that goes through reader and writer."""
    with open_media(source) as reader:
        target = output_path(source, folder, reader.info)
        with open_writer(target, reader.info, (32, 48)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None, :, :32, :48], [frame.time])
    return target, reader


def sound_of(path):
    with av.open(str(path)) as container:
        return [(s.codec_context.name, float((s.duration or 0) * s.time_base)) for s in container.streams.audio]


def frames_of(path):
    with open_media(path) as reader:
        return sum(1 for _ in reader)
