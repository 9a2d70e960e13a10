"""What goes in comes out: type, dtype, size, mode, alpha, orientation; and what cannot be is refused in a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from instruct_ipt.errors import InputError
from instruct_ipt.restoration import Restorer
from instruct_ipt.tasks import TASKS

from .nets import Plain, Upright, restorer, tiny, tiny_restorer


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(33, 21), (33, 21, 1), (33, 21, 2), (33, 21, 3), (33, 21, 4)])
def test_arrays_keep_type_shape_and_alpha(shape, dtype):
    given = values(shape, dtype)
    before = given.copy()
    found = tiny_restorer().restore(given, "derain")
    assert found.dtype == given.dtype and found.shape == given.shape and np.array_equal(given, before)
    colours = 1 if len(shape) == 2 or shape[2] < 3 else 3
    if len(shape) == 3:
        assert np.array_equal(found[..., colours:], given[..., colours:])
        assert not np.array_equal(found[..., :colours], given[..., :colours])
    else:
        assert not np.array_equal(found, given)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_a_correction_of_zero_gives_back_the_very_same_values(dtype):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    given = every if dtype == "uint16" else values((300, 200, 3), dtype)
    assert np.array_equal(restorer(Plain()).restore(given, "denoise", tile=96), given)


def test_all_types_are_restored_alike():
    """The same picture as bytes, 16 bits, floats, Pillow image and tensor gives the same picture."""
    given = values((40, 56, 3), "uint8")
    model = tiny_restorer()
    exact = model.restore(given.astype(np.float64) / 255, "dehaze")
    results = {
        "uint8": model.restore(given, "dehaze") / 255,
        "uint16": model.restore(given.astype(np.uint16) * 257, "dehaze") / 65535,
        "float32": model.restore(given.astype(np.float32) / 255, "dehaze"),
        "pil": np.asarray(model.restore(Image.fromarray(given), "dehaze")) / 255,
        "tensor": model.restore(torch.from_numpy(given).permute(2, 0, 1), "dehaze").permute(1, 2, 0).numpy() / 255,
        "float tensor": model.restore(torch.from_numpy(given / 255).permute(2, 0, 1)[None], "dehaze")[0]
        .permute(1, 2, 0)
        .numpy(),
    }
    steps = {"uint8": 255, "pil": 255, "tensor": 255, "uint16": 65535}
    for name, found in results.items():
        assert np.abs(found - exact).max() <= 0.5 / steps.get(name, 1e6) + 1e-6, name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 20, 24), (3, 20, 24), (4, 20, 24), (5, 3, 20, 24), (2, 4, 20, 24)])
def test_tensors_keep_type_shape_and_alpha(shape, dtype):
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = (given * 255).to(dtype) if dtype == torch.uint8 else given.to(dtype)
    found = tiny_restorer().restore(given, "deblur")
    assert found.dtype == dtype and found.shape == given.shape and not found.requires_grad
    if shape[-3] == 4:
        assert torch.equal(found[..., 3, :, :], given[..., 3, :, :])


def test_a_batch_is_restored_as_its_images_are():
    given = torch.rand(7, 3, 24, 40)
    model = tiny_restorer()
    alone = torch.stack([model.restore(image, "desnow") for image in given])
    torch.testing.assert_close(model.restore(given, "desnow"), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I"])
def test_pillow_images_keep_mode_size_and_metadata(mode):
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(mode)
    if channels:
        given = Image.fromarray(values((30, 20) if channels == 1 else (30, 20, channels), "uint8"))
    else:
        deep = values((30, 20), "uint16")
        order = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
        given = Image.frombytes(mode, (20, 30), deep.astype(order).tobytes())
    assert given.mode == mode
    given.info["icc_profile"], given.info["dpi"] = b"a profile", (300, 300)
    found = tiny_restorer().restore(given, "derain")
    assert (found.mode, found.size) == (mode, given.size)
    assert found.info["icc_profile"] == b"a profile" and found.info["dpi"] == (300, 300)
    same = restorer(Plain()).restore(given, "derain")
    assert same.tobytes() == given.tobytes() and found.tobytes() != given.tobytes()


def test_modes_that_cannot_hold_a_restored_picture_become_their_nearest():
    colour = Image.fromarray(values((30, 20, 3), "uint8"))
    clear = colour.quantize(16)
    clear.info["transparency"] = 3
    keyed = colour.copy()
    keyed.info["transparency"] = colour.getpixel((4, 5))
    cases = {
        "RGB": [colour.quantize(16), colour.convert("CMYK"), colour.convert("YCbCr")],
        "L": [colour.convert("1")],
        "RGBA": [clear, keyed],
    }
    for mode, given in cases.items():
        for image in given:
            assert tiny_restorer().restore(image, "denoise").mode == mode
    found = restorer(Plain()).restore(keyed, "denoise")
    assert found.getpixel((4, 5))[3] == 0 and "transparency" not in found.info
    for mode in ("F", "LAB", "HSV"):
        source = colour.convert("L").convert("F") if mode == "F" else Image.new(mode, (4, 4))
        with pytest.raises(InputError, match=f"mode is {mode}"):
            tiny_restorer().restore(source, "denoise")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_restored_as_displayed_and_returned_as_stored(orientation):
    """`Upright` brightens what is at the bottom of what it sees; Pillow says what a viewer would show."""
    stored = Image.fromarray(values((30, 44, 3), "uint8") // 2)
    exif = Image.Exif()
    exif[274] = orientation
    stored.info["exif"] = exif.tobytes()
    found = restorer(Upright()).restore(stored, "derain")
    assert found.size == stored.size and found.getexif()[274] == orientation
    seen = np.asarray(ImageOps.exif_transpose(stored)).astype(np.float64)
    shown = np.asarray(ImageOps.exif_transpose(found)).astype(np.float64)
    added = (shown - seen).mean(axis=(1, 2))
    np.testing.assert_allclose(added, np.linspace(0, 0.2, len(added)) * 255, atol=0.6)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_an_opened_file_is_turned_once(format):
    """Pillow itself turns a TIFF when it decodes it, and no other file."""
    exif = Image.Exif()
    exif[274] = 6
    stream = io.BytesIO()
    Image.new("RGB", (44, 30), (100, 100, 100)).save(stream, format, exif=exif)
    found = restorer(Upright()).restore(Image.open(stream), "derain")
    shown = np.asarray(ImageOps.exif_transpose(found)).astype(np.float64)
    assert shown.shape == (44, 30, 3)
    np.testing.assert_allclose(shown.mean(axis=(1, 2)), 100 + np.linspace(0, 0.2, 44) * 255, atol=0.6)


def test_a_damaged_file_behind_a_pillow_image_is_refused():
    stream = io.BytesIO()
    Image.fromarray(values((60, 60, 3), "uint8")).save(stream, "PNG")
    with pytest.raises(InputError, match="it is damaged"):
        tiny_restorer().restore(Image.open(io.BytesIO(stream.getvalue()[:4000])), "derain")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_is_carried_along():
    stored = Image.fromarray(values((8, 8, 3), "uint8"))
    stored.info["exif"] = b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"
    assert restorer(Plain()).restore(stored, "derain").info["exif"] == stored.info["exif"]


def test_a_task_is_a_name_a_mapping_or_a_sequence():
    given = values((40, 40, 3), "float32")
    model = tiny_restorer()
    named = model.restore(given, "derain")
    assert np.array_equal(named, model.restore(given, {"derain": 1.0}))
    assert np.array_equal(named, model.restore(given, [0, 0, 1, 0, 0]))
    both = model.restore(given, {"derain": 0.5, "denoise": 0.5})
    assert not np.array_equal(both, named)
    expected = tiny().eval()(torch.from_numpy(given).permute(2, 0, 1)[None], torch.tensor([[0.5, 0, 0.5, 0, 0]]))
    np.testing.assert_allclose(both, expected[0].detach().permute(1, 2, 0).clip(0, 1), atol=1e-5)


def test_strength_scales_the_task():
    given = values((40, 40, 3), "float32")
    model = tiny_restorer()
    results = [model.restore(given, "derain", strength) for strength in (0.0, 0.5, 1.5)]
    assert np.array_equal(results[0], model.restore(given, "dehaze", 0.0))
    far = [np.abs(found - results[0]).mean() for found in results]
    assert far[0] == 0 < far[1] < far[2]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "name a task: denoise, deblur, derain, dehaze, desnow"),
        ("rain", "unknown task 'rain'; known tasks: denoise"),
        ({"rain": 1.0}, "unknown task 'rain'"),
        ({"derain": 0.5}, "sum to 1"),
        ({"derain": 2.0, "denoise": -1.0}, "not be negative"),
        ([1.0], "1 task weights"),
        (["derain"], "a name or weights"),
        (3, "a name or weights"),
    ],
)
def test_a_task_that_cannot_be_is_refused(task, words):
    with pytest.raises(InputError, match=words):
        tiny_restorer().restore(values((8, 8), "uint8"), task)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("photo.png", "a str is no image"),
        (np.zeros((4, 4), bool), "bool; give uint8"),
        (np.zeros((4, 4), np.int32), "int32; give uint8"),
        (np.zeros((4, 4), np.float16), "float16; give uint8"),
        (np.zeros((0, 4), np.uint8), "empty"),
        (np.zeros((4, 4, 5), np.uint8), "5 channels"),
        (np.zeros((1, 4, 4, 3), np.uint8), "give .H, W. or"),
        (np.full((4, 4), 255.0), "0 to 255|255 to 255"),
        (np.full((4, 4), np.nan), "nan"),
        (torch.zeros(4, 4), "give .C, H, W."),
        (torch.zeros(3, 4, 4, dtype=torch.float16), "float16"),
        (torch.zeros(5, 4, 4), "5 channels"),
    ],
)
def test_an_image_that_cannot_be_is_refused(image, words):
    with pytest.raises(InputError, match=words):
        tiny_restorer().restore(image, "denoise")


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan"), "much"])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(InputError):
        tiny_restorer().restore(values((8, 8), "uint8"), "denoise", strength)


def test_an_answer_that_is_not_finite_is_refused():
    model = tiny()
    with torch.no_grad():
        model.backbone.tail.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        Restorer(model, "cpu").restore(values((8, 8), "uint8"), "denoise")


def test_restoring_leaves_model_and_random_numbers_alone():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    Restorer(model, "cpu").restore(values((20, 20), "uint8"), "desnow")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.tasks == TASKS
