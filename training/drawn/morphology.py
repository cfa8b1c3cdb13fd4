"""Morphology of each of the 21 classes as numbers: sizes in micrometres, colours of a May-Grünwald-Giemsa stain.

The numbers are chosen by eye, to distinguish the classes in tests and examples. They are not measured on cells.
"""

from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]
Nucleus = Literal["round", "kidney", "folded", "dumbbell", "band", "bilobed", "segmented", "smudged", "none"]

PINK, TAN, PALE_GREY, GREY_BLUE = (226, 196, 218), (214, 194, 206), (206, 204, 224), (164, 166, 208)
SKY_BLUE, BLUE, ROYAL_BLUE = (142, 158, 220), (108, 106, 192), (66, 70, 168)
DENSE, CLUMPED, OPEN, FINE = (44, 26, 92), (82, 40, 134), (104, 54, 156), (122, 66, 166)
ORANGE, VIOLET_BLACK, AZUROPHIL, LILAC, MAGENTA = (
    (206, 104, 84),
    (38, 22, 74),
    (112, 36, 128),
    (188, 128, 178),
    (176, 84, 160),
)


@dataclass(frozen=True, slots=True)
class Granules:
    """Granules of one kind: number, radius in µm, colour, and whether they cover the nucleus too."""

    count: int
    radius: float
    colour: Colour
    over_nucleus: bool = False


@dataclass(frozen=True, slots=True)
class Morphology:
    """One class. Radii in µm; nucleus_ratio: radius of the nucleus by radius of the cell; clumps: 0 (fine) to 1."""

    radius: float
    cytoplasm: Colour
    nucleus: Nucleus
    nucleus_ratio: float
    chromatin: Colour
    clumps: float = 0.3
    eccentricity: float = 0.0
    aspect: float = 1.08
    granules: tuple[Granules, ...] = ()
    nucleoli: int = 0
    golgi_zone: bool = False
    vacuoles: int = 0
    auer_rods: int = 0
    hairs: int = 0
    out_of_focus: bool = False


_FINE_GRANULES = Granules(220, 0.16, LILAC)

MORPHOLOGIES: dict[str, Morphology] = {
    "ABE": Morphology(
        7.2, TAN, "round", 0.60, CLUMPED, 0.5, eccentricity=0.5,
        granules=(Granules(150, 0.42, ORANGE), Granules(45, 0.55, VIOLET_BLACK, over_nucleus=True)),
    ),
    "ART": Morphology(6.0, PINK, "none", 0.0, MAGENTA),
    "BAS": Morphology(
        5.6, PINK, "bilobed", 0.62, OPEN, granules=(Granules(95, 0.48, VIOLET_BLACK, over_nucleus=True),),
    ),
    "BLA": Morphology(7.4, BLUE, "round", 0.86, FINE, 0.1, eccentricity=0.5, aspect=1.12, nucleoli=3),
    "EBO": Morphology(4.7, TAN, "round", 0.58, DENSE, 0.4, eccentricity=0.1),
    "EOS": Morphology(6.3, TAN, "bilobed", 0.58, CLUMPED, 0.6, granules=(Granules(260, 0.44, ORANGE),)),
    "FGC": Morphology(
        8.0, GREY_BLUE, "dumbbell", 0.66, OPEN, 0.2, eccentricity=0.4,
        granules=(Granules(60, 0.28, AZUROPHIL),), auer_rods=14,
    ),
    "HAC": Morphology(6.2, PALE_GREY, "kidney", 0.66, OPEN, 0.3, hairs=34),
    "KSC": Morphology(8.0, PINK, "smudged", 1.0, MAGENTA, 0.5),
    "LYI": Morphology(6.2, ROYAL_BLUE, "round", 0.80, OPEN, 0.35, eccentricity=0.3, nucleoli=1),
    "LYT": Morphology(4.7, SKY_BLUE, "round", 0.86, DENSE, 0.7, eccentricity=0.35),
    "MMZ": Morphology(6.5, PINK, "kidney", 0.66, CLUMPED, 0.5, eccentricity=0.3, granules=(_FINE_GRANULES,)),
    "MON": Morphology(8.2, GREY_BLUE, "folded", 0.70, OPEN, 0.45, eccentricity=0.2, vacuoles=7, aspect=1.15),
    "MYB": Morphology(7.2, PINK, "round", 0.62, CLUMPED, 0.4, eccentricity=0.8, granules=(_FINE_GRANULES,)),
    "NGB": Morphology(6.1, PINK, "band", 0.62, CLUMPED, 0.6, granules=(_FINE_GRANULES,)),
    "NGS": Morphology(6.1, PINK, "segmented", 0.62, DENSE, 0.6, granules=(_FINE_GRANULES,)),
    "NIF": Morphology(4.8, BLUE, "round", 0.92, DENSE, 0.1, out_of_focus=True),
    "OTH": Morphology(10.0, PALE_GREY, "round", 0.34, OPEN, 0.3, eccentricity=0.9, aspect=1.2, vacuoles=60),
    "PEB": Morphology(9.4, ROYAL_BLUE, "round", 0.76, FINE, 0.15, eccentricity=0.3, nucleoli=2, golgi_zone=True),
    "PLM": Morphology(6.6, ROYAL_BLUE, "round", 0.50, DENSE, 0.9, eccentricity=0.95, aspect=1.35, golgi_zone=True),
    "PMO": Morphology(
        8.2, BLUE, "round", 0.66, OPEN, 0.2, eccentricity=0.7, nucleoli=2, golgi_zone=True,
        granules=(Granules(150, 0.30, AZUROPHIL, over_nucleus=True),),
    ),
}  # fmt: skip
