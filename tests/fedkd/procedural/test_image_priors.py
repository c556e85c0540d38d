"""Priors: reproducible bytes, the shapes and statistics that they promise, and their modifiers."""

import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.procedural import (
    PRIORS,
    Collage,
    CutMixed,
    DeadLeaves,
    LevelSets,
    MultiscaleNoise,
    PhotoCollage,
    PhotoCrops,
    PinkNoise,
    Prior,
    Shape,
    Strokes,
    UniformNoise,
    Warped,
    build_prior,
    build_priors,
)

DIGIT, COLOUR = (1, 28, 28), (3, 32, 32)
EVERY = [*PRIORS, "warped", "cut_mixed"]


def named(name: str) -> Prior:
    """A prior by name; the modifiers over one that has both edges and grain."""
    if name == "warped":
        return Warped(DeadLeaves(), 0.7)
    return CutMixed(DeadLeaves(), 0.7) if name == "cut_mixed" else build_prior(name)


def draw(prior: Prior, count: int = 64, shape: Shape = DIGIT, seed: int = 0) -> Tensor:
    return prior.draw(count, shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", EVERY)
def test_one_seed_gives_one_set_of_bytes_and_two_seeds_give_two(name: str) -> None:
    first = draw(named(name), shape=COLOUR)
    assert torch.equal(first, draw(named(name), shape=COLOUR))
    other = draw(named(name), shape=COLOUR, seed=1)
    assert not bool((first == other).flatten(1).all(1).any())


CHECKSUMS = {
    "pink": "9e7c99c0fb94a301",
    "leaves": "32848eb33d458de0",
    "levels": "3d2928351a2528b3",
    "scales": "b526e55508522db0",
    "strokes": "7c53d82bec04778f",
    "noise": "65ef783578267708",
    "collage": "b851f834b976b223",
    "photo": "357667261eaed972",
    "photo-collage": "d1fcce5cf64358fe",
    "warped": "7f17bacc0d39d986",
    "cut_mixed": "039c8387b0c19a3c",
}
"""Of a few small images. Where one changes, two releases draw different images from one seed."""


@pytest.mark.parametrize("name", EVERY)
def test_the_bytes_are_those_that_were_drawn_before(name: str) -> None:
    digest = hashlib.blake2b(digest_size=8)
    for count, shape in ((16, (1, 8, 8)), (8, (3, 12, 9))):
        digest.update(draw(named(name), count, shape).numpy().tobytes())
    assert digest.hexdigest() == CHECKSUMS[name]


@pytest.mark.parametrize("name", EVERY)
def test_threads_do_not_change_the_bytes(name: str) -> None:
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            drawn.append(draw(named(name), 1000 if name == "pink" else 200, COLOUR))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


@given(
    name=st.sampled_from(EVERY),
    count=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 48),
    width=st.integers(4, 48),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None)
def test_every_shape_is_drawn_as_bytes(
    name: str, count: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = draw(named(name), count, (channels, height, width), seed)
    assert images.shape == (count, channels, height, width)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("name", EVERY)
def test_a_large_image_in_colour_spans_dark_and_light(name: str) -> None:
    images = draw(named(name), 8, (3, 224, 224)).float()
    assert images.amin() < 64
    assert images.amax() > 191


@pytest.mark.parametrize("name", EVERY)
def test_images_of_one_batch_differ_across_blocks(name: str) -> None:
    images = draw(named(name), 700, DIGIT).flatten(1)  # three blocks
    apart = len(torch.unique(images, dim=0))
    assert apart > 600  # sharp contrast leaves a few images all black or all white


def slope(images: Tensor) -> float:
    """Least-squares slope of log amplitude against log frequency, averaged over images."""
    side = images.shape[-1]
    spectrum = torch.fft.fft2(images.double()).abs().square().mean((0, 1)).sqrt()
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = torch.hypot(f[:, None], f)
    kept = (radius > 0.02) & (radius < 0.35)
    x, y = radius[kept].log(), spectrum[kept].log()
    return float(((x - x.mean()) * y).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_pink_has_the_spectrum_that_was_asked_for(exponent: float) -> None:
    # So faint that nothing much is cut off, which would whiten the spectrum.
    faint = draw(PinkNoise((exponent, exponent), (0.08, 0.08)), 200, (1, 64, 64))
    middling = faint[(faint.float().mean((1, 2, 3)) - 127.5).abs() < 60]
    assert slope(middling) == pytest.approx(-exponent, abs=0.06)


def test_the_measured_slope_of_snow_is_none() -> None:
    assert slope(draw(UniformNoise(), 200, (1, 64, 64))) == pytest.approx(0.0, abs=0.06)


def deviation_from_uniform(images: Tensor) -> float:
    """Chi-square of the 256 values against the uniform law; 255 degrees of freedom."""
    counts = images.flatten().long().bincount(minlength=256).double()
    expected = images.numel() / 256
    return float((counts - expected).square().sum() / expected)


def test_snow_is_uniform_and_a_slightly_narrower_one_is_not() -> None:
    snow = draw(UniformNoise(), 500)
    limit = float(chi2.ppf(1 - 1e-6, 255))
    assert deviation_from_uniform(snow) < limit
    narrower = (snow.float() * 0.99).round().to(torch.uint8)
    assert deviation_from_uniform(narrower) > limit


def neighbours(images: Tensor) -> float:
    """Correlation of horizontally neighbouring pixels over the whole batch."""
    pairs = torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()]).double()
    return float(torch.corrcoef(pairs)[0, 1])


def test_only_snow_has_independent_neighbours() -> None:
    found = {name: neighbours(draw(build_prior(name), 500)) for name in PRIORS}
    assert abs(found.pop("noise")) < 0.01
    assert min(found.values()) > 0.5


@pytest.mark.parametrize("name", ["levels", "strokes"])
def test_shapes_are_sparse_and_light_on_dark(name: str) -> None:
    images = draw(build_prior(name), 500).float()
    dark = (images < 26).float().mean((1, 2, 3))
    assert dark.median() > 0.5
    assert images.flatten(1).median(1).values.median() < 26


def test_inverted_levels_are_dark_on_light() -> None:
    plain, inverted = (draw(LevelSets(inverted=share), 200).float() for share in (0.0, 1.0))
    assert torch.allclose(plain, 255 - inverted, rtol=0, atol=1)


def test_bands_are_thinner_than_the_sets_that_they_bound() -> None:
    bands, sets = (draw(LevelSets(bands=share, inverted=0.0), 500) for share in (1.0, 0.0))
    edges = [float(x.float().diff(dim=3).abs().mean() / x.float().mean()) for x in (bands, sets)]
    assert edges[0] > 1.3 * edges[1]


def test_a_ground_of_leaves_is_black_as_often_as_asked() -> None:
    for share in (0.0, 0.5, 1.0):
        corners = draw(DeadLeaves(leaves=1, black=share), 1000)[
            :, 0, [0, 0, -1, -1], [0, -1, 0, -1]
        ]
        black = float((corners.amin(1) < 3).float().mean())
        assert black == pytest.approx(share, abs=0.1)


def test_sharp_weights_single_out_a_scale() -> None:
    # A lone scale is flat within its cells or is snow; equal weights are always in between.
    kinds = (MultiscaleNoise(sharpness=sharpness, contrast=1.0) for sharpness in (0.0, 3.0))
    grain = [draw(kind, 300).float().diff(dim=3).abs().mean((1, 2, 3)) for kind in kinds]
    assert grain[1].std() > 2 * grain[0].std()


def test_a_thicker_pen_leaves_more_ink_and_a_hair_is_still_seen() -> None:
    thin, thick = (draw(Strokes(radii=(r, r)), 300).float().mean() for r in (0.03, 0.12))
    assert thick > 2 * thin
    hair = draw(Strokes(radii=(1e-4, 1e-4)), 300)
    assert bool((hair.flatten(1).amax(1) > 90).all())


def grain(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, (B,)."""
    return images.float().diff(dim=3).abs().mean((1, 2, 3))


def test_more_leaves_leave_less_of_the_ground() -> None:
    few, many = (draw(Collage(leaves=most, stripes=0.0), 300, COLOUR) for most in (1, 40))
    assert grain(many).median() > 1.3 * grain(few).median()


def test_stripes_make_surfaces_uneven() -> None:
    # One leaf at most, hence mostly the ground; its grain is the same with and without.
    plain, striped = (draw(Collage(leaves=1, stripes=s), 300, COLOUR) for s in (0.0, 1.0))
    assert grain(striped).mean() > 1.1 * grain(plain).mean()


def test_surfaces_are_nearer_to_grey_than_colours_at_random() -> None:
    # One leaf at most: means are near those of the ground.
    surfaces, plain = (
        draw(kind, 300, COLOUR).float().mean((2, 3)).std(1).mean()
        for kind in (Collage(leaves=1), DeadLeaves(leaves=1, black=0.0))
    )
    assert surfaces < 0.6 * plain


def test_channels_of_colour_images_go_together() -> None:
    red, green, _ = draw(PinkNoise(gains=(0.1, 0.1)), 1000, COLOUR).double().unbind(1)
    red, green = (c - c.mean((1, 2), keepdim=True) for c in (red, green))
    each = (red * green).sum((1, 2)) / (
        red.square().sum((1, 2)) * green.square().sum((1, 2))
    ).sqrt()
    assert each.mean() > 0.3
    assert each.abs().median() < 0.99


@pytest.mark.parametrize("modifier", [Warped, CutMixed])
def test_a_share_of_none_is_the_identity_and_of_all_is_not(
    modifier: type[Warped] | type[CutMixed],
) -> None:
    plain = draw(DeadLeaves())
    assert torch.equal(draw(modifier(DeadLeaves(), 0.0)), plain)
    assert not bool((draw(modifier(DeadLeaves(), 1.0)) == plain).flatten(1).all(1).any())


@pytest.mark.parametrize("modifier", [Warped, CutMixed])
def test_the_share_that_is_modified_is_the_one_asked_for(
    modifier: type[Warped] | type[CutMixed],
) -> None:
    kept = draw(modifier(UniformNoise(), 0.3), 2000, (1, 8, 8)) == draw(
        UniformNoise(), 2000, (1, 8, 8)
    )
    share = 1 - float(kept.flatten(1).all(1).float().mean())
    assert share == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 2000))


def test_cut_mixing_takes_every_value_from_one_of_two_images_or_between() -> None:
    plain = draw(PinkNoise(), 9).float()
    mixed = draw(CutMixed(PinkNoise(), 1.0), 9).float()
    fits = [
        ((mixed >= torch.minimum(plain, other) - 1) & (mixed <= torch.maximum(plain, other) + 1))
        for other in (plain.roll(step, 0) for step in range(1, 9))
    ]
    assert any(bool(fit.all()) for fit in fits)


def test_a_lone_image_is_mixed_with_nothing() -> None:
    assert torch.equal(draw(CutMixed(DeadLeaves(), 1.0), 1), draw(DeadLeaves(), 1))


def test_a_warped_constant_stays_constant() -> None:
    class Grey:
        def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
            return torch.full((count, *shape), 77, dtype=torch.uint8)

    assert bool((draw(Warped(Grey(), 1.0), 50, COLOUR) == 77).all())


def test_a_misspelt_prior_is_told_its_nearest_neighbour() -> None:
    with pytest.raises(SettingsError, match=r"'levles' \(did you mean levels\?\)"):
        build_prior("levles")
    with pytest.raises(SettingsError, match=r"unknown prior 'xyz'; choose one of pink, leaves"):
        build_prior("xyz")


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"expected share in \[0, 1\]"):
        build_prior("pink", warp=share)
    with pytest.raises(SettingsError, match=r"expected share in \[0, 1\]"):
        build_prior("pink", mix=share)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (PinkNoise, {"exponents": (2.0, 1.0)}),
        (PinkNoise, {"gains": (-1.0, 1.0)}),
        (DeadLeaves, {"leaves": 0}),
        (DeadLeaves, {"radii": (0.0, 0.5)}),
        (DeadLeaves, {"black": 2.0}),
        (LevelSets, {"bands": 1.5}),
        (LevelSets, {"centring": -1.0}),
        (MultiscaleNoise, {"sharpness": -1.0}),
        (MultiscaleNoise, {"contrast": 0.5}),
        (Strokes, {"curves": 0}),
        (Strokes, {"radii": (0.2, 0.1)}),
        (Strokes, {"joined": -0.5}),
        (Collage, {"leaves": 0}),
        (Collage, {"radii": (0.5, 0.1)}),
        (Collage, {"stripes": 1.5}),
        (PhotoCrops, {"sides": (0.0, 0.5)}),
        (PhotoCrops, {"sides": (0.5, 1.5)}),
        (PhotoCrops, {"tries": 0}),
        (PhotoCollage, {"leaves": 0}),
    ],
)
def test_an_impossible_parameter_is_refused(kind: type, settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=rf"{kind.__name__}\(.*cannot be; expected"):
        kind(**settings)


@pytest.mark.parametrize(("count", "shape"), [(-1, DIGIT), (3, (1, 0, 8)), (3, (0, 8, 8))])
def test_an_impossible_picture_is_refused(count: int, shape: Shape) -> None:
    for name in EVERY:
        with pytest.raises(SettingsError, match="expected a count >= 0 and sides >= 1"):
            draw(named(name), count, shape)


def test_priors_are_values_and_the_general_ones_are_the_default() -> None:
    assert build_prior("pink", warp=0.5, mix=0.25) == CutMixed(Warped(PinkNoise(), 0.5), 0.25)
    assert build_prior("pink") == PinkNoise()
    assert list(build_priors()) == ["pink", "leaves", "levels", "scales"]
    assert build_priors("noise", mix=0.5) == {"noise": CutMixed(UniformNoise(), 0.5)}
