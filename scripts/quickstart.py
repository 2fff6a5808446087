#!/usr/bin/env python3
"""The main job on the shipped default or on SmolLM2-135M: measure, extend, export, measure again, report (called by quickstart.sh).

Every number comes from the program's own `eval perplexity --json`; results are kept in OUT/evaluation.json and reused when the
question (model, contexts, settings) is the same, so that a second run only prints. Python's standard library only.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/bin/longlora-train"
TEXTS = ROOT / ".deps/texts"


def say(title: str) -> None:
    print(f"\n\033[1m== {title}\033[0m", flush=True)


def run(*arguments: object) -> None:
    result = subprocess.run([str(PROGRAM), *map(str, arguments)])
    if result.returncode != 0:
        sys.exit(result.returncode)


def evaluate(model: pathlib.Path, contexts: list[int], tokens: int, rope_factor: float | None) -> list[dict]:
    """Windows side by side (one token overlaps: it is the last target and then the first input)."""
    command = [str(PROGRAM), "-q", "eval", "perplexity", "--model", str(model), "--data", str(TEXTS / "emma.txt"), "--context",
               ",".join(map(str, contexts)), "--stride", ",".join(str(c - 1) for c in contexts), "--max-tokens", str(tokens), "--json"]
    if rope_factor is not None:
        command += ["--rope-factor", str(rope_factor)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(result.returncode)
    return json.loads(result.stdout)["contexts"]


def perplexity(label: str, cache: pathlib.Path, model: pathlib.Path, contexts: list[int], tokens: int, rope_factor: float | None) -> dict:
    """One row of the table: {label, contexts: [{context, perplexity, ...}]}."""
    rows = json.loads(cache.read_text()) if cache.exists() else []
    weights = model / "model.safetensors"
    key = [str(model), contexts, tokens, rope_factor, weights.stat().st_mtime_ns if weights.exists() else 0]
    for row in rows:
        if row["label"] == label and row["key"] == key:
            return row
    print(f"  {label} ...", end="", flush=True)
    start = time.monotonic()
    row = {"label": label, "key": key, "contexts": evaluate(model, contexts, tokens, rope_factor)}
    print(f" {time.monotonic() - start:.0f} s", flush=True)
    cache.write_text(json.dumps([r for r in rows if r["label"] != label] + [row], indent=1))
    return row


def table(rows: list[dict], contexts: list[int]) -> str:
    lines = ["perplexity on Emma, windows side by side".ljust(44) + "".join(f"{c:>9}" for c in contexts)]
    for row in rows:
        values = {c["context"]: c["perplexity"] for c in row["contexts"]}
        lines.append(f"  {row['label']:<42}" + "".join(f"{values[c]:9.2f}" if c in values else " " * 9 for c in contexts))
    return "\n".join(lines)


def save_picture(report: pathlib.Path, picture: pathlib.Path) -> None:
    """The perplexity curves of a report as a file of their own."""
    html = report.read_text()
    curves = [svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "Perplexity by context" in svg]
    if not curves:
        sys.exit(f"quickstart.py: {report} has no perplexity curves; remove it and run this again")
    style = "<style>svg{background:#fff}" + "".join(re.findall(r"\.(?:grid|tick|title)\{[^}]*\}", html)) + "</style>"
    opening = curves[0].index(">") + 1
    head = curves[0][:opening].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    picture.write_text(head + style + curves[0][opening:] + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["quickstart", "smollm2"], default="quickstart")
    parser.add_argument("--picture", type=pathlib.Path, help="also write the perplexity curves as an SVG file")
    arguments = parser.parse_args()
    name = arguments.model
    out = ROOT / "out" / name
    out.mkdir(parents=True, exist_ok=True)
    cache = out / "evaluation.json"
    if name == "quickstart":
        base, config, factor = ROOT / "models/quickstart", ROOT / "configs/quickstart.yaml", 8
        contexts, tokens, native = [512, 1024, 2048, 4096], 32768, 512
    else:
        base, config, factor = out / "base", ROOT / "configs/smollm2_quickstart.yaml", 2
        contexts, tokens, native = [8192, 16384], 16384, 8192
        if not (base / "config.json").exists():
            say("import: GGUF to a Hugging Face folder")
            run("import", "--from", ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf", "--to", base)
    start = time.monotonic()
    say(f"3/6 the base model before: context {native}")
    before = perplexity("base, no extension", cache, base, contexts, tokens, None)
    interpolated = perplexity(f"base, position interpolation {factor}x, untrained", cache, base, contexts, tokens, factor)
    say(f"4/6 extend {factor}x with LongLoRA")
    run("train", "-c", config, "--set", f"output_dir={out}/run", "--resume", "auto")
    say("5/6 export a merged Hugging Face folder")
    merged = out / "extended"
    if not (merged / "config.json").exists():
        run("export", "--run", out / "run", "--to", merged, "--format", "merged")
    say("6/6 the extended model")
    after = perplexity(f"extended {factor}x by LongLoRA", cache, merged, contexts, tokens, None)
    (out / "run" / "evaluation.json").write_text(cache.read_text())
    run("-q", "report", out / "run")
    if arguments.picture:
        save_picture(out / "run" / "report.html", arguments.picture)
    print("\n" + table([before, interpolated, after], contexts))
    values = {c["context"]: c["perplexity"] for c in after["contexts"]}
    first = next(c["perplexity"] for c in before["contexts"] if c["context"] == native)
    last = contexts[-1]
    print(f"\nat {last:,} tokens the extended model is at {values[last]:.2f}, the base at {native:,} tokens was at {first:.2f} "
          f"({100 * (values[last] / first - 1):+.1f} %)")
    print(f"model   {merged.relative_to(ROOT)}  (transformers: AutoModelForCausalLM.from_pretrained)")
    print(f"report  {(out / 'run' / 'report.html').relative_to(ROOT)}")
    print(f"took {time.monotonic() - start:.0f} s without set-up and build")


main()
