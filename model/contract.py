"""The contract of a model, shared by training and serving: classes, tensors, preprocessing and manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from model.fields import Code, Sha256, Strict
from model.regular_file import read_regular_file
from model.trust.reference import TrustReference

SCHEMA_VERSION: Final = 1

#: Shown wherever the service, its commands or its reports show results.
RESEARCH_USE: Final = (
    "Research use only. Not a medical device: the model suggests, a qualified person reads the cell and signs."
)
INPUT = "image"
#: Every output, in the order of the graph. Only "attention" is optional: see `Manifest.output_names`.
OUTPUTS = ("probabilities", "logits", "attention", "evidence", "embedding")
ATTENTION = "attention"
EVIDENCE = "evidence"
#: The rank of each output.
_RANKS = dict(zip(OUTPUTS, (2, 2, 4, 4, 2), strict=True))

#: Input sizes are multiples of this: the stem divides by 4, and three stages halve the grid.
SIZE_MULTIPLE = 32

Lineage = Literal["granulocytic", "monocytic", "erythroid", "lymphoid", "plasma", "megakaryocytic", "other"]
#: Whether a cell is in the denominator of a differential count; "by_setting" leaves it to the laboratory.
Countable = Literal["always", "never", "by_setting"]
Precision = Literal["fp32", "fp16"]
#: A part of the network: "MLKA", "MLKA 3-5-1", "cross-scale attention", … Without commas, because they separate parts.
PartName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]{0,63}$")]


def _is_absent(value: object) -> bool:
    return value is None or value == ()


class CellClass(Strict):
    """One cell class: code in the data set, name, lineage, and whether it is counted."""

    code: Code = Field(description="name of the class's folder in the data")
    name: str = Field(description="display name")
    lineage: Lineage = Field("other", description="group of lineage figures and of the myeloid to erythroid ratio")
    countable: Countable = Field("always", description="whether it is in the denominator of a differential")


#: The 21 classes of Matek et al. 2021 (doi 10.1182/blood.2020010568) in the paper's order; index = logit index.
#: Countable by ICSH 2008: artefacts, smudge cells and unidentifiable cells are not in the denominator.
CLASSES: tuple[CellClass, ...] = (
    CellClass(code="ABE", name="Abnormal eosinophil", lineage="granulocytic"),
    CellClass(code="ART", name="Artefact", countable="never"),
    CellClass(code="BAS", name="Basophil", lineage="granulocytic"),
    CellClass(code="BLA", name="Blast"),
    CellClass(code="EBO", name="Erythroblast", lineage="erythroid"),
    CellClass(code="EOS", name="Eosinophil", lineage="granulocytic"),
    CellClass(code="FGC", name="Faggot cell", lineage="granulocytic"),
    CellClass(code="HAC", name="Hairy cell", lineage="lymphoid"),
    CellClass(code="KSC", name="Smudge cell", countable="never"),
    CellClass(code="LYI", name="Immature lymphocyte", lineage="lymphoid"),
    CellClass(code="LYT", name="Lymphocyte", lineage="lymphoid"),
    CellClass(code="MMZ", name="Metamyelocyte", lineage="granulocytic"),
    CellClass(code="MON", name="Monocyte", lineage="monocytic"),
    CellClass(code="MYB", name="Myelocyte", lineage="granulocytic"),
    CellClass(code="NGB", name="Band neutrophil", lineage="granulocytic"),
    CellClass(code="NGS", name="Segmented neutrophil", lineage="granulocytic"),
    CellClass(code="NIF", name="Not identifiable", countable="never"),
    CellClass(code="OTH", name="Other cell", countable="by_setting"),
    CellClass(code="PEB", name="Proerythroblast", lineage="erythroid"),
    CellClass(code="PLM", name="Plasma cell", lineage="plasma"),
    CellClass(code="PMO", name="Promyelocyte", lineage="granulocytic"),
)


class Preprocessing(Strict):
    """How a picture becomes the input tensor. Resizing is outside the graph, scaling and normalisation inside."""

    input_size: int = Field(ge=SIZE_MULTIPLE, le=1024, multiple_of=SIZE_MULTIPLE, description="S, in pixels")
    resampling: Literal["bilinear"] = Field("bilinear", description="Pillow's antialiased filter of this name")
    mean: tuple[float, float, float] = Field(description="per RGB channel, of pixels scaled to 0..1")
    std: tuple[float, float, float] = Field(description="per RGB channel, of pixels scaled to 0..1")


class DataSource(Strict):
    """One data set of training pictures, with the attribution that its licence requires."""

    name: str
    tissue: str
    licence: str
    attribution: str
    training_images: dict[Code, int] = Field(description="training pictures by class")


class Metric(Strict):
    """A measured figure with n and split; a proportion also has its 95 % Wilson interval."""

    name: str = Field(description="accuracy, macro_f1, recall, precision, ece, …")
    code: Code | None = Field(None, description="the class; absent for a figure over all classes")
    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=0, description="pictures behind the figure")
    split: str


class Probes(Strict):
    """Outputs of the graph for P probe images (model/probes.py) at its export, by onnxruntime on a CPU.

    They are recomputed when the graph is opened. So other weights, another order of maps, and a machine that computes
    wrongly are found.
    """

    images_sha256: Sha256 = Field(description="of the P images, uint8 (P, S, S, 3)")
    logits: tuple[tuple[FiniteFloat, ...], ...] = Field(min_length=1, max_length=16, description="(P, C)")
    attention: tuple[FiniteFloat, ...] | None = Field(
        None,
        exclude_if=_is_absent,
        description="(P,): sum of an image's values times fixed weights; absent for a graph without attention",
    )
    evidence: tuple[FiniteFloat, ...] = Field(description="(P,): sum of an image's values times fixed weights")
    embedding: tuple[FiniteFloat, ...] = Field(description="(P,): the same")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        stored = {"logits": self.logits, "attention": self.attention, "evidence": self.evidence}
        stored |= {"embedding": self.embedding}
        counts = {len(values) for values in stored.values() if values is not None}
        if len(counts) != 1:
            raise ValueError(
                f"logits, attention, evidence and embedding are of {sorted(counts)} images; the numbers must be equal"
            )
        return self


class Lesion(Strict):
    """How much one part of the network matters: its output replaced by its mean over the calibration pictures."""

    part: PartName
    n: int = Field(gt=0, description="calibration pictures")
    changed: float = Field(ge=0, le=1, description="share of the n answers with another top class")
    accuracy_change: float = Field(ge=-1, le=1, description="accuracy without the part minus accuracy with it")


class Manifest(Strict):
    """The JSON file beside the ONNX file: everything about the model that the graph does not contain.

    Unknown keys are refused. Without `probes` or `drift_sha256`, the checks that need them are skipped; without
    `trust`, answers have no decision. A network
    without attention that affects its answers has neither the output `attention` nor `attention_scales`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Code
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="the model's version, not the code's")
    variant: str
    classes: tuple[CellClass, ...] = Field(min_length=2)
    training_images: dict[Code, int] = Field(description="by class, over all sources")
    unsupported: tuple[Code, ...] = Field(description="classes with no or too few training pictures")
    preprocessing: Preprocessing
    temperature: float = Field(gt=0, description="probabilities = softmax(logits / temperature)")
    bias: tuple[float, ...] = Field(description="by class: logit = mean over positions of evidence + bias")
    attention_scales: tuple[str, ...] = Field(
        description="kernels of the attention maps, in order: 3-5-1, …; empty without the output `attention`"
    )
    outputs: dict[str, tuple[str | int, ...]] = Field(
        description="name → shape; 'N' is the batch. `attention` is optional"
    )
    opset: int
    precision: Precision = Field(
        "fp32", description="inside the network; preprocessing, softmax, maps and outputs are fp32 in any case"
    )
    sha256: Sha256 = Field(description="of the ONNX file")
    probes: Probes | None = Field(None, description="outputs that the graph must reproduce")
    drift_sha256: Sha256 | None = Field(None, description="of the drift reference NAME.drift.json; null: none")
    sources: tuple[DataSource, ...]
    split: str = Field(description="how training, calibration and test pictures were kept apart")
    split_sha256: Sha256 = Field(description="of the written split list")
    metrics: tuple[Metric, ...]
    lesions: tuple[Lesion, ...] = Field(
        (), exclude_if=_is_absent, description="how much each part of the network matters; absent: not measured"
    )
    inert: tuple[PartName, ...] = Field(
        (),
        exclude_if=_is_absent,
        description="parts of the network that were exported although answers do not depend on them",
    )
    trust: TrustReference | None = Field(
        None, exclude_if=_is_absent, description="known cells, for novelty, prediction sets and decisions; absent: none"
    )
    site_trust_sha256: Sha256 | None = Field(
        None,
        exclude_if=_is_absent,
        description="of the laboratory's file that `trust` is from (MARROWLENS_TRUST_REFERENCE); absent: it is the "
        "model's own",
    )
    intended_use: str
    limits: tuple[str, ...]
    licence: str
    attribution: tuple[str, ...]

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Class codes in logit order."""
        return tuple(cell_class.code for cell_class in self.classes)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in the order of `OUTPUTS`."""
        return tuple(name for name in OUTPUTS if name in self.outputs)

    @property
    def has_attention(self) -> bool:
        """Whether the graph computes attention maps."""
        return ATTENTION in self.outputs

    @cached_property
    def digest(self) -> str:
        """sha256 of `manifest_text`, which is the file's if an export wrote it."""
        return hashlib.sha256(manifest_text(self).encode()).hexdigest()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        codes = set(self.codes)
        if len(codes) != len(self.classes):
            raise ValueError("two classes share a code; codes must be unique")
        if set(self.training_images) != codes:
            raise ValueError("training_images must name exactly the classes")
        unknown = set(self.unsupported) - codes
        if unknown:
            raise ValueError(f"unsupported contains unknown classes: {sorted(unknown)}")
        unclaimed = {code for code, count in self.training_images.items() if count == 0} - set(self.unsupported)
        if unclaimed:
            raise ValueError(f"classes without training pictures must be unsupported: {sorted(unclaimed)}")
        if len(self.bias) != len(self.classes):
            raise ValueError(f"bias has {len(self.bias)} values for {len(self.classes)} classes")
        if self.probes and any(len(logits) != len(self.classes) for logits in self.probes.logits):
            raise ValueError(f"probes.logits must have {len(self.classes)} values for each image, one for each class")
        if self.outputs != output_shapes(self):
            raise ValueError(f"outputs must be {output_shapes(self)}, found {self.outputs}")
        if self.trust:
            self.trust.check_model(self.codes, int(self.outputs["embedding"][1]))
        self._check_attention()
        self._check_parts()
        return self

    def _check_attention(self) -> None:
        scales = list(self.attention_scales)
        if self.has_attention != bool(scales):
            found = "contains" if self.has_attention else "lacks"
            raise ValueError(
                f"outputs {found} attention, but attention_scales is {scales}; a model has both or neither"
            )
        if self.probes and self.has_attention != (self.probes.attention is not None):
            found = "is absent" if self.has_attention else "is present"
            raise ValueError(f"probes.attention {found}, but outputs are {self.output_names}; export the model again")

    def _check_parts(self) -> None:
        measured = [lesion.part for lesion in self.lesions]
        if len(set(measured)) != len(measured) or len(set(self.inert)) != len(self.inert):
            raise ValueError("lesions or inert names a part twice; parts must be unique")
        if unmeasured := sorted(set(self.inert) - set(measured)):
            raise ValueError(f"inert contains parts without an entry in lesions: {unmeasured}")


def output_shapes(manifest: Manifest) -> dict[str, tuple[str | int, ...]]:
    """The shapes of the manifest's outputs, with its grid and embedding sizes.

    Raises:
        ValueError: an output other than `attention` is missing, unknown, or of the wrong rank.
    """
    found: Mapping[str, tuple[str | int, ...]] = manifest.outputs
    missing = set(OUTPUTS) - set(found) - {ATTENTION}
    if missing or any(_RANKS.get(name) != len(shape) for name, shape in found.items()):
        raise ValueError(f"outputs must be {OUTPUTS} of ranks 2, 2, 4, 4, 2; only {ATTENTION} may be absent")
    classes, scales = len(manifest.classes), len(manifest.attention_scales)
    shapes: dict[str, tuple[str | int, ...]] = {
        "probabilities": ("N", classes),
        "logits": ("N", classes),
        "attention": ("N", scales, *found.get("attention", ())[2:]),
        "evidence": ("N", classes, *found["evidence"][2:]),
        "embedding": ("N", found["embedding"][1]),
    }
    return {name: shapes[name] for name in manifest.output_names}


class ArtefactError(Exception):
    """An artefact cannot be used. The reason is a sentence with the file as its subject."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def manifest_text(manifest: Manifest) -> str:
    """The JSON text of the manifest file. Absent `probes` and `drift_sha256`, and `precision` in fp32, are left out."""
    left_out = {"precision"} if manifest.precision == "fp32" else set()
    if manifest.drift_sha256 is None:
        left_out.add("drift_sha256")
    if manifest.probes is None:
        left_out.add("probes")
    return manifest.model_dump_json(indent=1, exclude=left_out) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file.

    Raises:
        ArtefactError: missing, not JSON, of another schema, with an unknown key, or inconsistent.
    """
    try:
        return manifest_of(path, read_regular_file(path))
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error


def manifest_of(path: Path, content: bytes) -> Manifest:
    """Parse the content of a manifest file.

    Raises:
        ArtefactError: not JSON, of another schema, with an unknown key, or inconsistent.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ArtefactError(path, f"is not a manifest of schema {SCHEMA_VERSION}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """The first validation error of a document: key (if it has one) and message."""
    fault = error.errors()[0]
    key, message = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def inert_note(parts: Sequence[str]) -> str:
    """A sentence that names the inert parts of a network, for commands and reports."""
    return f"Parts of the network without effect on its answers: {', '.join(parts)}"
