#!/usr/bin/env python3
"""Writes fuzz/seeds: small inputs that the fuzz targets start from. All are made here or by this project; ffmpeg makes the pictures.

    fuzz/seeds.py
"""

import ctypes.util
import json
import os
import struct
import subprocess
import tempfile
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz/seeds"
FFMPEG = os.environ.get("REELSEEK_FFMPEG") or "ffmpeg"


def write(target, name, content):
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def ffmpeg(source, *words):
    command = [FFMPEG, "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, "-bitexact", *words, "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, *chunks):
    """A black picture. `colour` is 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    row = b"\0" + bytes((width * depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour] + 7) // 8)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks, chunk(b"IDAT", zlib.compress(row * height, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def box(kind, *content):
    return struct.pack(">I", 8 + len(b"".join(content))) + kind + b"".join(content)


def heic():
    """The structure of a grid of two tiles, without coded pictures."""
    full, shorts = bytes(4), lambda *values: struct.pack(f">{len(values)}H", *values)
    infe = lambda number, kind: box(b"infe", b"\2\0\0\0", shorts(number, 0), kind, b"\0")
    tile, grid = b"\0\0\0\2\x26\1", b"\0\0\0\1" + shorts(30, 16)
    brands = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    hvcc = box(b"hvcC", bytes(21), b"\3\1", b"\x21" + shorts(1, 2) + b"\x42\1")
    sizes = [box(b"ispe", full, struct.pack(">2I", *size)) for size in [(16, 16), (30, 16)]]
    crop = box(b"clap", struct.pack(">8I", 20, 1, 10, 1, 0, 1, 0, 1))
    properties = box(b"ipco", hvcc, *sizes, box(b"irot", b"\1"), box(b"imir", b"\0"), crop)
    of = lambda number, *indices: shorts(number) + bytes([len(indices), *indices])
    used = box(b"ipma", full, struct.pack(">I", 3), of(1, 0x81, 2), of(2, 0x81, 2), of(3, 3, 6, 0x84, 0x85))

    def meta(start):
        places = [shorts(n, 0, 0, 1) + struct.pack(">2I", start + 6 * (n - 1), 6) for n in (1, 2)]
        places.append(shorts(3, 1, 0, 1) + struct.pack(">2I", 0, len(grid)))
        return box(
            b"meta", full, box(b"pitm", full, shorts(3)), box(b"iinf", full, shorts(3), infe(1, b"hvc1"), infe(2, b"hvc1"), infe(3, b"grid")),
            box(b"iloc", b"\1\0\0\0", shorts(0x4400, 3), *places), box(b"iprp", properties, used),
            box(b"iref", full, box(b"dimg", shorts(3, 2, 1, 2))), box(b"idat", grid),
        )

    return brands + meta(len(brands) + len(meta(0)) + 8) + box(b"mdat", tile * 2)


def pictures():
    source = "testsrc2=size=24x16:rate=2"
    still = ["-frames:v", "1"]
    for name, words in {
        "rgb.png": [*still, "-f", "image2", "-c:v", "png"],
        "grey16.png": [*still, "-pix_fmt", "gray16be", "-f", "image2", "-c:v", "png"],
        "rgba16.png": [*still, "-pix_fmt", "rgba64be", "-f", "image2", "-c:v", "png"],
        "palette.png": [*still, "-pix_fmt", "pal8", "-f", "image2", "-c:v", "png"],
        "two.apng": ["-t", "1", "-f", "apng", "-pred", "paeth"],
        "444.jpg": [*still, "-pix_fmt", "yuvj444p", "-q:v", "9", "-f", "mjpeg"],
        "420.jpg": [*still, "-pix_fmt", "yuvj420p", "-q:v", "20", "-f", "mjpeg"],
        "grey.jpg": [*still, "-pix_fmt", "gray", "-q:v", "20", "-f", "mjpeg"],
        "two.gif": ["-t", "1", "-f", "gif"],
        "rgb.bmp": [*still, "-f", "image2", "-c:v", "bmp"],
        "lzw.tif": [*still, "-compression_algo", "lzw", "-f", "image2", "-c:v", "tiff"],
        "deflate.tif": [*still, "-compression_algo", "deflate", "-pix_fmt", "rgb48le", "-f", "image2", "-c:v", "tiff"],
        "packbits.tif": [*still, "-compression_algo", "packbits", "-pix_fmt", "gray", "-f", "image2", "-c:v", "tiff"],
        "rgb.ppm": [*still, "-f", "image2", "-c:v", "ppm"],
        "grey.pgm": [*still, "-f", "image2", "-c:v", "pgm"],
        "rle.tga": [*still, "-f", "image2", "-c:v", "targa"],
        "rgb.qoi": [*still, "-f", "image2", "-c:v", "qoi"],
        "lossy.webp": [*still, "-f", "webp", "-q:v", "30"],
        "lossless.webp": [*still, "-f", "webp", "-lossless", "1"],
        "two.webp": ["-t", "1", "-f", "webp", "-loop", "0"],
        "lossy.jxl": [*still, "-f", "image2", "-c:v", "libjxl", "-distance", "1"],
        "lossless.jxl": [*still, "-f", "image2", "-c:v", "libjxl", "-distance", "0"],
    }.items():
        write("picture", name, ffmpeg(source, *words))
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(60_000), 9))
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 50_000, 9))
    write("picture", "chunks.png", png(9, 5, 16, 6, profile, exif, text))
    write("picture", "wide.png", png(60_000, 1, 1, 0))
    write("picture", "tall.png", png(1, 60_000, 8, 0))
    write("picture", "grid.heic", heic())


def texts():
    for number, text in enumerate([
        "surfing", 'title:"days of snow"~2 -label:surfing', "path:holiday AND (label_exact:\"rock climbing\" OR duration:[10 TO 60])",
        "duration:>30 size:<1000000 NOT id:v3", "extra.camera:x100 extra.year:[1990 TO 2000]", "a AND NOT b OR +c -d^2.5", "title:sno* label:/sur.*/",
        "id: IN [v1 v2 v3]", "NOT NOT NOT NOT (NOT (a))", "((((((((a OR b)))))))) AND *", "title:{a TO z} text:\\\"q\\\" -(x y)",
    ]):
        write("filter", f"{number:02}", text)
    for number, value in enumerate([
        {"title": "Snow day", "labels": ["skiing", "alps"], "camera": "x100"}, {"title": None, "label": "one"},
        {"deep": [[[[{"a": [1.5e300, -0, True]}]]]], "\u202e": "\u001b"}, {"labels": [], "year": 1999},
    ]):
        write("sidecar", f"{number:02}.json", json.dumps(value))
    for number, value in enumerate([
        {"vector": [1.0, -0.5, 0], "top": 3, "filter": "label:a", "exact": True}, {"url": "http://example.org/a.jpg", "group": "moment"},
        {"queries": [{"vector": [0.1, 2e-3]}, {"url": "https://example.org/b"}], "skip": 4, "ef": 10}, {"vector": [1], "min_confidence": 0.5},
    ]):
        write("json_request", f"{number:02}.json", json.dumps(value))


def forms():
    def form(query, boundary, *fields):
        parts = [f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n" for head, value in fields]
        return f"{query}\nmultipart/form-data; boundary={boundary}\n" + "".join(parts) + f"--{boundary}--\r\n"

    write("form", "00", form("top=3&filter=label%3Aa", "x", ('name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg', "\xff"), ('name="exact"', "true")))
    write("form", "01", form("", "abc", ('name="url"', "http://example.org/"), ('name="min_confidence"', "0.5")))
    write("form", "02", form("group=moment&skip=1", '"q q"', ('name="image"', "1"), ('name="image"', "2"), ("name*=utf-8''top", "7")))


def features():
    golden = ROOT / "tests/golden"
    array = (golden / "features/images.npy").read_bytes()
    write("npy", "matrix", b"\0" + array)
    write("npy", "lines", b"\1" + (golden / "features/images.jsonl").read_bytes())
    write("npy", "array", b"\2" + array)
    nested = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"[" * 40 + b"]" * 40 + b"}"
    write("npy", "nested", b"\2\x93NUMPY\1\0" + struct.pack("<H", len(nested)) + nested)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            for name in ("v_a.npy", "b.npy"):
                archive.writestr(zipfile.ZipInfo(name), array, method)
        write("npy", f"npz{method}", b"\3" + packed.getvalue())
    write("safetensors", "folded", (golden / "folded.safetensors").read_bytes())
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "b": {"dtype": "F16", "shape": [3], "data_offsets": [24, 30]}})
    write("safetensors", "two", struct.pack("<Q", len(header)) + header.encode() + bytes(30))
    write("onnx", "network", (ROOT / "tests/reference/tiny.onnx").read_bytes())
    write("onnx", "description.json", json.dumps({
        "width": 12, "height": 8, "shorter": 16, "filter": "bicubic", "mean": [0.4, 0.4, 0.4], "deviation": [0.2, 0.2, 0.2], "rate_hz": 1.5,
        "frames_per_clip": 3, "stride_frames": 1, "output": "features",
    }))
    # Two changes of six bytes; see fuzz_targets/damage.rs.
    write("damage", "two", bytes([0, 40, 0, 1, 255, 0, 3, 200, 0, 2, 0, 0]))


def hdf5():
    """The C library writes these, where it is installed."""
    found = ctypes.util.find_library("hdf5_serial") or ctypes.util.find_library("hdf5")
    if not found:
        return
    library = ctypes.CDLL(found)
    for name in ("H5Fcreate", "H5Gcreate2", "H5Screate_simple", "H5Dcreate2"):
        getattr(library, name).restype = ctypes.c_int64
    library.H5open()
    number = ctypes.c_int64.in_dll(library, "H5T_IEEE_F32LE_g")
    native = ctypes.c_int64.in_dll(library, "H5T_NATIVE_FLOAT_g")
    handle, none = ctypes.c_int64, ctypes.c_int64(0)
    with tempfile.NamedTemporaryFile(suffix=".h5") as target:
        file = handle(library.H5Fcreate(target.name.encode(), ctypes.c_uint(2), none, none))
        group = handle(library.H5Gcreate2(file, b"v_b", none, none, none))
        space = handle(library.H5Screate_simple(2, (ctypes.c_uint64 * 2)(2, 3), None))
        values = (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6)
        for place, name in ((file, b"v_a"), (group, b"c3d_features")):
            data = handle(library.H5Dcreate2(place, name, number, space, none, none, none))
            library.H5Dwrite(data, native, none, none, none, values)
            library.H5Dclose(data)
        library.H5Gclose(group)
        library.H5Fclose(file)
        write("hdf5", "two.h5", Path(target.name).read_bytes())


def main():
    pictures()
    texts()
    forms()
    features()
    hdf5()
    for folder in sorted(SEEDS.iterdir()):
        sizes = [path.stat().st_size for path in folder.iterdir()]
        print(f"{folder.name}: {len(sizes)} files, {sum(sizes)} bytes")


main()
