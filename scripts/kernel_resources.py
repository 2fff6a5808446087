#!/usr/bin/env python3
"""The compile gates of the kernels: what each costs on the chip, without a chip.

  scripts/kernel_resources.py               compiles every kernel and compares with kernels/resources.csv
  scripts/kernel_resources.py --update      writes kernels/resources.csv (commit it together with the kernel)
  scripts/kernel_resources.py --self-test   the good fixture of kernels/gates passes, each bad one is refused for its reason
  scripts/kernel_resources.py --kernels DIR another tree's kernels (beside DIR: include/); nothing is compared

Compiled with the pinned nvcc of .deps and the flags of third_party/nvcc_flags.txt: SASS for sm_80 and sm_90a, PTX for compute_100. Rules:
  no spills, no stack; registers within what launch bounds (kThreads x kMinBlocks, beside the kernel) leave; at least one block fits an SM;
  none of the compiler's remarks about serialised wgmma; PTX for the newest architecture is there;
  attention: the number of HMMA is a multiple of one tile's arithmetic; other kernels: 128-bit loads and stores of global memory.
Shared memory given at launch is K::kSharedBytes, evaluated by the host compiler. Exit code 77: nvcc is not installed, nothing was checked.
"""
import argparse
import concurrent.futures
import csv
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".deps/site/nvidia/cu13/bin"
TABLE = ROOT / "kernels/resources.csv"
COLUMNS = ["source", "kernel", "architecture", "registers", "cap", "static_shared", "dynamic_shared", "stack", "spill_stores", "spill_loads", "threads",
           "blocks_per_sm", "mma", "wide_loads", "wide_stores"]
FORMAT = b"1"   # of what `remembered` keeps; another number when disassembled, launch_bounds or constants change
SERIALISED = {"C7504", "C7508", "C7509", "C7510", "C7511", "C7514", "C7515", "C7517", "C7519"}
CHIPS = {"sm_80": (164, 163), "sm_90a": (228, 227)}   # KiB of shared memory: of an SM, of a block
# Kernels that rightly move less than 16 bytes at a time: any alignment, any type, or one number a block. A template argument `false` of a kernel
# without tensor cores says that its rows are not aligned.
NARROW = ("ForwardPlain", "BackwardKvPlain", "BackwardQPlain", "DeltaPlain", "naive::", "MoveRows<unsigned short", "MoveRows<unsigned int", "AddNll",
          "ClipControl", "AddNodes", "AddPartialSums", "DropoutKernel")
READS_ONLY = ("SumOfSquares", "StateLanes", "DeltaSm80", "CrossEntropyForward")   # wide loads, and one number a row or block as the result


class Refused(Exception):
    """The compiler said no."""


def compile_kernels(source: pathlib.Path, kernels: pathlib.Path, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    # The command of third_party/cuda.cmake, in a folder one level below the root and to the same relative name: ccache sees one compilation.
    target = folder / "cuda/kernels" / f"{source.relative_to(kernels)}.o"
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = (ROOT / "third_party/nvcc_flags.txt").read_text().split()
    ccache = [shutil.which("ccache")] if shutil.which("ccache") else []
    command = [*ccache, str(TOOLS / "nvcc"), *flags, f"-I{kernels.parent}/include", f"-I{kernels}", "-MD", "-MF", f"{target}.d",
               "-c", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        raise Refused(f"{source}: nvcc ended with {done.returncode}:\n" + "\n".join(l for l in log.splitlines() if "ptxas info" not in l)[-3000:])
    return target, log


def readable(mangled: list[str]) -> dict[str, str]:
    """Mangled entry name -> the kernel struct with its template arguments, or the function's name."""
    if not mangled:
        return {}
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout.splitlines()
    names = {}
    for name, text in zip(mangled, plain):
        entry = re.search(r"kernel_entry<(.*?)\s?>\((?!anonymous)", text)
        text = entry[1] if entry else re.sub(r"^void |\(.*\)$", "", text)
        names[name] = text.replace(" >", ">")
    return names


def short(name: str) -> str:
    return re.sub(r"longlora::(kernels|device|gates)::|\(anonymous namespace\)::|longlora::", "", name)


def reported(log: str) -> dict[tuple[str, str], dict]:
    """(entry, architecture) -> registers, static shared memory, stack and spills, from the log of -Xptxas -v."""
    rows, at = {}, None
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            at = rows.setdefault((m[1], m[2]), {"registers": 0, "static_shared": 0, "stack": 0, "spill_stores": 0, "spill_loads": 0})
        elif at is not None and (m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            for key, value in zip(("stack", "spill_stores", "spill_loads"), m.groups()):
                at[key] = max(at[key], int(value))
        elif at is not None and (m := re.search(r"Used (\d+) registers", line)):
            at["registers"] = int(m[1])
            if s := re.search(r"(\d+) bytes smem", line):
                at["static_shared"] = int(s[1])
    return rows


def launch_bounds(target: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Entry -> (threads, least blocks an SM), from the PTX inside the object."""
    ptx = subprocess.run([TOOLS / "cuobjdump", "-ptx", target], capture_output=True, text=True, check=True).stdout
    if ".target sm_100" not in ptx:
        raise Refused(f"{target.name}: there is no PTX for compute_100 in the object")
    found = {}
    for m in re.finditer(r"\.entry (\w+)\s*\((.*?)\)\s*((?:\.\w+[ \d,]*\n)*)", ptx, re.S):
        threads, blocks = re.search(r"\.maxntid (\d+)", m[3]), re.search(r"\.minnctapersm (\d+)", m[3])
        found[m[1]] = (int(threads[1]) if threads else 0, int(blocks[1]) if blocks else 1)
    return found


def disassembled(target: pathlib.Path) -> dict[tuple[str, str], dict]:
    sass = subprocess.run([TOOLS / "cuobjdump", "-sass", target], capture_output=True, text=True, check=True).stdout
    counts, architecture, at = {}, "", None
    for line in sass.splitlines():
        if m := re.match(r"arch = (\w+)", line):
            architecture = m[1]
        elif m := re.search(r"Function : (\w+)", line):
            at = counts.setdefault((m[1], architecture), {"mma": 0, "local": 0, "wide_loads": 0, "wide_stores": 0})
        elif at is not None and (m := re.search(r"\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.a-z]*)", line)):
            word = m[1]
            at["mma"] += word.startswith(("HMMA", "HGMMA"))
            at["local"] += word.startswith(("LDL", "STL"))
            at["wide_loads"] += word.startswith(("LDG", "LD.E")) and ".128" in word    # LD.E: the compiler did not see that it is global
            at["wide_stores"] += word.startswith(("STG", "ST.E")) and ".128" in word
    return counts


def constants(source: pathlib.Path, kernels: pathlib.Path, names: list[str], folder: pathlib.Path) -> dict[str, dict[str, int]]:
    """K::kSharedBytes, kRows, kKeys, kHeadSize of every kernel, where it has them: computed by the host compiler through the emulator's body."""
    structs = [n for n in names if "device" in n or "::" in n]
    if not structs:
        return {}
    probe = folder / (re.sub(r"\W", "_", str(source.relative_to(kernels))) + "_probe.cpp")
    lines = [f'#include "{source}"', "template <class K> constexpr long shared_of() {",
             "  if constexpr (requires { K::kSharedBytes; }) return K::kSharedBytes; else return 0; }",
             "template <class K> constexpr long tile_of() {",
             "  if constexpr (requires { K::kRows; K::kKeys; }) return long{K::kRows} * K::kKeys; else return 0; }"]
    for i, name in enumerate(structs):
        struct = name.replace("(anonymous namespace)::", "")
        lines += [f'extern "C" const long probe_shared_{i}, probe_tile_{i};', f"const long probe_shared_{i} = shared_of<{struct}>();",
                  f"const long probe_tile_{i} = tile_of<{struct}>();"]
    probe.write_text("\n".join(lines) + "\n")
    done = subprocess.run(["g++", "-std=c++20", "-O0", "-w", "-DLONGLORA_EMU", f"-I{kernels.parent}/include", f"-I{kernels}", "-S", "-o", "-",
                           "-x", "c++", str(probe)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(f"{source}: the host compiler cannot evaluate K::kSharedBytes:\n{done.stderr[-2000:]}")
    values = {m[1]: int(m[2] or 0) for m in re.finditer(r"^(probe_\w+):\n\s*\.(?:quad\s+(-?\d+)|zero\s+8)", done.stdout, re.M)}
    return {n: {"shared": values[f"probe_shared_{i}"], "tile": values[f"probe_tile_{i}"]} for i, n in enumerate(structs)}


def remembered(target: pathlib.Path, find) -> list[dict]:
    """What `find` returns, from a file named by the object's digest and FORMAT: disassembling costs more than a ccache hit."""
    digest = hashlib.sha256(target.read_bytes() + FORMAT).hexdigest()
    file = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "longlora-gates" / f"{digest}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps([[[k, v] for k, v in found.items()] for found in find()]))
        new.replace(file)
    return [{tuple(k) if isinstance(k, list) else k: v for k, v in found} for found in json.loads(file.read_text())]


def blocks_per_sm(row: dict) -> int:
    of_sm, of_block = CHIPS[row["architecture"]]
    shared = row["static_shared"] + row["dynamic_shared"]
    if shared > of_block * 1024 or row["threads"] == 0:
        return 0
    warps = -(-row["threads"] // 32)
    per_warp = -(-row["registers"] * 32 // 256) * 256
    by_shared = of_sm * 1024 // (shared + 1024)    # the system keeps 1 KiB a block
    return min(32, 2048 // row["threads"], 65536 // (per_warp * warps), by_shared)


def tile_arithmetic(kernel: str, tile: int, threads: int) -> int:
    """HMMA (m16n8k16) a warp issues for one tile: forward 2 products, dK and dV 4, dQ 3. 0: not an attention kernel on tensor cores."""
    products = {"ForwardSm80": 2, "BackwardKvSm80": 4, "BackwardQSm80": 3}.get(kernel.split("<")[0], 0)
    head_size = re.search(r"<\w+, (\d+)", kernel)
    return products * tile * int(head_size[1]) // (16 * 8 * 16 * threads // 32) if products and tile and head_size else 0


def measure(source: pathlib.Path, kernels: pathlib.Path, folder: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Rows of the table of one source, and what is wrong with them."""
    target, log = compile_kernels(source, kernels, folder)
    problems = [f"{source.name}: the compiler serialises wgmma: {line.strip()}" for line in log.splitlines()
                if any(f"({code})" in line for code in SERIALISED)]
    found = reported(log)
    names = readable(sorted({entry for entry, _ in found}))
    if not names:
        return [], problems
    bounds, sass, known = remembered(target, lambda: [
        launch_bounds(target), disassembled(target), constants(source, kernels, list(names.values()), folder)])
    rows = []
    for (entry, architecture), row in found.items():
        threads, least = bounds.get(entry, (0, 1))
        of = known.get(names[entry], {"shared": 0, "tile": 0})
        row |= {"source": str(source.relative_to(kernels)), "kernel": short(names[entry]), "architecture": architecture, "threads": threads, "dynamic_shared": of["shared"]}
        row["cap"] = min(255, 65536 // (max(threads, 1) * least) // 8 * 8)
        row["blocks_per_sm"] = blocks_per_sm(row)
        row |= sass[(entry, architecture)]
        problems += judge(row, tile_arithmetic(row["kernel"], of["tile"], threads))
        rows.append({c: row[c] for c in COLUMNS})
    return rows, problems


def judge(row: dict, one_tile: int) -> list[str]:
    where = f"{row['kernel']} on {row['architecture']}"
    said = []
    if row["spill_stores"] or row["spill_loads"] or row["local"] > 0 and not row["stack"]:
        said.append(f"{where}: spills registers ({row['spill_stores']} bytes stored, {row['spill_loads']} loaded)")
    if row["stack"]:
        said.append(f"{where}: has a stack of {row['stack']} bytes (a local array with a run-time index, or spills)")
    if row["threads"] == 0:
        said.append(f"{where}: has no launch bounds")
    elif row["blocks_per_sm"] == 0:
        said.append(f"{where}: no block fits an SM ({row['static_shared'] + row['dynamic_shared']} bytes of shared memory)")
    if row["registers"] > row["cap"]:
        said.append(f"{where}: {row['registers']} registers, {row['cap']} allowed by its launch bounds")
    if one_tile and (row["mma"] == 0 or row["mma"] % one_tile != 0):
        said.append(f"{where}: {row['mma']} HMMA in the code, not a multiple of the {one_tile} of one tile")
    narrow = row["mma"] > 0 or row["kernel"].startswith(NARROW) or re.search(r"[<,] ?false\b", row["kernel"])
    wide = row["wide_loads"] and (row["wide_stores"] or row["kernel"].startswith(READS_ONLY))
    if not narrow and not wide:
        said.append(f"{where}: moves no 128 bits at a time ({row['wide_loads']} loads, {row['wide_stores']} stores); NARROW lists exceptions")
    return said


def measure_all(sources: list[pathlib.Path], kernels: pathlib.Path, jobs: int) -> tuple[list[dict], list[str]]:
    rows, problems = [], []
    folder = kernels.parent / "build-gates"
    folder.mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(measure, s, kernels, folder) for s in sources]:
            try:
                some, said = future.result()
                rows += some
                problems += said
            except Refused as e:
                problems.append(str(e))
    return sorted(rows, key=key_of), problems


def key_of(row: dict) -> tuple:
    return row["source"], row["kernel"], row["architecture"]   # unnamed namespaces of two sources may hold kernels of one name


def compare(rows: list[dict]) -> list[str]:
    recorded = {key_of(r): r for r in csv.DictReader(TABLE.open())} if TABLE.exists() else {}
    measured = {key_of(r): {c: str(r[c]) for c in COLUMNS} for r in rows}
    said = []
    for key in sorted(recorded.keys() | measured.keys()):
        if key not in recorded or key not in measured:
            said.append(f"kernels/resources.csv: {' '.join(key)} is {'not recorded' if key not in recorded else 'recorded, but gone'}")
        elif changed := [f"{c} {recorded[key].get(c)} -> {measured[key][c]}" for c in COLUMNS if recorded[key].get(c) != measured[key][c]]:
            said.append(f"kernels/resources.csv: {' '.join(key)}: {', '.join(changed)}")
    return said + (["run scripts/kernel_resources.py --update and commit the table with the change"] if said else [])


def self_test(jobs: int) -> int:
    reasons = {"good.cu": "", "bad_spill.cu": "spills registers", "bad_stack.cu": "has a stack", "bad_wgmma.cu": "serialises wgmma"}
    failed = 0
    for name, reason in reasons.items():
        _, problems = measure_all([ROOT / "kernels/gates" / name], ROOT / "kernels", jobs)
        right = any(reason in p for p in problems) if reason else not problems
        failed += not right
        print(f"{name}: {'as expected' if right else 'NOT as expected'}: {problems[0] if problems else 'passes'}")
    return 1 if failed else 0


def main() -> int:
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--update", action="store_true")
    arguments.add_argument("--self-test", action="store_true")
    arguments.add_argument("--kernels", type=pathlib.Path, default=ROOT / "kernels")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = arguments.parse_args()
    missing = [t for t in ("nvcc", "cuobjdump", "nvdisasm") if not (TOOLS / t).exists()]
    if missing:
        print(f"kernel_resources.py: skipped, {', '.join(missing)} not in .deps; run scripts/setup.sh")
        return 77
    kernels = chosen.kernels.resolve()
    os.environ["PATH"] = f"{TOOLS}:{os.environ['PATH']}"   # cuobjdump calls nvdisasm
    os.environ |= {"CCACHE_BASEDIR": str(kernels.parent), "CCACHE_NOHASHDIR": "1",
                   "CCACHE_SLOPPINESS": "pch_defines,time_macros,include_file_mtime,include_file_ctime"}
    if chosen.self_test:
        return self_test(chosen.jobs)
    sources = [s for s in sorted(kernels.glob("*/*.cu")) if s.parent.name not in ("device", "emu", "gates") and not s.name.startswith("bench")]
    rows, problems = measure_all(sources, kernels, chosen.jobs)
    if chosen.update:
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    elif kernels == ROOT / "kernels":
        problems += compare(rows)
    for p in problems:
        print(p, file=sys.stderr)
    print(f"kernel_resources: {len(sources)} sources, {len(rows)} kernels x architectures, {len(problems)} problems")
    return 1 if problems else 0


sys.exit(main())
