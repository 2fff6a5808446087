#!/usr/bin/env python3
"""scripts/bench_memory.py with a made-up program: what it refuses to time, what it keeps, and what it says on its page."""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from bench_shared import SHAPES, run_watched, step_flops  # noqa: E402

# Refuses offload, streams at STREAMED times the cost, with another chain under the policy WRONG; streamed workspace is a third.
PROGRAM = f"""#!{sys.executable}
import json, pathlib, sys
config = json.loads(pathlib.Path(sys.argv[sys.argv.index("-c") + 1]).read_text())
policy, streamed = config["memory"]["policy"], config["memory"]["halo_streaming"] == "on"
if "plan" in sys.argv:
    workspace = 3 * config["data"]["sequence_length"] // (3 if streamed else 1)
    print(json.dumps({{"device_bytes": {{"layer_workspace": workspace, "runtime": 7, "total": workspace + 107}}, "host_bytes": {{"total": 0}}}}))
    sys.exit(0)
if policy == "checkpoint_offload":
    print("longlora-train: error[config]: not here (" + sys.argv[-1] + ":1:2); use checkpoint", file=sys.stderr)
    sys.exit(78)
folder = pathlib.Path(config["output_dir"])
folder.mkdir()
chain = "bad" if policy == "WRONG" else "5e"
seconds = STREAMED if streamed else 1.0
lines = [{{"loss": 3.0, "seconds": s, "hash": chain, "memory_peak_bytes": 9, "tensor_peak_bytes": 12000}} for s in (9.0, seconds)]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
(folder / "plan.json").write_text('{{"step_seconds": {{"total": 1.5}}}}')
if policy != "save_attention":   # there the lines are all that is known
    (folder / "memory.json").write_text('{{"total": {{"measured_bytes": 12388}}}}')
"""


def bench(folder: pathlib.Path, streamed: float, wrong: str, *arguments: str) -> tuple[subprocess.CompletedProcess, dict, str]:
    program = folder / "program"
    program.write_text(PROGRAM.replace("STREAMED", str(streamed)).replace("WRONG", wrong))
    program.chmod(0o755)
    done = subprocess.run([sys.executable, ROOT / "scripts/bench_memory.py", "--program", program, "--only", "workspace,policies", "--rounds", "2",
                           "--policy-tokens", "4096", "--json", folder / "rows.json", "--markdown", folder / "page.md", *arguments],
                          capture_output=True, text=True)
    kept = json.loads((folder / "rows.json").read_text()) if (folder / "rows.json").exists() else {}
    return done, kept, (folder / "page.md").read_text() if (folder / "page.md").exists() else done.stderr


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        good, slow, other, unknown = (pathlib.Path(name) / n for n in ("good", "slow", "other", "unknown"))
        for folder in (good, slow, other, unknown):
            folder.mkdir()
        done, kept, page = bench(good, 1.1, "none")
        costs = {r["variant"]: r for r in kept.get("policies", {}).get("rows", []) if r["op"] == "policy_cost"}
        late, late_kept, late_page = bench(slow, 1.2, "none")
        wrong, wrong_kept, _ = bench(other, 1.0, "save_all")
        over = run_watched([sys.executable, "-c", "x = bytearray(300 << 20); import time; time.sleep(60)"], limit_bytes=200 << 20)
        late_clock = run_watched(["sleep", "60"], timeout=0.2)
        per_token = step_flops(SHAPES["7b"], 102400, "s2", "checkpoint")
        checks = {
            "exit code 0": done.returncode == 0 and "0 failures" in done.stdout,
            "a ratio of medians": costs.get("checkpoint, streamed", {}).get("median_ratio") == 1.1,
            "a refusal is a row, without the place in a file that is gone":
                costs.get("checkpoint_offload", {}).get("refused") == "error[config]: not here; use checkpoint",
            "planned beside measured": costs.get("checkpoint", {}).get("plan_error") == round((3 * 4096 + 100 - 12388) / 12388, 4) == 0.0,
            "planned beside what metrics count": costs.get("save_attention", {}).get("memory_bytes_measured") == 12000,
            "whole against streamed": [r["ratio"] for r in kept["workspace"]["rows"]] == 3 * [1.0, 1 / 3],
            "the page": "| checkpoint, streamed | 1.100 | 1.100 | 1.1 1.1 | 1.5 1.5 |" in page and "| save_attention | 1.000 |" in page and
                        "Not measured yet: `scripts/bench_memory.py --only hundred_k`" in page,
            "a gate that fails": late.returncode == 1 and "1.200, failed" in late_page and late_kept["policies"]["rows"][-1]["passed"] is False,
            "another chain is not timed": wrong.returncode == 1 and "policies" not in wrong_kept and "round" not in wrong.stdout and
                                          "save_all has the hash chain ['bad', 'bad']" in wrong.stderr,
            "an unknown stage": bench(unknown, 1.0, "none", "--only", "policy")[0].returncode == 64,
            "no program": bench(unknown, 1.0, "none", "--program", f"{name}/none")[0].returncode == 66,
            "a limit of memory": "above 0.20 GiB" in over.sentence() and over.seconds < 30,
            "a limit of time": "not done after" in late_clock.sentence() and late_clock.seconds < 30,
            "FLOPs of a 7B model at 100k": abs(per_token.model / 102400e9 - 48.4) < 0.2 and abs(per_token.hardware / 102400e9 - 64.8) < 0.2,
        }
        failed = [what for what, right in checks.items() if not right]
        for what in failed:
            print(f"bench_memory test failed: {what}", file=sys.stderr)
        if failed:
            print(done.stdout[-2000:], done.stderr[-2000:], wrong.stderr[-1000:], page, sep="\n", file=sys.stderr)
        print(f"bench_memory: {len(checks)} checks, {len(failed)} wrong")
        return 1 if failed else 0


sys.exit(main())
