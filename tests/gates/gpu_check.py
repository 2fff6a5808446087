#!/usr/bin/env python3
"""scripts/gpu_check.sh without a GPU: refusals, and a whole run with made-up programs in place of the real ones."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import gpu_results  # noqa: E402

ROW = '{{"op": "{op}", "shape": "{shape}", "variant": "{variant}", "baseline": {baseline}, "median_us": {us}, "p10_us": 1.0, "p90_us": 9.0, "{unit}": {rate}}}'


def row(op: str, shape: str, unit: str, rate: float, variant: str = "sm80", baseline: str = "false") -> str:
    return "echo '" + ROW.format(op=op, shape=shape, variant=variant, baseline=baseline, us=5.0, unit=unit, rate=rate) + "'"


TEST_REPORT = json.dumps({"testsuites": [{"name": "Attention", "tests": 3, "failures": 0, "time": "0.5s"},
                                         {"name": "RmsNorm", "tests": 2, "failures": 1, "time": "0.1s"}]})
# Plans 1 GiB a layer; measures as much, 5 % more under save_attention; 32 layers do not run beyond 20,000 tokens, where the plan says 20,480.
TRAIN = f"""#!{sys.executable}
import json, os, pathlib, re, sys
if "launch" in sys.argv:
    command = sys.argv[sys.argv.index("--") + 1:]
    os.environ["RANKS"] = "2"
    os.execv(command[0], command)
text = pathlib.Path(sys.argv[sys.argv.index("-c") + 1]).read_text()
layers, device, length, memory = 4, "cuda" if "device: cuda" in text else "cpu", 1024, {{}}
if text.startswith("{{"):
    config = json.loads(text)
    layers = json.loads((pathlib.Path(config["model"]["path"]) / "config.json").read_text())["num_hidden_layers"]
    device, length, memory, folder = config["device"], config["data"]["sequence_length"], config["memory"], pathlib.Path(config["output_dir"])
else:
    folder = pathlib.Path(re.search(r"^output_dir: (.*)$", text, re.M)[1])
planned = layers * 2**30
if "plan" in sys.argv:
    parts = {{"weights": planned, "runtime": 2**30, "total": planned + 2**30}}
    print(json.dumps({{"device_bytes": parts, "host_bytes": {{"total": 0}}, "flops": {{"model": 4, "hardware": 5}},
                      "max_context": 20480 if "--max-context" in sys.argv else None}}))
    sys.exit(0)
if layers == 32 and length > 20000 and memory["policy"] != "auto":
    sys.exit("out of memory on the device")
folder.mkdir()
measured = int(planned * (1.05 if memory.get("policy") == "save_attention" else 1.01))
line = {{"loss": 3.0 if device == "cuda" else 3.0001, "seconds": 0.1 + 0.2 * layers, "memory_peak_bytes": measured, "tensor_peak_bytes": 5, "hash": "7a"}}
(folder / "metrics.jsonl").write_text(4 * (json.dumps(line) + "\\n"))
"""
PROGRAMS = {
    "nvidia-smi": "for i in 1 2; do echo 'Test GPU, 580.1, 9.0, 1980 MHz, 2619 MHz, 700 W, 81559 MiB, 81000 MiB'; done",
    "bench_gpu_baselines": f'if [ "$1" = machine ]; then {row("gemm", "8192x8192x8192", "tflops", 800)}; {row("copy", "4 GiB", "gbs", 3000)}; else '
                           f'{row("s2_attention_forward", "T=8192 g=2048", "tflops", 300, "cuDNN views", "true")}; fi',
    "bench_s2_attention": row("s2_attention_forward", "T=8192 g=2048", "tflops", 400),
    "bench_bandwidth": row("rope", "T=8192", "gbs", 2700),
    "test_kernels_cuda": f"""for a in "$@"; do case $a in --gtest_output=json:*) echo '{TEST_REPORT}' > "${{a#--gtest_output=json:}}" ;; esac; done; exit 1""",
    "nccl_check": "echo '{\"op\": \"nccl_all_gather\", \"shape\": \"'${RANKS:-1}' ranks, 64 MiB\", \"median_us\": 5.0}'",
    "ncu": "echo 'Forward 12 %'",
    "compute-sanitizer": "echo '========= ERROR SUMMARY: 0 errors'",
}


def call(*arguments: str, path: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(ROOT / "scripts/gpu_check.sh"), *arguments], capture_output=True, text=True, env=os.environ | {"PATH": path})


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for kind in ("tools", "prebuilt/bin"):
            (folder / kind).mkdir(parents=True)
        for program, body in PROGRAMS.items():
            target = folder / ("tools" if "-" in program or program == "ncu" else "prebuilt/bin") / program
            target.write_text(f"#!/bin/sh\n{body}\n")
            target.chmod(0o755)
        (folder / "prebuilt/bin/longlora-train").write_text(TRAIN)
        (folder / "prebuilt/bin/longlora-train").chmod(0o755)
        path = f"{folder}/tools:{os.environ['PATH']}"
        done = call("--prebuilt", f"{folder}/prebuilt", "--results", f"{folder}/results", path=path)
        files = {f.stem: json.loads(f.read_text()) for f in (folder / "results/test_gpu").glob("*.json")}
        rows = {(r["op"], r.get("variant", "")): r for f in files.values() for r in f["rows"]}
        page = gpu_results.tables(folder / "results")
        (folder / "tools/nvidia-smi").write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
        without = call(path=path)
        checks = {
            "exit code 1, for the failed test": done.returncode == 1 and "1 tests of RmsNorm" in done.stdout,
            "the schema": files and not [p for f in files.values() for p in gpu_results.problems_of(f)],
            "files": set(files) == {"machine", "s2_attention", "checks", "training", "nccl"},
            "kernels that failed are not timed": "bandwidth" not in files,
            "share of the GEMM rate": rows["s2_attention_forward", "sm80"]["fraction"] == 0.5,
            "a baseline beside it": rows["s2_attention_forward", "cuDNN views"]["baseline"] is True,
            "the rate at the end": files["s2_attention"]["gemm_tflops"] == {"before": 800, "after": 800} and files["machine"]["throttled"] is False,
            "sanitizers": rows["sanitizer", ""]["state"] == "passed",
            "whole steps": abs(rows["training_step", "checkpoint"]["median_us"] / 1e6 - (0.1 + 32 * 0.2)) < 1e-6,
            "planned beside measured": rows["training_step", "checkpoint"]["plan_error"] == -0.0099 and
                                       "planned 4.00 GiB, measured 4.20 GiB: -4.8 %, allowed 3 %" in done.stdout,
            "shares of the data sheet or the measured rate": abs(rows["training_step", "checkpoint"]["mfu"] -
                                                                 rows["training_step", "checkpoint"]["tflops"] / 800) < 1e-6,
            "streaming and offload": ("training_step", "checkpoint_offload+streamed") in rows,
            "the whole model": rows["training_step", "auto"]["shape"].endswith("32 layers") and
                               abs(rows["training_step", "auto"]["hfu"] / rows["training_step", "auto"]["mfu"] - 1.25) < 1e-6,
            "the longest context, one step down": [rows["largest_context", v][k] for v in ("checkpoint", "checkpoint_offload")
                                                   for k in ("planned_tokens", "tokens")] == 2 * [20480, 19456] and
                                                  rows["largest_context", "checkpoint"]["attempts"][0]["failed"] == "out of memory on the device",
            "the loss curve": rows["loss_curve", ""]["largest_relative_difference"] < 1e-4,
            "two ranks where there are two GPUs": {"1 ranks, 64 MiB", "2 ranks, 64 MiB", "quickstart model, 1 and 2 ranks"} ==
                                                  {r["shape"] for r in files["nccl"]["rows"]} and rows["hash_chain", ""].get("failed") is None,
            "the profile": "Forward 12 %" in (folder / "results/test_gpu/profile.txt").read_text(),
            "the table": "| s2_attention_forward | T=8192 g=2048 | cuDNN views | 0.005 |" in page,
            "no GPU": without.returncode == 69 and "there is no GPU here" in without.stderr,
            "an unknown stage": call("--only", "kernel", path=path).returncode == 64,
            "no programs": call("--prebuilt", f"{folder}/results", path=f"{folder}/tools:{os.environ['PATH']}").returncode == 69,
            "what would run": "would run facts" in call("--dry-run", path=path).stdout,
        }
        wrong = [what for what, right in checks.items() if not right]
        for what in wrong:
            print(f"gpu_check test failed: {what}", file=sys.stderr)
        if wrong:
            print(done.stdout[-3000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
        print(f"gpu_check: {len(checks)} checks, {len(wrong)} wrong")
        return 1 if wrong else 0


sys.exit(main())
