#!/usr/bin/env python3
"""Fails when a kernel source names the machine instead of the vocabulary (kernels/device/vocabulary.h), or grows too long.

Looked at: kernels/**/*.{cu,cuh,h,cpp} except kernels/device and kernels/emu, the two bodies, and kernels/gates, the bad examples. Comments
do not count. Programs that time kernels (bench*.cu) may call the CUDA runtime, but they launch through the same functions as everyone.
  scripts/check_kernels.py --self-test    every rule refuses its own example
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LINES = 500
RULES = {   # what: (pattern, example)
    "inline assembly": (r"\basm\b", 'asm volatile("bar.sync 0;");'),
    "a launch outside device::launch": (r"<<<|cudaLaunchKernel", "kernel<<<1, 32>>>(p);"),
    "shared memory outside device::shared_memory()": (r"\b__shared__\b", "__shared__ float x[32];"),
    "a built-in index": (r"\b(threadIdx|blockIdx|blockDim|gridDim|warpSize)\b", "int i = threadIdx.x;"),
    "a CUDA intrinsic": (r"\b__(syncthreads|syncwarp|shfl\w*|ldg|ldcs|stcs|half2\w+|float2\w+|expf|cvta\w*)\b", "__syncthreads();"),
    "a function qualifier of CUDA": (r"\b__(global|device|forceinline|launch_bounds)__\b", "__global__ void f();"),
    "a float atomic": (r"\b(atomic(Add|CAS|Exch|Max|Min)|red\.global)\b", "atomicAdd(&x, 1.f);"),
    "an allocation or a synchronisation": (r"\bcuda(Malloc\w*|Free\w*|Memcpy\w*|\w*Synchronize)\b", "cudaDeviceSynchronize();"),
    "a read of the environment": (r"\bgetenv\b", 'getenv("X");'),
}
BENCH_MAY = {"an allocation or a synchronisation", "a read of the environment"}


def without_comments(text: str) -> str:
    blank = lambda m: re.sub(r"[^\n]", " ", m[0])
    return re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.S)


def broken_rules(text: str, bench: bool) -> list[tuple[int, str, str]]:
    found = []
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        for what, (pattern, _) in RULES.items():
            if not (bench and what in BENCH_MAY) and (m := re.search(pattern, line)):
                found.append((number, what, m[0]))
    return found


def self_test() -> int:
    silent = [what for what, (_, example) in RULES.items() if what not in [w for _, w, _ in broken_rules(example, False)]]
    silent += [f"comment: {what}" for what, (_, example) in RULES.items() if broken_rules(f"// {example}\n/* {example} */", False)]
    print(f"check_kernels: self-test of {len(RULES)} rules, {len(silent)} wrong" + "".join(f"\n  {w}" for w in silent))
    return 1 if silent else 0


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    files, problems = 0, []
    for path in sorted((ROOT / "kernels").rglob("*")):
        name = path.relative_to(ROOT)
        if path.suffix not in {".cu", ".cuh", ".h", ".cpp"} or name.parts[1] in ("device", "emu", "gates"):
            continue
        files += 1
        text = path.read_text()
        if len(text.splitlines()) > MAX_LINES:
            problems.append(f"{name}: {len(text.splitlines())} lines, at most {MAX_LINES}")
        problems += [f"{name}:{line}: {what} ({word})" for line, what, word in broken_rules(text, path.name.startswith("bench"))]
    for p in problems:
        print(p, file=sys.stderr)
    print(f"check_kernels: {files} files, {len(problems)} violations")
    return 1 if problems else 0


sys.exit(main())
