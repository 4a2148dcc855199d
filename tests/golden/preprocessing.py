"""Images as Pillow decodes them, and brought to a model's resolution as the training programs do it."""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageCms
from torchvision import transforms
from torchvision.transforms.functional import hflip

from common import case, save_tensors, seed

RESOLUTION = 16
# Width and height: margins with halves, sides that need no resizing, sides that grow.
SIZES = [(53, 37), (37, 53), (50, 32), (54, 32), (31, 47), (9, 7), (16, 16), (40, 16), (16, 41), (48, 48)]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png16(values: np.ndarray) -> bytes:
    """An RGB image of 16 bits, which Pillow reads but does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def swapped_profile() -> bytes:
    """sRGB's profile with the primaries of red and blue changed over: applied, it shows."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def formats(rgb: np.ndarray, alpha: np.ndarray) -> dict[str, bytes]:
    image = Image.fromarray(rgb)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter
    grey16 = (rgb[..., 0].astype(np.uint16) * 3).astype(np.uint16)
    return {
        "rgb.png": encoded(image, "PNG"),
        "rgb16.png": png16(rgb.astype(np.uint16) * 257 + 40),
        "rgba.png": encoded(rgba, "PNG"),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "grey-alpha.png": encoded(rgba.convert("LA"), "PNG"),
        "grey16.png": encoded(Image.fromarray(grey16), "PNG"),
        "bilevel.png": encoded(image.convert("1"), "PNG"),
        "palette.png": encoded(image.quantize(16), "PNG"),
        "palette-transparent.png": encoded(image.quantize(16), "PNG", transparency=3),
        "profile.png": encoded(image, "PNG", icc_profile=swapped_profile()),
        "420.jpg": encoded(image, "JPEG", quality=75, subsampling="4:2:0"),
        "422.jpg": encoded(image, "JPEG", quality=90, subsampling="4:2:2"),
        "444.jpg": encoded(image, "JPEG", quality=95, subsampling="4:4:4"),
        "progressive.jpg": encoded(image, "JPEG", quality=80, progressive=True),
        "grey.jpg": encoded(image.convert("L"), "JPEG", quality=85),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=90),
        "turned.jpg": encoded(image, "JPEG", quality=90, exif=exif),
        "lossy.webp": encoded(image, "WEBP", quality=80),
        "lossless.webp": encoded(rgba, "WEBP", lossless=True),
        "first.gif": encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
    }


def make() -> None:
    seed("preprocessing")
    noise = torch.randint(0, 256, (48, 54, 4), dtype=torch.uint8).numpy()
    y, x = np.mgrid[0:48, 0:54]
    ramps = np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8)
    picture = np.where(((x // 6 + y // 6) % 2 == 0)[..., None], ramps, noise[..., :3])
    tensors = {}
    small = picture[:22, :30], noise[:22, :30, 3]
    names = []
    for name, data in formats(*small).items():
        decoded = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        tensors[f"{name}.bytes"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tensors[f"{name}.rgb"] = torch.from_numpy(decoded)
        names.append(name)
    # Diffusion-DPO's transforms, and what the released program does before SDXL's.
    crop = transforms.Compose([
        transforms.Resize(RESOLUTION, interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.CenterCrop(RESOLUTION),
    ])
    for i, (width, height) in enumerate(SIZES):
        pixels = np.resize(picture, (height, width, 3))
        image = Image.fromarray(pixels)
        tensors[f"{i}.input"] = torch.from_numpy(pixels)
        tensors[f"{i}.crop"] = torch.from_numpy(np.array(crop(image)))
        tensors[f"{i}.mirrored"] = torch.from_numpy(np.array(hflip(crop(image))))
        tensors[f"{i}.stretch"] = torch.from_numpy(np.array(image.resize((RESOLUTION, RESOLUTION))))
    save_tensors("preprocessing/golden.safetensors", tensors)
    case(
        "preprocessing", "preprocessing", golden="preprocessing/golden.safetensors",
        formats=names, sizes=SIZES, resolution=RESOLUTION,
    )
