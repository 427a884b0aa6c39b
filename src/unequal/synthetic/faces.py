"""Drawn faces: a person is a vector of numbers, a picture is a view of that person.

A head is an ellipsoid. Features are polygons placed on it, turned with it (yaw, pitch), projected
in parallel and drawn by OpenCV at twice the size; skin, hair and shadows are computed for each
pixel from the point of the ellipsoid it shows. These are cartoons for trying and testing a method;
nothing measured on them says anything about people.

Coordinates of the head: x to the picture's right, y down, z towards the viewer; the ellipsoid's
half-height is 1, so chin and crown are at y = 1 and y = -1.
"""
import functools
from collections import namedtuple
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np

# A trait is mean + spread * latent: one row, one number of the latent vector. Lengths are in
# half-heights of the head; colours and strengths run from 0 to 1, "warm" and "hue" around 0.
_TRAITS = (
    # name, mean, spread
    ("width", 0.76, 0.065), ("taper", 0.24, 0.14), ("cheek", 0.03, 0.04),
    ("skin_light", 0.62, 0.20), ("skin_warm", 0.0, 0.9),
    ("hair_light", 0.32, 0.24), ("hair_warm", 0.2, 0.8), ("hairline", 0.52, 0.13),
    ("hair_volume", 0.10, 0.06), ("hair_length", 0.1, 0.50), ("parting", 0.0, 0.22),
    ("fringe", 0.30, 0.28),
    ("eye_x", 0.30, 0.038), ("eye_y", -0.07, 0.050), ("eye_w", 0.130, 0.022),
    ("eye_h", 0.065, 0.017), ("eye_tilt", 0.0, 0.030), ("iris_light", 0.36, 0.22),
    ("iris_hue", 0.0, 0.8), ("socket", 0.22, 0.16),
    ("brow_y", 0.155, 0.035), ("brow_w", 0.165, 0.030), ("brow_t", 0.036, 0.018),
    ("brow_tilt", 0.0, 0.040), ("brow_arch", 0.030, 0.024),
    ("nose_len", 0.36, 0.065), ("nose_w", 0.120, 0.034), ("nose_out", 0.17, 0.060),
    ("bridge", 0.050, 0.018),
    ("mouth_y", 0.550, 0.042), ("mouth_w", 0.225, 0.048), ("lip_up", 0.040, 0.018),
    ("lip_low", 0.056, 0.022), ("lip_red", 0.45, 0.32),
    ("beard", -0.10, 0.45), ("mole_x", 0.0, 0.25), ("mole_y", 0.25, 0.18), ("mole", -0.3, 0.5),
)
TRAITS = tuple(name for name, _, _ in _TRAITS)
LATENT = len(TRAITS)
_MEAN = np.array([mean for _, mean, _ in _TRAITS])
_SPREAD = np.array([spread for _, _, spread in _TRAITS])
if TYPE_CHECKING:
    class _Traits:
        """The table's names, of which type checkers know nothing."""

        def __init__(self, *values: float) -> None: ...
        def __getattr__(self, name: str) -> float: ...
        def _replace(self, **changes: float) -> "_Traits": ...
else:
    _Traits = namedtuple("_Traits", TRAITS)

# People come in a few groups that resemble each other: some strangers are hard to tell apart.
_MODES = np.random.RandomState(2019).randn(4, LATENT)
_MODE_SHARE = 0.35  # of a trait's variance



class View(NamedTuple):
    """The circumstances of one picture."""

    yaw: float  # degrees, as the next two
    pitch: float
    roll: float
    zoom: float  # factor of the crop
    shift_x: float  # fractions of the picture
    shift_y: float
    light_x: float
    light_y: float
    ambient: float
    exposure: float
    tint: np.ndarray  # red, green, blue factors
    age: float  # 0 (young) .. 1 (old)
    weight: float  # what one person changes: 0 is the trait itself
    haircut: float
    shave: float
    smile: float
    mouth_open: float
    brow_raise: float
    eyes_shut: float
    gaze: float
    cover: str  # what hides part of the face, see _COVERS
    blur: float  # pixels at 32x32
    grain: float  # grey levels
    seed: int  # of backdrop, clothes, covers and grain


# Points (n, 3), or (n, 2) in the picture plane; colour; line width or None for a filled polygon.
Shape = Tuple[np.ndarray, Union[np.ndarray, Tuple[float, ...]], Optional[float]]

_COVERS = ("none", "glasses", "sunglasses", "mask", "cap", "block")


def sample_identity(rng: np.random.Generator) -> np.ndarray:
    """Draw a person.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        float64, shape (LATENT,), zero mean and unit variance over the population.
    """
    mode = _MODES[rng.integers(len(_MODES))]
    own = rng.standard_normal(LATENT)
    identity: np.ndarray = np.sqrt(_MODE_SHARE) * mode + np.sqrt(1 - _MODE_SHARE) * own
    return identity


# How a situation draws head pose (degrees) and age; the rest is common to all.
# name: (yaw spread, yaw range or None, pitch spread, age range)
_SITUATIONS: Dict[str, Tuple[float, Optional[Tuple[float, float]], float, Tuple[float, float]]] = {
    "any": (30, None, 8, (0.10, 0.90)),
    "frontal": (15, None, 7, (0.25, 0.75)),
    "front": (5, None, 5, (0.25, 0.75)),
    "profile": (0, (45, 70), 7, (0.25, 0.75)),
    "young": (12, None, 7, (0.0, 0.2)),
    "old": (12, None, 7, (0.8, 1.0)),
}
SITUATIONS = tuple(_SITUATIONS)


def sample_view(rng: np.random.Generator, situation: str = "any") -> "View":
    """Draw the circumstances of one picture.

    Parameters
    ----------
    rng : numpy.random.Generator
    situation : str
        One of ``SITUATIONS``: ``any`` (training pictures), ``frontal``, ``front`` (nearly no
        turn), ``profile`` (45 to 70 degrees), ``young``, ``old``.

    Returns
    -------
    View
    """
    yaw_spread, yaw_range, pitch_spread, age = _SITUATIONS[situation]
    normal, uniform = rng.standard_normal, rng.uniform
    if yaw_range is None:
        yaw = float(np.clip(yaw_spread * normal(), -70, 70))
    else:
        yaw = uniform(*yaw_range) * rng.choice((-1, 1))
    return View(
        yaw=yaw, pitch=pitch_spread * normal(), roll=4 * normal(),
        zoom=float(np.exp(0.04 * normal())), shift_x=0.025 * normal(), shift_y=0.025 * normal(),
        light_x=0.7 * normal(), light_y=0.4 * normal() - 0.2, ambient=uniform(0.35, 0.75),
        exposure=float(np.exp(0.20 * normal())), tint=np.exp(0.06 * normal(3)),
        age=uniform(*age), weight=0.7 * normal(), haircut=0.5 * normal(), shave=uniform(),
        smile=uniform(-0.5, 1), mouth_open=max(0.0, uniform(-0.6, 1)),
        brow_raise=0.7 * normal(), eyes_shut=max(0.0, uniform(-0.9, 0.7)), gaze=0.4 * normal(),
        cover=rng.choice(_COVERS, p=(0.84, 0.08, 0.02, 0.02, 0.02, 0.02)),
        blur=max(0.0, uniform(-0.3, 0.4)), grain=uniform(1, 4),
        seed=int(rng.integers(2**31)))


def _skin(light: float, warm: float) -> np.ndarray:
    return np.array((62 + 195 * light + 8 * warm, 28 + 185 * light,
                     6 + 170 * light - 22 * warm))


def _hair(light: float, warm: float, grey: float) -> np.ndarray:
    own = np.array((20 + 200 * light + 30 * warm * light, 16 + 165 * light,
                    14 + 120 * light - 40 * warm * light))
    colour: np.ndarray = own + grey * (np.array((190, 190, 190)) - own)
    return colour


def _traits_at(identity: np.ndarray, view: "View") -> "_Traits":
    """The person's traits as age, weight, hairdresser, razor and mood have left them."""
    traits = _Traits(*(_MEAN + _SPREAD * np.clip(identity, -2.5, 2.5)))
    old = view.age - 0.5
    raised = 0.018 * view.brow_raise
    return traits._replace(
        width=traits.width + 0.018 * view.weight - 0.02 * abs(old),
        taper=max(0.0, traits.taper - 0.12 * old - 0.03 * view.weight),
        cheek=traits.cheek - 0.04 * old + 0.012 * view.weight,
        hairline=traits.hairline + 0.16 * max(0.0, old) + 0.02 * view.haircut,
        hair_volume=max(0.02, traits.hair_volume + 0.02 * view.haircut - 0.05 * old),
        hair_length=traits.hair_length + 0.25 * view.haircut,
        eye_h=max(0.012, (traits.eye_h - 0.016 * old + 0.4 * max(raised, -0.02))
                  * (1 - view.eyes_shut)),
        brow_y=traits.brow_y + raised - 0.03 * old,
        brow_t=max(0.012, traits.brow_t - 0.008 * old),
        bridge=max(0.01, traits.bridge), nose_w=max(0.05, traits.nose_w),
        nose_out=max(0.04, traits.nose_out),
        iris_light=float(np.clip(traits.iris_light, 0.05, 0.9)),
        lip_red=float(np.clip(traits.lip_red, 0, 1)), socket=max(0.0, traits.socket),
        nose_len=traits.nose_len + 0.04 * old,
        mouth_w=max(0.10, traits.mouth_w) * (1 + 0.20 * view.smile),
        lip_up=max(0.010, traits.lip_up - 0.020 * old - 0.008 * view.smile),
        lip_low=max(0.014, traits.lip_low - 0.020 * old - 0.008 * view.smile),
        beard=min(1.0, traits.beard + 0.35 * (view.shave - 0.5)) if view.age > 0.2 else 0.0,
    )


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    (cy, cp), (sy, sp) = np.cos((yaw, pitch)), np.sin((yaw, pitch))
    turn = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
    nod = np.array(((1, 0, 0), (0, cp, -sp), (0, sp, cp)))
    rotation: np.ndarray = nod @ turn
    return rotation


@functools.lru_cache(maxsize=4)
def _pixel_grid(canvas: int) -> Sequence[np.ndarray]:
    centre = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas - 0.5
    return np.meshgrid(centre, centre)


class _Head:
    """The ellipsoid in a picture: where its points are drawn, and what each pixel shows.

    Both directions share one outline: ``_narrowing`` pulls the lower half of the projected
    ellipsoid together, which makes a jaw.
    """

    DEPTH = 0.86  # half-axis along z

    def __init__(self, traits: "_Traits", view: "View", canvas: int) -> None:
        self.canvas = canvas
        self.taper, self.cheek = traits.taper, traits.cheek
        self.axes = np.array((traits.width, 1.0, self.DEPTH))
        self.rotation = _rotation(np.radians(view.yaw), np.radians(view.pitch))
        # Pictures are cropped around the features, as a face aligner does, not around the skull.
        focus = self.rotation @ np.array((0, 0.18, 0.55))
        self.focus = focus[:2]
        self.scale = 0.60 * view.zoom
        roll = np.radians(view.roll)
        self.roll = np.array(((np.cos(roll), -np.sin(roll)), (np.sin(roll), np.cos(roll))))
        self.shift = np.array((view.shift_x, view.shift_y))
        # Towards the viewer, in the space where the ellipsoid is the unit sphere.
        self.towards = (self.rotation.T @ (0, 0, 1)) / self.axes

    def _narrowing(self, down: np.ndarray) -> np.ndarray:
        lower = np.maximum(down - 0.05, 0)
        width: np.ndarray = (1 - self.taper * lower * lower
                             + self.cheek * np.exp(-((down - 0.25) * 4) ** 2))
        return width

    def to_pixels(self, flat: np.ndarray) -> np.ndarray:
        """Positions in the upright picture plane (n, 2) to pixel coordinates (n, 2)."""
        placed = (flat - self.focus) @ self.roll.T * self.scale + self.shift
        pixels: np.ndarray = (placed + 0.5) * self.canvas
        return pixels

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates (n, 2) of points (n, 3): x, y on the front of the head, and height
        above it. A point turned out of sight stops at the outline."""
        sphere = np.empty((len(points), 3))
        sphere[:, :2] = points[:, :2] / self.axes[:2]
        inside = 1 - sphere[:, 0] ** 2 - sphere[:, 1] ** 2
        sphere[:, 2] = np.sqrt(np.maximum(inside, 0))
        facing = sphere @ self.towards
        behind = np.minimum(facing, 0) / (self.towards @ self.towards)
        sphere -= behind[:, None] * self.towards
        solid = sphere * self.axes
        solid[:, 2] += points[:, 2]
        turned = solid @ self.rotation.T
        flat = turned[:, :2]
        flat[:, 0] *= self._narrowing(flat[:, 1])
        return self.to_pixels(flat)

    def surface(self) -> Tuple[np.ndarray, List[np.ndarray], List[np.ndarray], np.ndarray]:
        """What each pixel shows.

        Returns
        -------
        inside : bool (canvas, canvas)
        sphere : three float32 planes, the point on the unit sphere (outside: on the outline)
        normal : three float32 planes, the unit normal as the viewer sees it
        down : float32 plane, the height in the upright picture plane
        """
        across, down = _pixel_grid(self.canvas)
        across, down = across - np.float32(self.shift[0]), down - np.float32(self.shift[1])
        back: Any = np.float32(self.roll / self.scale)
        across, down = (back[0, 0] * across + back[1, 0] * down + np.float32(self.focus[0]),
                        back[0, 1] * across + back[1, 1] * down + np.float32(self.focus[1]))
        across = across / self._narrowing(np.clip(down, -1, 1.05)).astype(np.float32)
        # Ray: origin (across, down, 0) in the viewer's frame, towards the viewer; both in the
        # space of the unit sphere, where the hit is a quadratic equation.
        to_sphere: Any = np.float32(self.rotation.T / self.axes[:, None])
        origin = [row[0] * across + row[1] * down for row in to_sphere]
        ray = to_sphere[:, 2]
        square = float(ray @ ray)
        half = sum(r * o for r, o in zip(ray, origin)) * np.float32(1 / square)
        rest = (1 - sum(o * o for o in origin)) * np.float32(1 / square) + half * half
        inside = rest > 0
        root = np.sqrt(np.maximum(rest, 0)) - half
        sphere = [o + root * r for o, r in zip(origin, ray)]
        to_normal: Any = np.float32(self.rotation / self.axes)
        normal = [row[0] * sphere[0] + row[1] * sphere[1] + row[2] * sphere[2]
                  for row in to_normal]
        length = np.sqrt(sum(n * n for n in normal)) + np.float32(1e-6)
        return inside, sphere, [n / length for n in normal], down


def _step(values: np.ndarray, sharpness: int) -> np.ndarray:
    """0 below zero, 1 above, soft over 1 / sharpness."""
    return np.clip(values * sharpness + 0.5, 0, 1)


def _spot(x: np.ndarray, y: np.ndarray, centre_x: float, centre_y: float, radius_x: float,
          radius_y: float) -> np.ndarray:
    return np.exp(-((x - centre_x) / radius_x) ** 2 - ((y - centre_y) / radius_y) ** 2)


_ROUND = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_COS, _SIN = np.cos(_ROUND), np.sin(_ROUND)


def _points(x: np.ndarray, y: Union[float, np.ndarray], height: float = 0.0) -> np.ndarray:
    points = np.empty((max(np.size(x), np.size(y)), 3))
    points[:, 0], points[:, 1], points[:, 2] = x, y, height
    return points


def _features(traits: "_Traits", view: "View", skin: np.ndarray,
              hair: np.ndarray) -> List[Shape]:
    """Features from back to front; a line width is in fractions of the picture."""
    drawn: List[Shape] = []
    for side in (-1, 1):
        drawn += _eye(traits, view, skin, hair, side)
    drawn += _nose(traits, view, skin)
    if view.age > 0.6:
        for y in (0.16, 0.26):
            drawn.append((_points(np.linspace(-0.25, 0.25, 4), traits.eye_y - traits.brow_y - y),
                          0.82 * skin, 0.010))
    drawn += _mouth(traits, view, skin)
    if traits.mole > 0:
        size = 0.018 + 0.015 * min(traits.mole, 1)
        drawn.append((_points(traits.mole_x + size * _COS, traits.mole_y + size * _SIN),
                      0.4 * skin, None))
    return drawn


def _eye(traits: "_Traits", view: "View", skin: np.ndarray, hair: np.ndarray,
         side: int) -> List[Shape]:
    """An eye with its brow; ``side`` is -1 or 1."""
    dark = 0.35 * skin
    # Hue 0 is brown; blue and green on either side.
    iris = 255 * traits.iris_light * np.array(
        (0.9 - 0.5 * abs(traits.iris_hue), 0.65 + 0.3 * max(0, -traits.iris_hue),
         0.4 + 0.7 * max(0, traits.iris_hue)))
    drawn: List[Shape] = []
    x, y, w, h = side * traits.eye_x, traits.eye_y, traits.eye_w, traits.eye_h
    slope = traits.eye_tilt * side * _COS
    drawn.append((_points(x + w * _COS, y - h * _SIN - slope), (236, 232, 228), None))
    radius = min(0.62 * w, 1.25 * max(traits.eye_h, 0.045))
    gaze = x + 0.35 * w * view.gaze
    for share, colour in ((1.0, iris), (0.45, np.array((12, 10, 10)))):
        low = np.clip(share * radius * _SIN, -0.95 * h, 0.95 * h)
        drawn.append((_points(gaze + share * radius * _COS, y + low), colour, None))
    lid = slice(0, 8)
    drawn.append((_points(x + 1.05 * w * _COS[lid], y - 1.05 * h * _SIN[lid] - slope[lid]),
                  dark, 0.012))
    if view.age > 0.6:
        drawn.append((_points(x + w * np.array((-0.7, 0, 0.7)),
                              y + h + np.array((0.05, 0.07, 0.05))), 0.78 * skin, 0.010))
    along = np.linspace(-1, 1, 6)
    arch = traits.brow_arch * (1 - along ** 2) + traits.brow_tilt * along * side
    middle = y - traits.brow_y - arch
    thick = traits.brow_t * (1 - 0.5 * np.maximum(along * side, 0))
    brow_x = x + traits.brow_w * along
    drawn.append((np.concatenate((_points(brow_x, middle - thick, 0.02),
                                  _points(brow_x, middle + thick, 0.02)[::-1])),
                  0.8 * hair, None))
    return drawn


def _nose(traits: "_Traits", view: "View", skin: np.ndarray) -> List[Shape]:
    """The nose, and the folds that age draws beside it."""
    drawn: List[Shape] = []
    tip_y = traits.eye_y + traits.nose_len
    top = _points(np.array((-traits.bridge, traits.bridge)), traits.eye_y, 0.05)
    wings = _points(np.array((-traits.nose_w, traits.nose_w)), tip_y, 0.04)
    tip = _points(np.zeros(1), tip_y - 0.03, traits.nose_out)
    under = _points(np.zeros(1), tip_y + 0.03, 0.4 * traits.nose_out)
    for side in (0, 1):
        lit = np.clip(0.90 + 0.14 * (2 * side - 1) * view.light_x, 0.68, 1.08)
        drawn.append((np.concatenate((top[side:side + 1], tip, under, wings[side:side + 1])),
                      lit * skin, None))
    drawn.append((np.concatenate((wings[:1], under, wings[1:])), 0.62 * skin, 0.012))
    for side in (-1, 1):
        drawn.append((_points(side * 0.5 * traits.nose_w + 0.028 * _COS,
                              tip_y + 0.005 + 0.016 * _SIN, 0.06), 0.4 * skin, None))
        if view.age > 0.45:  # folds from the nose to the mouth
            fold = _points(side * np.array((1.1 * traits.nose_w, 1.05 * traits.mouth_w)),
                           np.array((tip_y, traits.mouth_y - 0.04)))
            drawn.append((fold, (1.0 - 0.35 * (view.age - 0.3)) * skin, 0.012))
    return drawn


def _mouth(traits: "_Traits", view: "View", skin: np.ndarray) -> List[Shape]:
    """Lips, and teeth or the dark between them."""
    lips = skin * (1 - traits.lip_red * np.array((0.10, 0.45, 0.40))) * 0.92
    drawn: List[Shape] = []
    along = np.linspace(-1, 1, 9)
    bow = 1 - along ** 2
    corner = 0.07 * view.smile * along ** 2
    opening = 0.09 * view.mouth_open * bow
    mouth_x = traits.mouth_w * along
    upper, lower = traits.mouth_y - corner - 0.4 * opening, traits.mouth_y - corner + opening
    drawn.append((np.concatenate((
        _points(mouth_x, upper - traits.lip_up * bow * (1 - 0.35 * np.exp(-(5 * along) ** 2))
                - 0.006, 0.04),
        _points(mouth_x, lower + traits.lip_low * bow + 0.006, 0.04)[::-1])), lips, None))
    if view.mouth_open > 0.15:
        inner = np.concatenate((_points(0.9 * mouth_x, upper, 0.04),
                                _points(0.9 * mouth_x, lower, 0.04)[::-1]))
        drawn.append((inner, (225, 220, 212) if view.smile > 0.4 else (70, 28, 28), None))
    else:
        drawn.append((_points(mouth_x, upper, 0.04), 0.5 * lips, 0.010))
    return drawn


def _cover_shapes(view: "View", traits: "_Traits", rng: np.random.Generator
                  ) -> List[Shape]:
    """What lies on the face, in the form of ``_features``."""
    colour = rng.uniform(10, 240, 3)
    if view.cover in ("glasses", "sunglasses"):
        frame = 0.4 * colour
        shapes: List[Shape] = []
        for side in (-1, 1):
            lens = _points(side * traits.eye_x + 0.20 * np.clip(1.3 * _COS, -1, 1),
                           traits.eye_y + 0.02 + 0.14 * np.clip(1.2 * _SIN, -1, 1), 0.08)
            if view.cover == "sunglasses":
                shapes.append((lens, 0.25 * colour, None))
            shapes.append((np.concatenate((lens, lens[:1])), frame, 0.018))
        nose = _points(np.array((-0.1, 0.1)), traits.eye_y, 0.08)
        return shapes + [(nose, frame, 0.018)]
    if view.cover == "mask":
        x = np.array((-0.62, -0.3, 0, 0.3, 0.62, 0.5, 0.25, 0, -0.25, -0.5))
        y = np.array((0.12, 0.18, 0.16, 0.18, 0.12, 0.68, 0.86, 0.9, 0.86, 0.68))
        return [(_points(x * traits.width / 0.76, y, 0.05), 120 + 0.5 * colour, None)]
    return []


def _paint(image: np.ndarray, shapes: Sequence[Shape],
           project: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draw shapes with anti-aliasing; all their points are projected in one go."""
    if not shapes:
        return
    where = project(np.concatenate([points for points, _, _ in shapes]))
    # OpenCV counts pixels from their centres; 4 fractional bits.
    where = np.rint((where - 0.5) * 16).astype(np.int32)
    start = 0
    for points, colour, width in shapes:
        part = where[start:start + len(points)]
        start += len(points)
        levels = tuple(float(min(max(level, 0), 255)) for level in colour)
        if width is None:
            cv2.fillPoly(image, [part], levels, cv2.LINE_AA, 4)
        else:
            cv2.polylines(image, [part], False, levels,
                          max(1, int(round(width * image.shape[0]))), cv2.LINE_AA, 4)


def _backdrop(rng: np.random.Generator, canvas: int) -> np.ndarray:
    """A soft pattern of random colours with a few shapes: uint8 (canvas, canvas, 3)."""
    coarse = rng.uniform(0, 255) + 45 * rng.standard_normal((4, 4, 3))
    image: np.ndarray = cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (canvas, canvas),
                                   interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 4)):
        corners = rng.uniform(-0.2, 1.2, (rng.integers(3, 6), 2)) * canvas
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)],
                     tuple(rng.uniform(0, 255, 3)), cv2.LINE_AA)
    return image


def _finish(image: np.ndarray, size: int, exposure: float, tint: np.ndarray, blur: float,
            grain: float, rng: np.random.Generator) -> np.ndarray:
    """Camera and compression-free picture: exposure, colour, reduction, blur, grain."""
    image = image * np.float32(exposure * np.asarray(tint))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if blur > 0.15:
        image = cv2.GaussianBlur(image, (0, 0), blur * size / 32)
    image = image + np.float32(grain) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _surface_colours(traits: "_Traits", view: "View", skin: np.ndarray, hair: np.ndarray,
                     place: List[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Colour of each pixel of the head, float32 (H, W, 3), before light; ``place`` is (x, y, z)."""
    px, py, pz = place
    # Soft parts, pixel by pixel, on the front of the head.
    x, y = px * np.float32(traits.width), py
    front = _step(pz, 3)
    shadow = traits.socket * (
        _spot(x, y, -traits.eye_x, traits.eye_y - 0.02, 0.17, 0.11)
        + _spot(x, y, traits.eye_x, traits.eye_y - 0.02, 0.17, 0.11))
    shadow += 0.12 * _spot(x, y, 0, traits.mouth_y + 0.16, 0.16, 0.05)
    shadow = shadow * front
    beard = np.zeros_like(x)
    if traits.beard > 0.03:
        beard = traits.beard * _step(y - 0.32 - 0.2 * np.cos(3 * x), 5) * front
    line = (-traits.hairline + traits.fringe * px * px + traits.parting * px)
    behind_ears = _step(0.10 - pz, 8) * _step(0.25 - py, 6)
    covered = np.maximum(_step(line - py, 14), behind_ears)[..., None]
    streaks = 1 + 0.12 * np.sin(23 * px + 9 * py + 5 * traits.parting)
    lit = (1 - shadow) * (1 - 0.06 * np.abs(px))
    skin_plane: np.ndarray = lit[..., None] * np.float32(skin)
    skin_plane += (0.75 * beard)[..., None] * (np.float32(0.9 * hair) - skin_plane)
    if view.cover == "cap":
        covered = np.maximum(_step(-0.42 - py, 14)[..., None], covered * (py > -0.42)[..., None])
        hair_plane = np.where((py < -0.42)[..., None], np.float32(rng.uniform(10, 230, 3)),
                              streaks[..., None] * np.float32(hair))
    else:
        hair_plane = streaks[..., None] * np.float32(hair)
    skin_plane += covered * (hair_plane - skin_plane)
    return skin_plane


def _behind(traits: "_Traits", view: "View", skin: np.ndarray, hair: np.ndarray, head: "_Head",
            rng: np.random.Generator) -> List[Shape]:
    """The person without the head's surface: hair behind, neck, shoulders, ears, as shapes."""
    outline = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    wide = np.hypot(traits.width * np.cos(np.radians(view.yaw)),
                    head.DEPTH * np.sin(np.radians(view.yaw)))
    swell = 1 + max(traits.hair_volume, 0.02)
    mane = np.stack((wide * swell * np.cos(outline), swell * np.sin(outline)), axis=1)
    mane[:, 1] = np.where(mane[:, 1] > 0, mane[:, 1] * np.clip(traits.hair_length + 0.4, 0.1, 1.2),
                          mane[:, 1])
    # The back of the head lies on the far side of the turn.
    mane[:, 0] -= 0.18 * np.sin(np.radians(view.yaw))
    neck = np.array(((-0.40, 0.5), (0.40, 0.5), (0.42, 1.25), (-0.42, 1.25))) * (wide, 1)
    shirt = np.array(((-0.42, 1.12), (0.42, 1.12), (1.5, 1.6), (1.5, 3), (-1.5, 3), (-1.5, 1.6)))
    clothes = rng.uniform(10, 240, 3)
    behind: List[Shape] = [(mane, 0.8 * hair, None), (neck, 0.72 * skin, None),
                           (shirt, clothes, None)]
    for side in (-1, 1):
        ear = head.rotation @ (side * traits.width * 0.98, 0.05, -0.02)
        if ear[2] > -0.75 * head.DEPTH:
            behind.append((ear[:2] + np.stack((0.09 * _COS, 0.17 * _SIN), axis=1), 0.86 * skin,
                           None))
    return behind


def _shade(view: "View", normal: List[np.ndarray]) -> np.ndarray:
    """Brightness of each pixel of the head, float32 (H, W); ``normal`` is its surface's."""
    nx, ny, nz = normal
    light = np.array((view.light_x, view.light_y, 1.0))
    light = np.float32(light / np.sqrt(light @ light))  # type: ignore[assignment]  # an array
    lit = np.maximum(nx * light[0] + ny * light[1] + nz * light[2], 0)
    bright: np.ndarray = np.float32(view.ambient) + np.float32(1.15 * (1 - view.ambient)) * lit
    return bright


def draw_face(identity: np.ndarray, view: "View", size: int = 32) -> np.ndarray:
    """Draw one picture of one person.

    Parameters
    ----------
    identity : array_like
        Shape (LATENT,), as from :func:`sample_identity`.
    view : View
        As from :func:`sample_view`; the same view gives the same picture.
    size : int
        Height and width in pixels.

    Returns
    -------
    numpy.ndarray
        uint8, shape (size, size, 3), RGB.
    """
    rng = np.random.default_rng(view.seed)
    canvas = 2 * size
    traits = _traits_at(np.asarray(identity), view)
    skin = _skin(np.clip(traits.skin_light, 0.15, 0.95), traits.skin_warm)
    grey = float(np.clip(1.8 * (view.age - 0.5), 0, 0.9))
    hair = _hair(np.clip(traits.hair_light, 0.02, 0.9), traits.hair_warm, grey)
    head = _Head(traits, view, canvas)
    inside, place, normal, _ = head.surface()
    skin_plane = _surface_colours(traits, view, skin, hair, place, rng)
    person = np.zeros((canvas, canvas, 3), np.uint8)
    mask = np.zeros((canvas, canvas), np.uint8)
    behind = _behind(traits, view, skin, hair, head, rng)
    _paint(person, behind, head.to_pixels)
    _paint(mask, [(points, (255,), None) for points, _, _ in behind], head.to_pixels)
    mask[inside] = 255
    person[inside] = np.clip(skin_plane[inside], 0, 255).astype(np.uint8)
    features = _features(traits, view, skin, hair)
    features += _cover_shapes(view, traits, rng)
    _paint(person, features, head.project)
    # A turned nose stands out beyond the outline.
    _paint(mask, [(points, (255,), None) for points, _, width in features if width is None],
           head.project)

    shade = _shade(view, normal)
    share = (mask.astype(np.float32) / 255)[..., None]
    image = _backdrop(rng, canvas).astype(np.float32)
    image += share * (person * shade[..., None] - image)
    if view.cover == "block":
        corner = rng.uniform(-0.1, 0.75, 2) * canvas
        extent = rng.uniform(0.25, 0.5, 2) * canvas
        (left, top), (right, bottom) = corner.astype(int), (corner + extent).astype(int)
        image[max(top, 0):bottom, max(left, 0):right] = rng.uniform(0, 255, 3)
    return _finish(image, size, view.exposure, view.tint, view.blur, view.grain, rng)


def draw_clutter(rng: np.random.Generator, size: int = 32) -> np.ndarray:
    """Draw a picture without a face: shapes on a backdrop.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        Height and width in pixels.

    Returns
    -------
    numpy.ndarray
        uint8, shape (size, size, 3), RGB.
    """
    canvas = 2 * size
    image = _backdrop(rng, canvas)
    for _ in range(rng.integers(3, 9)):
        centre = tuple(int(c) for c in rng.uniform(0, canvas, 2))
        axes = tuple(int(a) for a in rng.uniform(0.05, 0.35, 2) * canvas)
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360,
                    tuple(rng.uniform(0, 255, 3)), -1, cv2.LINE_AA)
    return _finish(image.astype(np.float32), size, np.exp(0.2 * rng.standard_normal()),
                   np.exp(0.1 * rng.standard_normal(3)), max(0.0, rng.uniform(-0.3, 0.8)),
                   rng.uniform(1, 9), rng)
