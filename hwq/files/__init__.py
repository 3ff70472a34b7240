"""The user's disk: files read with distrust, written whole or not at all."""

from hwq.files.cache import cache_folder
from hwq.files.canonical import canonical, json_digest
from hwq.files.installing import install, recover
from hwq.files.leftovers import dead_folders, fresh_file, fresh_folder, remove_dead, scratch
from hwq.files.locks import InUse, contents, name_lock, run_lock
from hwq.files.parsing import parse_json, parse_toml, read_json, read_toml
from hwq.files.reading import DOCUMENT, SMALL, TENSORS, Missing, digest, open_regular, read_bytes, read_text
from hwq.files.writing import check_file, check_writable, replacing, write_atomically

__all__ = [
    "DOCUMENT",
    "SMALL",
    "TENSORS",
    "InUse",
    "Missing",
    "cache_folder",
    "canonical",
    "check_file",
    "check_writable",
    "contents",
    "dead_folders",
    "digest",
    "fresh_file",
    "fresh_folder",
    "install",
    "json_digest",
    "name_lock",
    "open_regular",
    "parse_json",
    "parse_toml",
    "read_bytes",
    "read_json",
    "read_text",
    "read_toml",
    "recover",
    "remove_dead",
    "replacing",
    "run_lock",
    "scratch",
    "write_atomically",
]
