"""Why can an intact clip not be decoded? It is encrypted, or its codec is not supported.

Read from the container's own bytes, since FFmpeg does not say.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av

HEAD_BYTES, MOST_INDEX_BYTES = 1 << 20, 1 << 26
ASF = b"0&\xb2u\x8ef\xcf\x11"
ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),  # content encryption object
    bytes.fromhex("14e68a292622174cb935dae07ee9289c"),  # the extended one
)
MP4_ENCRYPTED = (b"encv", b"drmi", b"p264")  # in the place of the codec
TS_PACKET = 188
ADVICE = "decrypt it with the program or the service that it is from"


def is_encrypted_packet(packet: av.Packet) -> bool:
    """Whether a packet of an MP4 or Matroska file needs a key."""
    return any(side.data_type == "encryption_info" for side in packet.iter_sidedata())


def is_encrypted(path: Path) -> bool:
    """Whether the video of a clip is encrypted, as its container says."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(ASF):
            return any(mark in head for mark in ASF_ENCRYPTION)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp"):
            return any(codec in MP4_ENCRYPTED for codec in _mp4_video_codecs(file))
        if head.startswith(b"\x1aE\xdf\xa3"):
            return b"\x50\x35" in head and b"\x47\xe1" in head  # content encryption, its algorithm
        if head.startswith(b"\0\0\x01\xba"):  # two bits of the header of a packet of MPEG-PS
            headers = re.findall(rb"\0\0\x01[\xe0-\xef]..([\x80-\xbf])", head, re.DOTALL)
            return sum(flags[0] & 0x30 != 0 for flags in headers) > len(headers) // 2
    return any(_scrambled(head, start) for start in (0, 4))


def video_codec_name(path: Path) -> str | None:
    """The container's name of its video codec: four letters, or Matroska's name; None where it is not found."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(b"\x1aE\xdf\xa3"):
            names = re.findall(rb"\x86[\x81-\xff](V_[A-Z0-9/_.]+)", head)
        elif head[:4] == b"RIFF":
            names = re.findall(rb"strh.{4}vids(.{4})", head, re.DOTALL)
        else:
            names = list(_mp4_video_codecs(file))
    return names[0].decode("latin-1").strip("\0 ") or None if names else None


def _mp4_video_codecs(file: BinaryIO) -> Iterator[bytes]:
    """The four letters of the codec of every video track."""
    index = _index_of(file)
    for match in re.finditer(rb"hdlr.{8}vide", index, re.DOTALL):
        place = index.find(b"stsd", match.end())
        if place >= 0:
            yield index[place + 16 : place + 20]


def _index_of(file: BinaryIO) -> bytes:
    """The moov box of an MP4, without its name; empty where it is missing or absurdly large."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return b""
        length, name = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if name == b"moov":
            file.seek(position + 8)
            return file.read(min(length or MOST_INDEX_BYTES, MOST_INDEX_BYTES))
        if length < 8:
            return b""
        position += length


def _scrambled(head: bytes, start: int) -> bool:
    """Whether most packets of a transport stream are scrambled; start: 4 where a timestamp precedes each packet."""
    packets = [head[at : at + 4] for at in range(start, len(head) - 4, TS_PACKET + start)]
    if len(packets) < 4 or any(packet[0] != 0x47 for packet in packets[:4]):
        return False
    filled = [packet for packet in packets if packet[0] == 0x47 and packet[1:3] != b"\x1f\xff"]
    return 2 * sum(packet[3] & 0xC0 != 0 for packet in filled) > len(filled)
