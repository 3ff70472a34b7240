"""The user's disk: files read with distrust, written whole or not at all."""

from hwq.files.cache import cache_folder
from hwq.files.canonical import canonical, json_digest
from hwq.files.parsing import parse_json, parse_toml, read_json, read_toml
from hwq.files.reading import DOCUMENT, SMALL, TENSORS, Missing, digest, open_regular, read_bytes, read_text
from hwq.files.writing import check_file, check_writable, replacing, write_atomically

__all__ = [
    "DOCUMENT",
    "SMALL",
    "TENSORS",
    "Missing",
    "cache_folder",
    "canonical",
    "check_file",
    "check_writable",
    "digest",
    "json_digest",
    "open_regular",
    "parse_json",
    "parse_toml",
    "read_bytes",
    "read_json",
    "read_text",
    "read_toml",
    "replacing",
    "write_atomically",
]
