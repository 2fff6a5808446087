"""What the benchmark programs share: shapes and their FLOPs, runs of the program and of the peer, memory as the kernel counts it.

FLOPs are those of docs/memory.md section 5: multiply and add are two, attention by its exact causal pairs, LoRA rank 8 on q, k, v, o.
Python's standard library only; the peer and the product rate run in .deps/venv.
"""
import array
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # an exception: what is being measured ends as well

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/bin/longlora-train"
PYTHON = ROOT / ".deps/venv/bin/python"
SMOLLM2_GGUF = ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
GIB = 2**30
RANK, ROW_TILE = 8, 4096
REFUSALS = {64, 65, 66, 71, 78}   # exit codes before anything is computed: docs of `longlora-train --help`
PLAN_BOUND = 0.03                 # |planned - measured| / measured: what a plan promises


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    layers: int
    tied: bool = False

    def __str__(self) -> str:
        return f"{self.layers} layer{'s' * (self.layers > 1)} of {self.hidden} x {self.mlp}, {self.heads}/{self.kv_heads} heads of {self.head_size}, vocabulary {self.vocabulary}"


SHAPES = {
    "7b": Shape(4096, 11008, 32, 32, 128, 32000, 32),
    "smollm2": Shape(576, 1536, 9, 3, 64, 49152, 30, tied=True),
    "tiny": Shape(128, 352, 4, 2, 32, 512, 8),
}


def pairs(length: int, first: int, step: int) -> int:
    """Causal pairs of a head whose segments begin at 0, first, first + step, ..."""
    cuts = [0, *range(first, length, step), length]
    return sum((b - a) * (b - a + 1) // 2 for a, b in zip(cuts, cuts[1:]))


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Of one sequence."""
    model: float
    hardware: float


def step_flops(shape: Shape, length: int, attention: str, policy: str) -> StepFlops:
    group, kv = length // 4, shape.kv_heads * shape.head_size
    plain = shape.heads // 2
    seen = (shape.heads * (length * (length + 1) // 2) if attention == "full"
            else plain * pairs(length, group, group) + (shape.heads - plain) * pairs(length, group // 2, group))
    forward_attention = 4.0 * shape.head_size * shape.layers * seen
    frozen = shape.layers * (2 * shape.hidden * shape.heads * shape.head_size + 2 * shape.hidden * kv + 3 * shape.hidden * shape.mlp)
    lora = RANK * shape.layers * (6 * shape.hidden + 2 * kv)
    head = (6 if shape.tied else 4) * shape.vocabulary * shape.hidden
    model = length * (4 * frozen + head + 6 * lora) + 3.5 * forward_attention
    products = length * 2 * (frozen - shape.layers * shape.hidden * shape.mlp)   # the down projection is never run again
    again = {"save_all": 0.0, "save_attention": products}.get(policy, products + forward_attention)
    return StepFlops(model, model + again)


def write_model(folder: pathlib.Path, shape: Shape) -> pathlib.Path:
    """A config.json is all that a random start needs."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_size, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": shape.tied, "attention_bias": False,
        "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}))
    return folder


def write_tokens(path: pathlib.Path, vocabulary: int, count: int) -> pathlib.Path:
    path.write_bytes(array.array("H", random.Random(1).choices(range(3, vocabulary), k=count)).tobytes())
    return path


def write_text_tokens(path: pathlib.Path, base: pathlib.Path, count: int) -> pathlib.Path:
    """Tokens of two novels as NumPy file for the peer, and beside it as .bin for ours."""
    code = f"""
import numpy
from transformers import AutoTokenizer
text = ''.join(open('{ROOT}/.deps/texts/' + n + '.txt').read() for n in ('emma', 'mansfield_park'))
ids = numpy.array(AutoTokenizer.from_pretrained('{base}')(text)['input_ids'][:{count}], dtype=numpy.uint16)
assert len(ids) == {count}, f'the texts have {{len(ids)}} tokens, {count} wanted'
numpy.save('{path}', ids); ids.tofile('{path.with_suffix('.bin')}')
"""
    subprocess.run([str(PYTHON), "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return path


def import_smollm2(program: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    if not (base / "config.json").exists():
        if not SMOLLM2_GGUF.exists():
            sys.exit(f"{SMOLLM2_GGUF} is not there; run scripts/setup.sh --smollm2")
        subprocess.run([str(program), "-q", "import", "--from", str(SMOLLM2_GGUF), "--to", str(base)], check=True)
    return base


@dataclasses.dataclass
class Ended:
    code: int
    out: str
    err: str
    seconds: float
    peak_rss_bytes: int   # ru_maxrss of the process
    stopped: str = ""     # why it was killed, if it was

    def sentence(self) -> str:
        """Why it failed, in one line, without the place in a configuration that is gone by now."""
        said = (self.err.strip().splitlines() or [f"exit code {self.code}"])[-1]
        return self.stopped or re.sub(r"^longlora-train: | \([^()]*run\.json[^()]*\)", "", said)[-300:]


def status_bytes(pid: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "VmRSS"))}
    return {}


def run_watched(command: list, environment: dict[str, str] | None = None, limit_bytes: int = 0, timeout: float = 0,
                progress: float = 0) -> Ended:
    """Runs it, and kills it when its resident memory has ever been above `limit_bytes` or after `timeout` seconds. Every `progress` seconds
    it says how far it is."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, stopped, told = time.monotonic(), "", 0.0
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, text=True, env={**os.environ, **(environment or {})})
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                elapsed, now = time.monotonic() - started, status_bytes(process.pid)
                if limit_bytes and now.get("VmHWM", 0) > limit_bytes:
                    stopped = stopped or f"above {limit_bytes / GIB:.2f} GiB of resident memory"
                if timeout and elapsed > timeout:
                    stopped = stopped or f"not done after {timeout:.0f} s"
                if stopped:
                    process.kill()
                if progress and elapsed - told >= progress:
                    told = elapsed
                    print(f"    {elapsed:6.0f} s, resident {now.get('VmRSS', 0) / GIB:.2f} GiB, at most {now.get('VmHWM', 0) / GIB:.2f} GiB", flush=True)
                time.sleep(0.05)
        finally:   # interrupted: nothing is left behind to disturb the next measurement
            if process.returncode is None:
                process.kill()
        peak = 1024 * usage.ru_maxrss
        if limit_bytes and peak > limit_bytes and not stopped:
            stopped = f"above {limit_bytes / GIB:.2f} GiB of resident memory"
        out.seek(0), err.seek(0)
        return Ended(process.returncode, out.read(), err.read(), time.monotonic() - started, peak, stopped)


@dataclasses.dataclass
class Recipe:
    """A training run of the paper's recipe: LoRA on q, k, v, o, embedding and norms trained, batch 1, AdamW, clipping."""
    model: pathlib.Path
    tokens: pathlib.Path
    length: int
    steps: int
    attention: str = "s2"
    dtype: str = ""             # of weights and arithmetic; "": what the device takes
    random: bool = False
    device: str = "cpu"
    rope_factor: float = 2
    memory: dict = dataclasses.field(default_factory=dict)   # keys of the section memory

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        model = {"path": str(self.model)} | ({"init": "random"} if self.random else {}) | ({"dtype": self.dtype} if self.dtype and not self.random else {})
        config = folder / "run.json"
        config.write_text(json.dumps({
            "model": model, "rope": {"scaling": "linear", "factor": self.rope_factor}, "attention": {"kind": self.attention},
            "tuning": {"mode": "lora", "lora": {"rank": RANK, "alpha": 16}},
            "data": {"train": [{"path": str(self.tokens), "format": "raw_uint16"}], "sequence_length": self.length, "shuffle": False},
            "train": {"steps": self.steps, "global_batch": 1}, "optimizer": {"learning_rate": 2e-4}, "schedule": {"warmup_steps": 0},
            "memory": {"on_oom": "stop"} | self.memory, "checkpoint": {"every": 1000000}, "log": {"tensorboard": False},
            "device": self.device, "output_dir": str(folder / "run")} | ({"precision": {"compute": self.dtype}} if self.dtype else {}), indent=1))
        return config


@dataclasses.dataclass
class Run:
    lines: list[dict]        # of metrics.jsonl
    ended: Ended
    peak_bytes: int = 0      # of tensors where the program counts them, else what memory_peak_bytes says
    counted_by: str = ""     # "tensors", "allocator" (a GPU's) or "process"
    predicted_seconds: float | None = None   # a step's, by the product rate that the run measured at its start

    @property
    def seconds(self) -> float:
        """The best step; the first one warms up, where there is another."""
        return min(line["seconds"] for line in self.lines[1:] or self.lines)

    def why_not(self) -> str:
        return "" if self.lines and not self.ended.stopped else self.ended.sentence()

    def refused(self) -> bool:
        return not self.lines and not self.ended.stopped and self.ended.code in REFUSALS


def measured_peak(lines: list[dict], run_folder: pathlib.Path, device: str) -> tuple[int, str]:
    """Bytes of the device that computes, and who counted them. tensor_peak_bytes of a line is of host tensors: no answer for a GPU."""
    written = run_folder / "memory.json"
    if written.exists():
        return json.loads(written.read_text())["total"]["measured_bytes"], "tensors" if device == "cpu" else "allocator"
    if device != "cpu":
        return max(line["memory_peak_bytes"] for line in lines), "allocator"
    if all("tensor_peak_bytes" in line for line in lines):
        return max(line["tensor_peak_bytes"] for line in lines), "tensors"
    return max(line["memory_peak_bytes"] for line in lines), "process"


def predicted(run_folder: pathlib.Path) -> float | None:
    written = run_folder / "plan.json"
    return json.loads(written.read_text())["step_seconds"]["total"] if written.exists() else None


def train(program: pathlib.Path | str, recipe: Recipe, **watch) -> Run:
    """An end after the steps, at the export, does not matter here: what counts is whether metrics were written."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ended = run_watched([program, "-q", "train", "-c", recipe.write(folder)], **watch)
        metrics = folder / "run/metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        if len(lines) < recipe.steps:
            return Run([], ended)
        return Run(lines, ended, *measured_peak(lines, folder / "run", recipe.device), predicted(folder / "run"))


def plan_of(program: pathlib.Path | str, recipe: Recipe, *arguments: object) -> dict:
    """What `plan --json` says, or {"refused": sentence}."""
    with tempfile.TemporaryDirectory() as name:
        ended = run_watched([program, "plan", "-c", recipe.write(pathlib.Path(name)), "--json", *arguments])
    return json.loads(ended.out) if ended.code == 0 else {"refused": ended.sentence()}


def planned_parts(plan: dict) -> dict[str, int]:
    """Component -> bytes of the memory that computes: a GPU's, or the host's."""
    return plan["device_bytes"] if len(plan["device_bytes"]) > 1 else plan["host_bytes"]


def planned_tensor_bytes(plan: dict) -> int:
    """Without the device's context and libraries, which no tensor counts."""
    parts = planned_parts(plan)
    return parts["total"] - parts.get("runtime", 0)


def beside_plan(plan: dict, run: Run) -> dict:
    """Both numbers of a row, and how far apart they are where tensors were counted. A process also holds code and pools: no comparison."""
    row = {"memory_bytes_measured": run.peak_bytes, "memory_counted_by": run.counted_by}
    if "refused" not in plan:
        row["memory_bytes_planned"] = planned_tensor_bytes(plan)
        if run.counted_by != "process":
            row["plan_error"] = round((row["memory_bytes_planned"] - run.peak_bytes) / run.peak_bytes, 4)
    return row


def native_bf16() -> bool:
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def processor() -> str:
    names = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}"


def product_rate(dtype: str, shape: Shape) -> float:
    """GFLOP/s of x W' at the layer's own shapes (a row tile), best of four rounds, all threads."""
    code = f"""
import time, torch
torch.set_num_threads({os.cpu_count()})
total = flops = 0
for k, n in (({shape.hidden}, {shape.hidden}), ({shape.hidden}, {shape.mlp}), ({shape.mlp}, {shape.hidden})):
    a, b = torch.randn({ROW_TILE}, k, dtype=torch.{dtype}), torch.randn(n, k, dtype=torch.{dtype})
    best = 1e9
    for _ in range(4):
        t = time.perf_counter(); torch.mm(a, b.t()); best = min(best, time.perf_counter() - t)
    total += best; flops += 2 * {ROW_TILE} * k * n
print(flops / total / 1e9)
"""
    return float(subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout)


def peer(base: pathlib.Path, length: int, attention: str, dtype: str, steps: int, tokens: pathlib.Path, **watch) -> dict:
    """What tests/hf/peer_step.py prints, or {"failed": sentence}."""
    ended = run_watched([PYTHON, ROOT / "tests/hf/peer_step.py", "--model", base, "--tokens", tokens, "--len", length, "--attn", attention,
                         "--dtype", dtype, "--steps", steps], {"HF_HUB_OFFLINE": "1"}, **watch)
    if ended.code != 0 or ended.stopped:
        return {"failed": ended.sentence()}
    return json.loads(ended.out.strip().splitlines()[-1])


def ours(program: pathlib.Path, base: pathlib.Path, length: int, attention: str, dtype: str, steps: int, tokens: pathlib.Path, memory: dict,
         **watch) -> dict:
    """The same on our side: `steps` after one that warms up, or that one alone. RoPE factor 2 as the peer's, beyond 2 x 8,192 tokens what they need."""
    recipe = Recipe(base, tokens.with_suffix(".bin"), length, steps + 1, attention, dtype, rope_factor=max(2, -(-length // 8192)), memory=memory)
    run = train(program, recipe, **watch)
    if why := run.why_not():
        return {"failed": why}
    return {"tok_s": length / run.seconds, "step_s": run.seconds, "loss": [line["loss"] for line in run.lines],
            "peak_rss_gib": run.ended.peak_rss_bytes / GIB, "peak_bytes": run.peak_bytes, "counted_by": run.counted_by}


def refuse_unless_losses_agree(script: str, program: pathlib.Path, base: pathlib.Path, tokens: pathlib.Path, memory: dict) -> None:
    """One step of both sides on the same 512 tokens: what does not compute the same thing is not timed."""
    for attention in ("full", "s2"):
        theirs, mine = peer(base, 512, attention, "fp32", 1, tokens), ours(program, base, 512, attention, "fp32", 1, tokens, memory)
        for side, result in (("peer", theirs), ("program", mine)):
            if "failed" in result:
                sys.exit(f"{script}: the {side} does not train on 512 tokens with {attention} attention: {result['failed']}")
        if abs(theirs["loss"][0] - mine["loss"][0]) > 2e-3:
            sys.exit(f"{script}: first loss with {attention} attention is {mine['loss'][0]}, the peer's {theirs['loss'][0]}: nothing is timed")
