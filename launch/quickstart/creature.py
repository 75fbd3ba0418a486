"""The quick start's subject, a creature of its own: ellipsoids, cast by parallel rays and softly lit, in numpy alone.

It has a body that is violet above and mint below with a toothed border, one big eye with an orange iris, two antennae
striped in black and yellow with red tips, orange hands and feet. Model space: x to the viewer's right, y up, z towards
the viewer; the body's centre is the origin and about 1.5 wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

VIOLET, MINT, ORANGE = (0.43, 0.20, 0.86), (0.45, 0.93, 0.72), (1.00, 0.56, 0.12)
BLACK, YELLOW, RED, WHITE = (0.10, 0.08, 0.14), (1.00, 0.86, 0.16), (0.98, 0.18, 0.30), (0.98, 0.98, 1.00)

LIGHT = np.array((-0.45, 0.70, 0.55)) / np.linalg.norm((-0.45, 0.70, 0.55))
HALF = (LIGHT + (0, 0, 1)) / np.linalg.norm(LIGHT + (0, 0, 1))
SUPER = 3  # pixels drawn per pixel and axis
REACH = 1.75  # half of the model space that a picture shows

Paint = Callable[[np.ndarray], np.ndarray]


class Pose(NamedTuple):
    """Turns in degrees (yaw to the side, pitch forwards, roll clockwise), arms from -1 (hanging) to 1 (raised)."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    left_arm: float = -0.6
    right_arm: float = -0.6
    sway: float = 0.0  # of the antennae, sideways
    gaze: tuple[float, float] = (0.0, 0.0)  # of the eye, right and up


class Ellipsoid(NamedTuple):
    """Centre, radii, and a colour or what paints it from unit-sphere points [k, 3]."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    colour: tuple[float, float, float] | Paint


def creature(pose: Pose, n: int) -> Image.Image:
    """The creature, RGBA, n pixels wide and high, uncropped."""
    size = n * SUPER
    colour, depth = np.zeros((size, size, 4)), np.full((size, size), -np.inf)
    for part in parts(pose):
        _cast(part, rotation(pose), colour, depth)
    colour[..., :3] *= colour[..., 3:]
    small = colour.reshape(n, SUPER, n, SUPER, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return Image.fromarray((np.clip(small, 0, 1) * 255).round().astype(np.uint8))


def parts(pose: Pose) -> list[Ellipsoid]:
    """All ellipsoids of the creature."""
    gaze = np.array((0.45 * pose.gaze[0], 0.45 * pose.gaze[1], 1.0))
    result = [
        Ellipsoid((0, 0, 0), (0.80, 0.86, 0.72), _two_tone),
        Ellipsoid((0, 0.24, 0.48), (0.43, 0.43, 0.36), _eye(gaze / np.linalg.norm(gaze))),
        Ellipsoid((0, -0.40, 0.58), (0.24, 0.085, 0.09), BLACK),
    ]
    for side, arm in ((-1, pose.left_arm), (1, pose.right_arm)):
        result.append(Ellipsoid((0.36 * side, -0.86, 0.16), (0.28, 0.15, 0.36), ORANGE))
        hand = (side * (1.18 - 0.12 * abs(arm)), 0.55 * arm - 0.05, 0.20)
        elbow = (side * 1.02, 0.1 * arm - 0.12, 0.12)
        result += _tube((0.66 * side, 0.02, 0.05), elbow, hand, 0.115, lambda t: VIOLET)
        result.append(Ellipsoid(hand, (0.17, 0.17, 0.17), ORANGE))
        tip = (side * 0.62 + 0.25 * pose.sway, 1.42, 0.05)
        bend = (side * 0.22 + 0.05 * pose.sway, 1.20, 0.0)
        result += _tube((0.28 * side, 0.72, 0.05), bend, tip, 0.085, _stripes)
        result.append(Ellipsoid(tip, (0.19, 0.19, 0.19), RED))
    return result


def rotation(pose: Pose) -> np.ndarray:
    """Model space to view space, [3, 3]: yaw first, then pitch, then roll."""
    yaw, pitch, roll = np.radians((pose.yaw, pose.pitch, -pose.roll))
    turn = np.array(((np.cos(yaw), 0, np.sin(yaw)), (0, 1, 0), (-np.sin(yaw), 0, np.cos(yaw))))
    nod = np.array(((1, 0, 0), (0, np.cos(pitch), -np.sin(pitch)), (0, np.sin(pitch), np.cos(pitch))))
    lean = np.array(((np.cos(roll), -np.sin(roll), 0), (np.sin(roll), np.cos(roll), 0), (0, 0, 1)))
    return lean @ nod @ turn


def _two_tone(q: np.ndarray) -> np.ndarray:
    around = np.arctan2(q[:, 0], q[:, 2])
    border = -0.16 + 0.10 * np.abs(((around * 9 / np.pi) % 2) - 1)
    return np.where((q[:, 1] > border)[:, None], VIOLET, MINT)


def _eye(gaze: np.ndarray) -> Paint:
    def paint(q: np.ndarray) -> np.ndarray:
        ahead = (q @ gaze)[:, None]
        glint = (q @ (np.array((-0.28, 0.34, 0.90)) + 0.4 * (gaze - (0, 0, 1))))[:, None]
        colour = np.where(ahead > 0.80, ORANGE, WHITE)
        colour = np.where(ahead > 0.925, BLACK, colour)
        return np.where(glint > 0.985, WHITE, colour)

    return paint


def _stripes(t: float) -> tuple[float, float, float]:
    return BLACK if int(t * 5) % 2 else YELLOW


def _tube(
    start: tuple[float, ...],
    bend: tuple[float, ...],
    end: tuple[float, ...],
    radius: float,
    colour: Callable[[float], tuple[float, float, float]],
) -> list[Ellipsoid]:
    """Spheres along a quadratic curve, close enough to look like a tube."""
    a, b, c = np.array(start), np.array(bend), np.array(end)
    result = []
    for t in np.linspace(0, 0.999, 34):
        x, y, z = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        result.append(Ellipsoid((x, y, z), (radius, radius, radius), colour(t)))
    return result


def _cast(part: Ellipsoid, turn: np.ndarray, colour: np.ndarray, depth: np.ndarray) -> None:
    """Draws one ellipsoid into `colour` [n, n, 4] where it is nearer than `depth` [n, n]."""
    n = len(depth)
    centre, scaled = turn @ np.array(part.centre), (turn / np.array(part.radii)).T  # q = scaled @ (p - centre)
    reach = max(part.radii)
    rows = _span(n, -centre[1], reach)
    columns = _span(n, centre[0], reach)
    x = ((np.arange(n)[columns] + 0.5) / n * 2 - 1) * REACH - centre[0]
    y = -((np.arange(n)[rows] + 0.5) / n * 2 - 1) * REACH - centre[1]
    flat = x[None, :, None] * scaled[:, 0] + y[:, None, None] * scaled[:, 1]
    a, b, c = scaled[:, 2] @ scaled[:, 2], flat @ scaled[:, 2], (flat**2).sum(-1) - 1
    square = b**2 - a * c
    z = (-b + np.sqrt(np.maximum(square, 0))) / a
    hit = (square > 0) & (z + centre[2] > depth[rows, columns])
    q = flat[hit] + z[hit][:, None] * scaled[:, 2]
    normal = q @ scaled
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    base = part.colour(q) if callable(part.colour) else np.broadcast_to(np.array(part.colour), (len(q), 3))
    depth[rows, columns][hit] = z[hit] + centre[2]
    colour[rows, columns][hit] = np.concatenate([_lit(base, normal), np.ones((len(q), 1))], 1)


def _span(n: int, middle: float, reach: float) -> slice:
    low, high = ((middle + s * reach) / REACH * 0.5 + 0.5 for s in (-1, 1))
    return slice(max(0, int(low * n) - 1), min(n, int(high * n) + 2))


def _lit(base: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Wrapped diffuse light whose shadows keep their colour, a soft highlight, a faint rim."""
    diffuse = (0.5 + 0.5 * normal @ LIGHT)[:, None]
    shade = base ** (1 + 0.5 * (1 - diffuse)) * (0.50 + 0.56 * diffuse)
    gloss = np.clip(normal @ HALF, 0, 1)[:, None] ** 24
    rim = (1 - np.clip(normal[:, 2], 0, 1))[:, None] ** 3
    return shade + 0.32 * gloss * (1 - shade) + 0.10 * rim * (base - shade)
