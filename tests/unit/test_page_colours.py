"""Colours of the page: what has to be read or seen stands out from what it lies on, in both themes and on paper."""

import re
from itertools import product

import pytest

from alpagasus_ray.reporting import html

THEMES = dict(zip(("light", "dark", "paper"), re.findall(r":root \{(.*?)\}", html.read(*html.STYLES), re.DOTALL), strict=True))
TEXT = {"ink", "muted", "accent", "alarm"}
SHAPES = {"accent", "pale", "slate", "edge"}
"""Bars, focus rings, and the borders of what can be typed into or pressed."""
ON = {"on-accent": "accent", "on-pale": "pale", "on-slate": "slate"}


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_a_contrast_of_4_5_and_shapes_of_3(theme: str) -> None:
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", THEMES["light"])) | dict(
        re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", THEMES[theme])
    )
    wanted = [(name, ground, 4.5) for name, ground in [*product(TEXT, ("ground", "card", "soft")), *ON.items()]]
    wanted += [(name, ground, 3.0) for name, ground in product(SHAPES, ("ground", "card"))]
    assert {(a, b): ratio for a, b, least in wanted if (ratio := round(contrast(colours[a], colours[b]), 2)) < least} == {}
