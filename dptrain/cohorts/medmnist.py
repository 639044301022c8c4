"""`data=medmnist`: the two-dimensional sets of MedMNIST (Yang et al. 2023, doi 10.1038/s41597-022-01721-8).

Point `data.path` at the downloaded .npz or its folder. Classes and numbers of images are those that MedMNIST publishes
(medmnist/info.py, version 2.1). None of the sets has patient identifiers: the unit of privacy is the image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.image_decode import ImageSpec
from dptrain.cohorts.npz import NpzOptions, npz_records
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import near_miss, parse_parts

ORGANS = ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
          "lung-right", "pancreas", "spleen")  # fmt: skip
RESOLUTIONS = (28, 64, 128, 224)


@dataclass(frozen=True)
class Published:
    """What MedMNIST publishes about a set."""

    num_train: int
    """Images of the parts train and val."""
    classes: tuple[str, ...]
    """Names of the classes; of the labels in chestmnist."""


SETS: dict[str, Published] = {
    "pathmnist": Published(100000, (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    )),
    "chestmnist": Published(89687, (
        "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
        "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
    )),
    "dermamnist": Published(8010, (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    )),
    "octmnist": Published(108309, ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": Published(5232, ("normal", "pneumonia")),
    "retinamnist": Published(1200, ("0", "1", "2", "3", "4")),
    "breastmnist": Published(624, ("malignant", "normal, benign")),
    "bloodmnist": Published(13671, (
        "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    )),
    "tissuemnist": Published(189106, (
        "collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
        "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
        "thick ascending limb",
    )),
    "organamnist": Published(41072, ORGANS),
    "organcmnist": Published(15392, ORGANS),
    "organsmnist": Published(16392, ORGANS),
}  # fmt: skip
"""Two-dimensional sets by flag."""


@dataclass(frozen=True)
class MedmnistOptions:
    """Options of data=medmnist beside those of images."""

    flag: str = "pneumoniamnist"
    """Which set."""
    resolution: int = 28
    """28, 64, 128 or 224: which of the set's files."""

    def __post_init__(self) -> None:
        problems = []
        if self.flag not in SETS:
            problems.append(
                f"data.flag={self.flag!r} is not a two-dimensional MedMNIST set{near_miss(self.flag, SETS)}; expected "
                f"one of {', '.join(SETS)}."
            )
        if self.resolution not in RESOLUTIONS:
            problems.append(f"data.resolution={self.resolution} must be one of {', '.join(map(str, RESOLUTIONS))}.")
        if problems:
            raise ConfigError(problems)

    @property
    def file_name(self) -> str:
        """`pneumoniamnist.npz`, `pneumoniamnist_64.npz`."""
        return f"{self.flag}.npz" if self.resolution == RESOLUTIONS[0] else f"{self.flag}_{self.resolution}.npz"


OPTIONS = (MedmnistOptions, ImageSpec, DecodeOptions)


def read_medmnist(data: DataConfig) -> Records:
    """Images of train and val are training patients, those of test test patients."""
    options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    path = Path("~/.medmnist" if data.path is None else data.path).expanduser()
    file = path / options.file_name if path.is_dir() else path
    if not file.exists():
        raise DataError(
            f"data.path={data.path}: there is no {file}. Download {options.file_name} from "
            "https://zenodo.org/records/10519652 (or with the medmnist package) and set data.path=THAT_FILE or its "
            "folder."
        )
    published = SETS[options.flag]
    records = npz_records(file, NpzOptions(classes=published.classes), spec, decoding, f"data.name={data.name}")
    return dataclasses.replace(records, warnings=(*records.warnings, *_size_warning(data, options.flag, published)))


def _size_warning(data: DataConfig, flag: str, published: Published) -> tuple[str, ...]:
    assert data.nominal_patients is not None
    if 0.5 <= data.nominal_patients / published.num_train <= 2 or data.max_patients is not None:
        return ()
    return (
        f"data.nominal_patients={data.nominal_patients}, but {flag} has {published.num_train} published training "
        f"images: set data.nominal_patients={published.num_train} (and data.delta below 1/{published.num_train}).",
    )
