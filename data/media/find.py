"""Is a file a video or a picture, and if not, what is it? Its name and its first bytes decide."""

from os import PathLike
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mov .qt .m4v .mkv .webm .avi .divx .wmv .asf .flv .f4v .ts .m2ts .mts .m2t .tod .trp .tp .mpg .mpeg .mpe "
    ".m1v .m2v .mpv .m2p .mod .vob .ogv .ogm .3gp .3g2 .mxf .dv .y4m .rm .rmvb .nut .wtv .gxf .ivf .amv .mj2 .swf "
    ".h264 .264 .avc .h265 .265 .hevc .vc1 .bik .smk .nsv .roq".split()
)
IMAGE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .webp .tif .tiff .bmp .dib .gif .avif .avifs .heic .heif "
    ".hif .jxl .jp2 .j2k .jpf .jpx .j2c .jpc .ppm .pgm .pbm .pnm .tga .icb .vda .vst .ico".split()
)

# Other kinds of files, in words. Their first bytes can look like media (a DNG is a TIFF).
OTHER_KINDS = {
    "a subtitle file": ".srt .ass .ssa .vtt .sub .idx .sup .smi .ttml .lrc",
    "a sound file": ".mp3 .m4a .m4b .aac .wav .flac .ogg .oga .opus .wma .mka .ac3 .eac3 .dts .aif .aiff .amr .caf",
    "a camera RAW file": ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .raw .3fr .iiq "
    ".kdc .dcr .erf .mef .mos .mrw .rwl .fff",
    "a picture of a format that is not read, which has to become PNG or TIFF first": ".pam .pfm .exr .hdr .jxr .wdp "
    ".hdp .dds .qoi .flif .bpg .fits .pcx .sgi .ras .xpm",
    "a text file": ".txt .md .log .csv .tsv .json .yaml .yml .xml .html .htm .nfo .ini .cfg .toml .rtf",
    "a document": ".pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .epub",
    "an archive": ".zip .7z .rar .tar .gz .xz .bz2 .zst .iso",
    "a program or its source": ".py .sh .bat .exe .dll .so .js .ipynb",
    "network weights": ".pth .pt .safetensors .ckpt .onnx",
    "a drawing or project, which has to be exported first": ".svg .psd .xcf .ai .eps .blend .prproj .drp .kra .clip",
    "a side file of a camera or program": ".xmp .thm .lrv .aae .db .part .crdownload .tmp .bup .ifo .url .lnk .torrent",
}
KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in OTHER_KINDS.items() for suffix in suffixes.split()}
RAW_SUFFIXES = frozenset(suffix for suffix, kind in KIND_OF_SUFFIX.items() if kind == "a camera RAW file")

PICTURE_STARTS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
CLIP_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
    b"0&\xb2u\x8ef\xcf\x11",  # ASF
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"YUV4MPEG2",
    b"DKIF",  # IVF
    b".RMF",
    b"nut/multimedia container",
)
SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ")


def is_probably_media(path: str | PathLike[str]) -> bool:
    """Whether a file is probably a video or a picture: by its suffix if that is known, otherwise by its first bytes.

    Only opening the file can make sure. A file that does not exist is judged by its name.
    """
    return why_not_media(Path(path)) is None


def why_not_media(path: Path) -> str | None:
    """What a file is, in words, if it is neither a video nor a picture; None if it is one."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
        return None
    if suffix in KIND_OF_SUFFIX:
        return f"{KIND_OF_SUFFIX[suffix]}, not a video or a picture"
    if not path.is_file():
        return "not a video or a picture"
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    return None if starts_like_picture(head) or starts_like_clip(head) else "not a video or a picture"


def starts_like_picture(head: bytes) -> bool:
    """Whether the first bytes of a file, at least 32, are those of a picture format that can be read."""
    boxed = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
    netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\r", b"\n", b"#")
    grey_floats = head[:2] == b"Pf" and head[2:3] in (b" ", b"\n")
    icon = head[:4] == b"\0\0\1\0" and 0 < int.from_bytes(head[4:6], "little") < 256 and head[9:10] == b"\0"
    return head.startswith(PICTURE_STARTS) or boxed or avif or netpbm or grey_floats or icon


def starts_like_clip(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a video container."""
    boxed = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[8:12] not in SOUND_BRANDS
    riff = head[:4] == b"RIFF" and head[8:11] == b"AVI"
    ogg = head[:4] == b"OggS" and any(mark in head for mark in (b"theora", b"fishead", b"video", b"BBCD"))
    packets = b"GGG" in (head[::188], head[4::192])  # MPEG-TS, M2TS: every packet begins with a sync byte
    return head.startswith(CLIP_STARTS) or boxed or riff or ogg or packets
