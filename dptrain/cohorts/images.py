"""`data=images`: your own images, one file per record, named by a manifest.

The manifest is a table (`manifest.py`, `columns.py`), the files are PNG, JPEG, TIFF, DICOM or .npy (`image_files.py`),
scaled by public constants (`image_decode.py`) and decoded once (`decode_cache.py`).
"""

from __future__ import annotations

from dptrain.cohorts.columns import named_columns, records_of
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.file_column import FileOptions, file_sources, shared_file_warning
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.manifest import ManifestOptions, open_manifest, read_manifest
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.options import parse_parts

OPTIONS = (ManifestOptions, FileOptions, ImageSpec, DecodeOptions)
EXPECTED = "the manifest: a .csv, .csv.gz, .tsv or .parquet file with one row per image"


def read_images(data: DataConfig) -> Records:
    """One record per row of the manifest, in its order; the images are decoded by `assemble`."""
    columns, files, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    manifest = open_manifest(data.path, columns, EXPECTED)
    table, warnings = read_manifest(manifest, [*named_columns(columns), *files.columns])
    sources = file_sources(table, files, manifest.folder, data.name)
    features = undecoded_images(sources, spec, decoding)
    warnings += shared_file_warning(sources, table[columns.patient_column].to_numpy())
    return records_of(table, columns, data.name, features, spec.channel_names, warnings=warnings)
