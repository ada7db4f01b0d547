"""What cannot be decoded is refused by what it is; what can be decoded in part is told."""

import random
import re

import av
import pytest
import torch

from data.media import MediaError, open_media, open_writer
from data.media.probe import probe
from data.media.unreadable import is_encrypted
from tests.data.media_samples import even_times, smooth_clip, write_clip

CLIP, TIMES = smooth_clip(10, 32, 48), even_times(10)


def refusal(path):
    """What reader and probe say, which is the same."""
    with pytest.raises(MediaError) as read:
        open_media(path)
    with pytest.raises(MediaError) as probed:
        probe(path)
    assert str(read.value) == str(probed.value) and str(read.value).startswith(f"{path.name}: ")
    return str(read.value)


KEYS = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": 32 * "1",
}


@pytest.mark.parametrize("fragmented", [False, True])
def test_an_encrypted_mp4_is_called_encrypted(tmp_path, fragmented):
    source = write_clip(tmp_path / "a.mp4", CLIP, TIMES, audio="aac")
    flags = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    path = tmp_path / "locked.mp4"
    with av.open(str(source)) as original, av.open(str(path), "w", options=KEYS | flags) as made:
        targets = {s.index: made.add_stream_from_template(s, opaque=True) for s in original.streams}
        for packet in original.demux():
            if packet.size:
                packet.stream = targets[packet.stream_index]
                made.mux(packet)
    assert "its video is encrypted; decrypt it" in refusal(path)
    assert is_encrypted(path) and not is_encrypted(source)


def test_a_scrambled_transport_stream_is_called_encrypted(tmp_path):
    source = write_clip(tmp_path / "a.ts", CLIP, TIMES, audio="aac")
    data = bytearray(source.read_bytes())
    noise = random.Random(0)
    for start in range(0, len(data), 188):
        if (data[start + 1] & 0x1F) << 8 | data[start + 2] in (256, 257):  # picture and sound
            data[start + 3] |= 0xC0
            data[start + 12 : start + 188] = noise.randbytes(176)
    path = tmp_path / "locked.ts"
    path.write_bytes(data)
    assert is_encrypted(path) and not is_encrypted(source)
    assert "its video is encrypted" in refusal(path)


def test_protected_windows_media_is_called_encrypted(tmp_path):
    path = write_clip(tmp_path / "a.wmv", CLIP, TIMES, codec="wmv2")
    assert not is_encrypted(path)
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + data[46:])
    assert is_encrypted(path)


@pytest.mark.parametrize(
    "suffix,old,new,name",
    [(".mp4", b"avc1", b"xyzw", "xyzw"), (".mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG9/XYZ/AVC", "V_MPEG9/XYZ/AVC"),
     (".avi", b"H264", b"ZXQW", "ZXQW")],
)  # fmt: skip
def test_an_unknown_video_codec_is_named(tmp_path, suffix, old, new, name):
    path = write_clip(tmp_path / f"a{suffix}", CLIP, TIMES)
    path.write_bytes(path.read_bytes().replace(old, new))
    assert re.search(rf"the codec of its video \({name}\) is not known; convert it", refusal(path))


def test_a_song_with_a_cover_is_no_clip(tmp_path):
    source = write_clip(tmp_path / "a.mkv", CLIP, TIMES, audio="aac")
    still = write_clip(tmp_path / "cover.avi", CLIP[:1], TIMES[:1], codec="mjpeg", pix_fmt="yuvj420p")
    path = tmp_path / "song.mp4"
    with av.open(str(source)) as original, av.open(str(still)) as cover, av.open(str(path), "w") as made:
        sound = made.add_stream_from_template(original.streams.audio[0])
        picture = made.add_stream_from_template(cover.streams.video[0], opaque=True)
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in (*cover.demux(0), *original.demux(original.streams.audio[0])):
            if packet.size:
                packet.stream = picture if packet.stream.type == "video" else sound
                made.mux(packet)
    assert "holds sound and only a cover picture, no video" in refusal(path)


@pytest.mark.parametrize(
    "suffix,codec,pix_fmt", [(".mov", "png", "rgba"), (".mov", "qtrle", "argb"), (".mov", "prores_ks", "yuva444p10le"),
                             (".webm", "libvpx", "yuva420p"), (".webm", "libvpx-vp9", "yuva420p")],
)  # fmt: skip
def test_a_transparent_clip_lies_over_white_and_a_line_says_so(tmp_path, caplog, suffix, codec, pix_fmt):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        stream.metadata["alpha_mode"] = "1"
        for picture in CLIP[:3]:
            alpha = torch.full((1, 32, 48), 255, dtype=torch.uint8)
            alpha[..., 24:] = 64
            pixels = torch.cat([torch.full_like(picture, 40), alpha]).permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode(None))
    with open_media(path) as reader:
        frames = list(reader)
    assert len(frames) == 3 and caplog.text.count("has transparency, which is laid over white") == 1
    opaque, mixed = frames[1].pixels[:, 8:24, 4:16].float(), frames[1].pixels[:, 8:24, 32:44].float()
    assert abs(opaque.mean() - 40) < 4 and abs(mixed.mean() - (40 * 64 + 255 * 191) / 255) < 5
    assert reader.damage is None


def test_an_opaque_clip_with_an_alpha_channel_says_nothing(tmp_path, caplog):
    path = write_clip(tmp_path / "a.mov", CLIP[:3], TIMES[:3], codec="qtrle", pix_fmt="argb")
    with open_media(path) as reader, open_writer(tmp_path / "out.mp4", reader.info, (32, 48)) as writer:
        for frame, picture in zip(reader, CLIP, strict=False):
            assert torch.equal(frame.pixels, picture)
            writer.write(frame.pixels[None], [frame.time])
    assert not caplog.text
