#!/usr/bin/env python3
"""Fails on any include that the level table of docs/design.md does not allow; prints how many files and includes it looked at.

The table's columns `module`, `may include` and `torch` are the rule. A module may always include itself. Modules without torch may
include no header of LibTorch. Public headers live in include/longlora/<module>, sources and private headers, for the module alone, in
src/<module>; kernels/ is module `kernels`.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def level_table() -> dict[str, tuple[set[str], bool]]:
    """{module: (modules it may include, torch allowed)} from docs/design.md."""
    rows = {}
    for line in (ROOT / "docs/design.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) >= 4 and cells[0].isdigit():
            allowed = set(cells[2].replace(",", " ").split()) - {"-"}
            rows[cells[1].strip("`")] = (allowed, cells[3] == "yes")
    for module, (allowed, _) in rows.items():  # "train and below", "all below"
        if "below" in allowed:
            rows[module] = ({m for m in rows if m != module and m != "apps"}, rows[module][1])
    return rows


def module_of(path: pathlib.Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "include":
        return parts[2]
    return "kernels" if parts[0] == "kernels" else parts[1] if len(parts) > 2 else None


def main() -> int:
    table = level_table()
    if len(table) < 10:
        print("check_layers.py: docs/design.md has no level table", file=sys.stderr)
        return 1
    for module, (allowed, _) in table.items():
        for other in allowed:
            if other not in table:
                print(f"docs/design.md: {module} may include unknown module {other}", file=sys.stderr)
                return 1
    problems, files, includes = [], 0, 0
    sources = [p for d in ("include", "src", "kernels") if (ROOT / d).exists() for p in sorted((ROOT / d).rglob("*"))]
    for path in sources:
        if path.suffix not in {".h", ".cpp", ".cc", ".cu", ".cuh"} or path.name.startswith("torch_pch"):
            continue
        module = module_of(path)
        if module not in table:
            problems.append(f"{path.relative_to(ROOT)}: module '{module}' is not in the level table of docs/design.md")
            continue
        files += 1
        allowed, torch = table[module]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if not match:
                continue
            includes += 1
            target, place = match[1], f"{path.relative_to(ROOT)}:{number}"
            own = re.match(r"longlora/(\w+)/", target)
            other = own[1] if own else target.split("/")[0] if target.split("/")[0] in table and "/" in target else None
            if other and other != module and not own:
                problems.append(f"{place}: {target} is a private header of {other}; other modules include longlora/{other}/")
            if other and other != module and other not in allowed:
                problems.append(f"{place}: {module} may not include {other} (allowed: {' '.join(sorted(allowed)) or 'nothing'})")
            if not torch and re.match(r"(ATen|c10|torch|caffe2)/", target):
                problems.append(f"{place}: {module} may not include LibTorch")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"check_layers: {files} files, {includes} includes, {len(problems)} violations")
    return 1 if problems or files < 50 else 0


sys.exit(main())
