#!/usr/bin/env python3
"""Writes the six novels of the R package janeaustenr as UTF-8 text files: extract_novels.py RDATA.RDB OUT_DIR

Rdata.rdb is a sequence of records: u32 big-endian length of the data, then a zlib stream. Each record here is one XDR-serialised
character vector, one string a line of the book. Python's standard library only.
"""
import pathlib
import struct
import sys
import zlib

STRSXP, CHARSXP = 16, 9


def read_string_vector(data: bytes) -> list[str]:
    """The strings of one XDR-serialised R character vector."""
    at = 14  # "X\n", then format version, writer and minimum reader version
    if struct.unpack_from(">i", data, 2)[0] == 3:
        at += 4 + struct.unpack_from(">i", data, at)[0]  # native encoding name
    flags, count = struct.unpack_from(">ii", data, at)
    if flags & 0xFF != STRSXP:
        raise ValueError(f"expected a character vector, found R type {flags & 0xFF}")
    at += 8
    strings = []
    for _ in range(count):
        kind, length = struct.unpack_from(">ii", data, at)
        if kind & 0xFF != CHARSXP:
            raise ValueError(f"expected a string, found R type {kind & 0xFF}")
        at += 8
        strings.append(data[at:at + max(length, 0)].decode("utf-8"))
        at += max(length, 0)
    return strings


def main() -> None:
    rdb, out = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
    titles = {"EMMA": "emma", "MANSFIELD PARK": "mansfield_park", "NORTHANGER ABBEY": "northanger_abbey", "PERSUASION": "persuasion",
              "PRIDE AND PREJUDICE": "pride_and_prejudice", "SENSE AND SENSIBILITY": "sense_and_sensibility"}
    found = {}
    for start in (i for i in range(len(rdb) - 6) if rdb[i + 4] == 0x78 and rdb[i + 5] in (0x01, 0x5E, 0x9C, 0xDA)):
        try:
            data = zlib.decompressobj().decompress(rdb[start + 4:])
        except zlib.error:
            continue
        if len(data) != struct.unpack_from(">I", rdb, start)[0] or data[:2] != b"X\n":
            continue
        try:
            lines = read_string_vector(data)
        except (ValueError, struct.error):
            continue
        name = next((titles[t] for t in titles if lines and lines[0].strip().upper().startswith(t)), None)
        if name:
            found[name] = "\n".join(lines)
    missing = set(titles.values()) - set(found)
    if missing:
        raise SystemExit(f"extract_novels.py: {sys.argv[1]}: novels not found: {', '.join(sorted(missing))}")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        (out / f"{name}.txt").write_bytes(text.encode("utf-8"))


main()
