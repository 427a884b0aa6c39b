"""Odd pictures for the tests, made byte by byte where OpenCV writes only the ordinary ones."""
import base64
import struct
import zlib

import cv2
import numpy as np

# An 8x8 CMYK JPEG (Adobe's inverted values) of pure red.
CMYK_RED = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAbEhQXFBEbFxYXHhwbIChCKyglJShROj0wQmBVZWRfVV1baniZgWpxkHNbXYW1"
    "hpCeo6utq2eAvMm6pseZqKuk/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAb/xAAUEAEA"
    "AAAAAAAAAAAAAAAAAAAA/9oADgRDAE0AWQBLAAA/AEwyMkz/2Q==")


def smooth(height, width, seed=0):
    """RGB pixels that survive JPEG well: random colours, strongly blurred."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(rgb, extension=".jpg", *parameters):
    """Bytes of a file of RGB or grey pixels."""
    bgr = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(extension, bgr, list(parameters))[1].tobytes()


def palette_png(colours, indices):
    """A palette PNG: ``colours`` uint8 (n, 3), ``indices`` uint8 (height, width)."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3,
                                                              0, 0, 0))
            + chunk(b"PLTE", colours.tobytes()) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def rotated_jpeg(rgb, orientation, quality=95):
    """A JPEG with an EXIF orientation (1 upright, 6 turn a quarter right, ...)."""
    jpeg = encoded(rgb, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) \
        + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def damaged_jpeg(rgb):
    """A JPEG that still decodes, but about which libjpeg complains (bad Huffman code)."""
    jpeg = bytearray(encoded(rgb, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95))
    jpeg[-100:-60] = b"\xff\x00" * 20
    return bytes(jpeg)


def faces_folder(root, size):
    """Three people, a ready JPEG each of ``size`` and others that are not ready."""
    for person, name in enumerate(("Zoë", "anna", "Bob 2")):
        (root / name).mkdir(parents=True)
        for number in range(4):
            height, width = size if number == 0 else (20 + 7 * person, 44)
            extension = (".jpg", ".png", ".bmp", ".jpg")[number]
            (root / name / f"{number}{extension}").write_bytes(
                encoded(smooth(height, width, 10 * person + number), extension))
    return root


def lfw_folder(root):
    """Four people with five pictures each, named as LFW names them."""
    for person in range(4):
        name = f"P_{person}"
        (root / name).mkdir(parents=True)
        for number in range(1, 6):
            (root / name / f"{name}_{number:04d}.png").write_bytes(
                encoded(smooth(30, 20, person * 10 + number), ".png"))
    return str(root)


def lfw_pairs(folds=10):
    """Lines of a list of pairs of :func:`lfw_folder` in LFW's form, two a fold."""
    lines = [f"{folds}\t1"]
    for fold in range(folds):
        lines.append(f"P_{fold % 4}\t1\t{2 + fold % 4}")
        lines.append(f"P_{fold % 4}\t{1 + fold % 5}\tP_{(fold + 1) % 4}\t5")
    return lines
