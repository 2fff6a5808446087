#!/usr/bin/env python3
"""Proves and times the GPU path on the GPU of this machine; results go to docs/benchmarks/<device>/, a row at a time.

  scripts/gpu_check.sh                     everything, within 9 minutes; builds the preset cuda first when it is not built
  scripts/gpu_check.sh --only STAGE,...    some stages, by the names in the first column of docs/gpu.md
  scripts/gpu_check.sh --prebuilt DIR      programs made elsewhere by --collect; LibTorch is then the one of python3's torch 2.11.0
  scripts/gpu_check.sh --collect DIR       copies this build's programs, and the small libraries they need, to DIR; needs no GPU
  scripts/gpu_check.sh --dry-run           prints what would run; needs no GPU
  Also --budget MINUTES, --quick (small shapes), --results DIR (instead of docs/benchmarks).

Stages, in this order: facts of the device; GEMM and copy rate of this very run (again at the end: more than 5 % apart is marked as throttled);
compute-sanitizer memcheck and racecheck on the smallest tests; the kernel tests on the device, against fp64; kernels; LibTorch's own attention;
whole training steps of a 7B shape, planned bytes beside measured ones; the whole 7B model, and the longest context that its plan allows on this
card; a short run on GPU and CPU to one loss curve; NCCL with one rank; a profile of the attention kernels as text (ncu). What failed its tests
is not timed.
Exit codes: 0 all passed, 1 something failed, 64 usage, 66 no programs, 69 there is no GPU.
"""
import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_results  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = ["facts", "machine", "sanitizer", "correctness", "kernels", "baselines", "steps", "context", "curve", "nccl", "profile"]
PROGRAMS = ["longlora-train", "test_kernels_cuda", "bench_s2_attention", "bench_bandwidth", "bench_gpu_baselines", "nccl_check"]
DISTRIBUTION = re.compile(r"lib(spdlog|fmt|yaml-0|pcre2-8)\.so")   # what a bare machine lacks beside LibTorch
SHARE = {"sanitizer": 0.2, "correctness": 0.2, "kernels": 0.5, "baselines": 0.5, "steps": 0.6, "context": 0.7, "curve": 0.8, "nccl": 0.5, "profile": 1.0}   # of the time left


# Dense bf16 TFLOP/s of data sheets, the base of MFU and HFU; where a name is not here, the product measured in this run is.
PEAK_TFLOPS = {"H100 80GB HBM3": 989.4, "H100 SXM": 989.4, "H100 NVL": 835, "H100 PCIe": 756, "H200": 989.4, "A100": 312}


class Stop(Exception):
    def __init__(self, sentence: str, code: int):
        super().__init__(sentence)
        self.code = code


def git_commit() -> str:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def device_facts(prebuilt: pathlib.Path | None) -> dict:
    if shutil.which("nvidia-smi") is None:
        raise Stop("there is no GPU here (nvidia-smi is not installed); nothing was measured", 69)
    fields = "name,driver_version,compute_cap,clocks.max.sm,clocks.max.mem,power.limit,memory.total,memory.free"
    asked = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True)
    if asked.returncode != 0 or not asked.stdout.strip():
        raise Stop(f"there is no GPU here (nvidia-smi: {(asked.stdout + asked.stderr).strip()[:200]}); nothing was measured", 69)
    name, driver, capability, sm, memory_clock, power, total, free = [f.strip() for f in asked.stdout.splitlines()[0].split(",")]
    noted = prebuilt / "commit" if prebuilt else None
    commit = noted.read_text().strip() if noted and noted.exists() else git_commit()
    return {"device": name, "driver": driver, "compute_capability": capability, "clocks": f"SM {sm}, memory {memory_clock}", "power_limit": power,
            "memory": f"{total}, {free} free", "commit": commit, "date": datetime.date.today().isoformat()}


class Check:
    def __init__(self, chosen: argparse.Namespace):
        self.chosen, self.failed, self.untimed = chosen, [], set()
        self.end = time.monotonic() + 60 * chosen.budget
        self.programs = (chosen.prebuilt or ROOT / "build-cuda") / "bin"
        self.environment = dict(os.environ)
        if chosen.prebuilt:
            self.environment["LD_LIBRARY_PATH"] = ":".join([*library_folders(chosen.prebuilt), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        self.header = {}

    def left(self, stage: str) -> float:
        return max(20.0, (self.end - time.monotonic()) * SHARE.get(stage, 1.0))

    def results(self, name: str) -> gpu_results.Results:
        slug = re.sub(r"[^a-z0-9]+", "_", self.header["device"].lower()).strip("_")
        return gpu_results.Results(self.chosen.results / slug / f"{name}.json", self.header)

    def fail(self, sentence: str) -> None:
        print(f"gpu_check: FAILED: {sentence}", flush=True)
        self.failed.append(sentence)

    def rows_of(self, command: list[str], name: str, stage: str) -> list[dict]:
        """Runs a program that prints a row a line; each is kept at once."""
        results, rows = self.results(name), []
        print(f"gpu_check: {' '.join(map(str, command))}", flush=True)
        limit = time.monotonic() + self.left(stage)
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(["timeout", str(int(self.left(stage)) + 1), *map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True,
                                       env=self.environment)
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                row = json.loads(line)
                rows.append(row)
                results.add(row)
                rate = next((f"{row[k]:.0f} {k}" for k in ("tokens_per_second", "tflops", "gbs") if k in row), row.get("failed", ""))
                print(f"  {row['op']:28} {row['shape']:40} {row.get('variant', ''):34} {row.get('median_us', 0) / 1e3:10.3f} ms  {rate}", flush=True)
                if "plan_off" in row:
                    self.fail(f"{row['op']} {row['shape']} {row.get('variant', '')}: {row['plan_off']}")
                if "failed" in row and not row.get("baseline"):
                    self.fail(f"{row['op']} {row['shape']}: {row['failed']}")
            code = process.wait()
            errors.seek(0)
            said = errors.read().strip()[-500:]
        if code == 124 or time.monotonic() > limit:
            print(f"gpu_check: {stage}: stopped at its share of the time; the rows above are kept", flush=True)
        elif code != 0 and not any("failed" in r or "plan_off" in r for r in rows):
            self.fail(f"{pathlib.Path(command[0]).name} ended with {code}: {said}")
        return rows

    def facts(self) -> None:
        for key, value in self.header.items():
            print(f"  {key:20} {value}")

    def machine(self) -> None:
        rows = {r["op"]: r for r in self.rows_of([self.programs / "bench_gpu_baselines", "machine"], "machine", "machine") if "median_us" in r}
        before = self.header.get("gemm_tflops", {}).get("before")
        if "gemm" in rows and before is None:
            self.header["gemm_tflops"] = {"before": rows["gemm"]["tflops"], "after": None}
        elif "gemm" in rows:
            self.header["gemm_tflops"]["after"] = rows["gemm"]["tflops"]
            self.header["throttled"] = abs(rows["gemm"]["tflops"] / before - 1) > gpu_results.THROTTLED
        if "copy" in rows and "copy_gbs" not in self.header:
            self.header["copy_gbs"] = rows["copy"]["gbs"]

    def finish(self) -> None:
        """The rate of the machine once more, into every file of this run."""
        self.machine()
        for name in ("machine", "s2_attention", "bandwidth", "training", "nccl", "checks"):
            results = self.results(name)
            if results.rows:
                results.write()

    def sanitizer(self) -> None:
        tool = shutil.which("compute-sanitizer") or ROOT / ".deps/site/nvidia/cu13/bin/compute-sanitizer"
        if not pathlib.Path(tool).exists():
            return print("gpu_check: sanitizer skipped: compute-sanitizer is not installed (scripts/setup.sh --cuda)")
        for kind in ("memcheck", "racecheck"):
            command = ["timeout", str(int(self.left("sanitizer"))), tool, "--tool", kind, "--error-exitcode", "9", self.programs / "test_kernels_cuda",
                       "--gtest_brief=1"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=self.environment | {"LONGLORA_SWEEP": "sample"})
            said = done.stdout + done.stderr
            summary = (re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", said) or said.strip().splitlines()[-1:] or [""])[-1][:200]
            state = "passed" if done.returncode == 0 else "ran out of time" if done.returncode == 124 else "failed"
            print(f"  {kind}: {state}: {summary}", flush=True)
            self.results("checks").add({"op": "sanitizer", "shape": kind, "median_us": 1, "state": state, "summary": summary} if state == "passed"
                                       else {"op": "sanitizer", "shape": kind, "failed": f"{state}: {summary}"})
            if state == "failed" and "not supported" not in said:   # some virtual machines refuse the tool
                self.fail(f"compute-sanitizer {kind}: {summary}")

    def correctness(self) -> None:
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            done = subprocess.run(["timeout", str(int(self.left("correctness"))), str(self.programs / "test_kernels_cuda"), "--gtest_brief=1",
                                   f"--gtest_output=json:{report.name}"], capture_output=True, text=True, env=self.environment | {"LONGLORA_SWEEP": "ci"})
            text = pathlib.Path(report.name).read_text()
        suites = json.loads(text)["testsuites"] if text else []
        if not suites:
            self.fail(f"test_kernels_cuda ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}")
            self.untimed |= {"attention", "bandwidth"}
        for suite in suites:
            bad = suite["failures"] + suite.get("errors", 0)
            seconds = float(suite["time"].rstrip("s"))
            row = {"op": "tests", "shape": suite["name"], "tests": suite["tests"], "median_us": max(1.0, 1e6 * seconds)}
            self.results("checks").add(row if not bad else {"op": "tests", "shape": suite["name"], "failed": f"{bad} of {suite['tests']} tests"})
            print(f"  {suite['name']:40} {suite['tests'] - bad} passed, {bad} failed", flush=True)
            if bad:
                self.fail(f"{bad} tests of {suite['name']} on the device")
                self.untimed.add("attention" if "attention" in suite["name"].lower() else "bandwidth")

    def kernels(self) -> None:
        quick = ["--quick"] if self.chosen.quick else []
        for program, name in (("bench_s2_attention", "attention"), ("bench_bandwidth", "bandwidth")):
            if name in self.untimed:
                print(f"gpu_check: {program} left out: its kernels failed their tests")
            else:
                self.rows_of([self.programs / program, *quick], "s2_attention" if name == "attention" else name, "kernels")

    def baselines(self) -> None:
        if "attention" not in self.untimed:
            self.rows_of([self.programs / "bench_gpu_baselines", "attention", *(["--quick"] if self.chosen.quick else [])], "s2_attention", "baselines")

    def bench_step(self, stage: str, *arguments: object) -> None:
        gibibytes = float(re.search(r"([\d.]+) MiB free", self.header["memory"])[1]) / 1024 - 1   # one is left to the driver, as in the program
        peak = next((v for k, v in PEAK_TFLOPS.items() if k in self.header["device"]), (self.header.get("gemm_tflops") or {}).get("before", 0))
        self.rows_of([sys.executable, ROOT / "scripts/bench_step.py", "--program", self.programs / "longlora-train", "--device-memory",
                      f"{gibibytes:.2f}", "--peak-tflops", peak, "--seconds", int(self.left(stage)), *arguments], "training", stage)

    def steps(self) -> None:
        lengths = "8192" if self.chosen.quick else "8192,32768,65536,102400"
        policies = "checkpoint,save_attention,checkpoint_offload,checkpoint+streamed,checkpoint_offload+streamed"
        self.bench_step("steps", "--lengths", lengths, "--policies", policies)

    def context(self) -> None:
        """The whole model at last, every layer of it: what the few layers of `steps` promise, then as long a step as fits."""
        self.bench_step("context", "--lengths", "8192" if self.chosen.quick else "102400", "--policies", "auto", "--layers", "whole")
        if not self.chosen.quick:
            self.bench_step("context", "--largest-context", "--policies", "checkpoint,checkpoint_offload")

    def curve(self) -> None:
        losses = {}
        with tempfile.TemporaryDirectory() as folder:
            for device in ("cuda", "cpu"):
                config = pathlib.Path(folder) / f"{device}.yaml"
                config.write_text(curve_config(device, folder))
                done = subprocess.run(["timeout", str(int(self.left("curve"))), str(self.programs / "longlora-train"), "-q", "train", "-c", str(config)],
                                      capture_output=True, text=True, env=self.environment)
                metrics = pathlib.Path(folder) / device / "metrics.jsonl"
                if done.returncode != 0 or not metrics.exists():
                    return self.fail(f"training on {device} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
                losses[device] = [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]
        apart = max(abs(a - b) / b for a, b in zip(losses["cuda"], losses["cpu"]))
        print(f"  losses on the GPU {losses['cuda'][0]:.4f} ... {losses['cuda'][-1]:.4f}, on the CPU {losses['cpu'][-1]:.4f}, at most {apart:.1e} apart")
        row = {"op": "loss_curve", "shape": f"quickstart model, {len(losses['cuda'])} steps, fp32", "largest_relative_difference": apart, **losses}
        self.results("checks").add(row | ({"median_us": 1} if apart < 1e-3 else {"failed": f"losses differ by {apart:.1e}, allowed 1e-3"}))
        if apart >= 1e-3:
            self.fail(f"losses on GPU and CPU differ by {apart:.1e}")

    def nccl(self) -> None:
        """One rank through the transport's code; two, each on its own card, where there are two: first bytes, then a training run."""
        self.rows_of([self.programs / "nccl_check"], "nccl", "nccl")
        listed = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True).stdout
        if len(listed.splitlines()) < 2:
            return print("  one GPU: two ranks are not tried")
        two = [self.programs / "longlora-train", "launch", "--nproc-per-node", "2", "--max-restarts", "0", "--"]
        self.rows_of([*two, self.programs / "nccl_check"], "nccl", "nccl")
        hashes = {}
        for ranks, start in ((1, [self.programs / "longlora-train"]), (2, [*two, self.programs / "longlora-train"])):
            with tempfile.TemporaryDirectory() as folder:
                config = pathlib.Path(folder) / "run.yaml"
                config.write_text(curve_config("cuda", folder, rows=2))
                line = ["timeout", str(int(self.left("nccl"))), *map(str, start), "-q", "train", "-c", str(config), "--threads", "1"]
                done = subprocess.run(line, capture_output=True, text=True, env=self.environment)
                metrics = pathlib.Path(folder) / "cuda" / "metrics.jsonl"
                if done.returncode != 0 or not metrics.exists():
                    return self.fail(f"{ranks} ranks ended with {done.returncode}: {done.stderr.strip()[-300:]}")
                hashes[ranks] = json.loads(metrics.read_text().splitlines()[-1])["hash"]
        same = hashes[1] == hashes[2]
        self.results("nccl").add({"op": "hash_chain", "shape": "quickstart model, 1 and 2 ranks"} |
                                 ({"median_us": 1} if same else {"failed": "two ranks have other bits than one"}))
        if not same:
            self.fail("two ranks have other bits than one")

    def profile(self) -> None:
        if shutil.which("ncu") is None:
            return print("gpu_check: profile skipped: ncu is not installed")
        command = ["timeout", str(int(self.left("profile"))), "ncu", "--clock-control", "none", "--kernel-name-base", "demangled", "--kernel-name",
                   "regex:(Forward|Backward).*Sm", "--launch-skip", "12", "--launch-count", "4", str(self.programs / "bench_s2_attention"), "--quick"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        target = self.results("checks").path.with_name("profile.txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{self.header['commit']}\n{' '.join(command[2:])}\n{done.stdout[-60000:]}{done.stderr[-2000:]}")
        print(f"  {target}: ncu ended with {done.returncode}")


def curve_config(device: str, folder: str, rows: int = 1) -> str:
    """The small model on this project's own documents: they are there wherever the script is."""
    return f"""
model: {{path: {ROOT}/models/quickstart}}
rope: {{scaling: linear}}
attention: {{kind: s2, group_size: 256}}
tuning: {{mode: lora, lora: {{rank: 8, alpha: 16}}}}
data:
  train: [{{path: {ROOT}/docs/design.md, format: text}}, {{path: {ROOT}/docs/attention.md, format: text}}]
  sequence_length: 1024
train: {{steps: 10, global_batch: {rows}}}
optimizer: {{learning_rate: 1e-3}}
precision: {{compute: fp32}}
checkpoint: {{every: 1000000}}
log: {{tensorboard: false}}
device: {device}
output_dir: {folder}/{device}
"""


def library_folders(prebuilt: pathlib.Path) -> list[str]:
    """The collected libraries, then LibTorch and CUDA of python3's torch, without importing it."""
    folders = [str(prebuilt / "lib")]
    site = ROOT / ".deps/site"
    spec = None if (site / "torch").exists() else importlib.util.find_spec("torch")
    if spec and spec.submodule_search_locations:
        site = pathlib.Path(spec.submodule_search_locations[0]).parent
    return folders + [str(site / "torch/lib"), *map(str, sorted(site.glob("nvidia/*/lib")))]


def collect(target: pathlib.Path) -> int:
    built = ROOT / "build-cuda/bin"
    missing = [p for p in PROGRAMS if not (built / p).exists()]
    if missing:
        raise Stop(f"{', '.join(missing)} not in build-cuda/bin; run scripts/build.sh cuda first", 66)
    (target / "bin").mkdir(parents=True, exist_ok=True)
    (target / "lib").mkdir(exist_ok=True)
    for program in PROGRAMS:
        shutil.copy2(built / program, target / "bin")
        subprocess.run(["strip", "--strip-debug", str(target / "bin" / program)], check=True)
        for name, path in re.findall(r"(\S+) => (\S+)", subprocess.run(["ldd", str(built / program)], capture_output=True, text=True).stdout):
            if DISTRIBUTION.match(name):
                shutil.copy2(path, target / "lib" / name)
    (target / "commit").write_text(git_commit())
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"gpu_check: {len(PROGRAMS)} programs in {target}, {size / 2**20:.1f} MiB; on the other machine: scripts/gpu_check.sh --prebuilt {target}")
    return 0


def require_programs(chosen: argparse.Namespace) -> None:
    folder = (chosen.prebuilt or ROOT / "build-cuda") / "bin"
    if not chosen.prebuilt and not all((folder / p).exists() for p in PROGRAMS):
        if subprocess.run([str(ROOT / "scripts/build.sh"), "cuda"]).returncode != 0:
            raise Stop("the preset cuda does not build (scripts/setup.sh --cuda comes first)", 66)
    missing = [p for p in PROGRAMS if not (folder / p).exists()]
    if missing:
        raise Stop(f"{', '.join(missing)} not in {folder}", 66)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STAGES), metavar="STAGE,...")
    parser.add_argument("--prebuilt", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--collect", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--results", type=pathlib.Path, default=gpu_results.FOLDER, metavar="DIR")
    parser.add_argument("--budget", type=float, default=9, metavar="MINUTES")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    chosen = parser.parse_args()
    chosen.stages = [s for s in STAGES if s in chosen.only.split(",")]
    unknown = set(chosen.only.split(",")) - set(STAGES)
    if unknown:
        raise Stop(f"unknown stage '{unknown.pop()}'; stages are {' '.join(STAGES)}", 64)
    if chosen.budget <= 0:
        raise Stop("--budget wants minutes above 0", 64)
    return chosen


def run() -> int:
    chosen = arguments()
    if chosen.collect:
        return collect(chosen.collect)
    if chosen.dry_run:
        print(f"gpu_check: would run {' '.join(chosen.stages)} within {chosen.budget:g} minutes, results to {chosen.results}/<device>")
        return 0
    header = device_facts(chosen.prebuilt)
    require_programs(chosen)
    check = Check(chosen)
    check.header = header
    for stage in chosen.stages:
        if time.monotonic() > check.end:
            print(f"gpu_check: {stage} left out: the time is over")
            continue
        print(f"gpu_check: {stage}", flush=True)
        getattr(check, stage)()
    if "machine" in chosen.stages and len(chosen.stages) > 2:
        check.finish()
    if chosen.results == gpu_results.FOLDER:
        (gpu_results.FOLDER / "README.md").write_text(gpu_results.tables(gpu_results.FOLDER))
    print(f"gpu_check: {len(chosen.stages)} stages, {len(check.failed)} failures" + "".join(f"\n  {f}" for f in check.failed))
    return 1 if check.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(run())
    except Stop as stop:
        print(f"gpu_check.py: {stop}", file=sys.stderr)
        sys.exit(stop.code)
