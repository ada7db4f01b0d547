"""Why can an intact clip not be decoded? It is encrypted, or its codec is not supported.

The reason is read from the bytes of the container, since FFmpeg does not state it.
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
    bytes.fromhex("14e68a292622174cb935dae07ee9289c"),  # extended content encryption object
)
MP4_ENCRYPTED = (b"encv", b"drmi", b"p264")  # sample entries of encrypted video
TS_PACKET = 188
ADVICE = "decrypt it with the program or the service that it is from"


def is_encrypted_packet(packet: av.Packet) -> bool:
    """Whether a packet of an MP4 or Matroska file is encrypted."""
    return any(side.data_type == "encryption_info" for side in packet.iter_sidedata())


def is_encrypted(path: Path) -> bool:
    """Whether the video of a clip is encrypted, according to its container."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(ASF):
            return any(mark in head for mark in ASF_ENCRYPTION)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp"):
            return any(codec in MP4_ENCRYPTED for codec in _mp4_video_codecs(file))
        if head.startswith(b"\x1aE\xdf\xa3"):
            return b"\x50\x35" in head and b"\x47\xe1" in head  # the elements ContentEncryption and ContentEncAlgo
        if head.startswith(b"\0\0\x01\xba"):  # MPEG-PS: scrambling bits in the headers of packets
            headers = re.findall(rb"\0\0\x01[\xe0-\xef]..([\x80-\xbf])", head, re.DOTALL)
            return sum(flags[0] & 0x30 != 0 for flags in headers) > len(headers) // 2
    return any(_scrambled(head, start) for start in (0, 4))


def video_codec_name(path: Path) -> str | None:
    """The container's name of its video codec: a four-character code, or Matroska's codec ID; None if not found."""
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
    """The four-character code of the codec of every video track."""
    index = _index_of(file)
    for match in re.finditer(rb"hdlr.{8}vide", index, re.DOTALL):
        place = index.find(b"stsd", match.end())
        if place >= 0:
            yield index[place + 16 : place + 20]


def _index_of(file: BinaryIO) -> bytes:
    """The content of the moov box of an MP4, at most `MOST_INDEX_BYTES`; empty if it is missing."""
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
    """Whether most packets of a transport stream are scrambled.

    Args:
        head: the first bytes of the file.
        start: 0 for MPEG-TS; 4 for M2TS, where a timestamp precedes each packet.
    """
    packets = [head[at : at + 4] for at in range(start, len(head) - 4, TS_PACKET + start)]
    if len(packets) < 4 or any(packet[0] != 0x47 for packet in packets[:4]):
        return False
    filled = [packet for packet in packets if packet[0] == 0x47 and packet[1:3] != b"\x1f\xff"]
    return 2 * sum(packet[3] & 0xC0 != 0 for packet in filled) > len(filled)
