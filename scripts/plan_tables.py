#!/usr/bin/env python3
"""Tables of what `longlora-train plan` says of the Llama-2 family: docs/benchmarks/plan_tables.md.

  scripts/plan_tables.py [--program FILE]           writes the page; program: build/bin/longlora-train
  scripts/plan_tables.py [--program FILE] --check   fails, and shows the first differing lines, when the page is not what the program says

LoRA of rank 8 on q, k, v and o, embedding and norms, bf16, one row a step and group of ranks. Nothing is measured and no weight is read:
models are folders with a config.json of known shapes. Times are those of the assumed rates of an H100, whatever the card's memory.
"""
import argparse
import difflib
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks/plan_tables.md"
LENGTHS = [8192, 16384, 32768, 65536, 102400, 131072, 262144, 524288]
CARDS = [(24, 22), (40, 37), (80, 76)]  # GB printed on the card, GiB that a plan may use
HOST = 120                               # GiB of host memory for offloaded inputs
MODELS = {"7B": (32, 4096, 11008, 32, 32), "13B": (40, 5120, 13824, 40, 40), "70B": (80, 8192, 28672, 64, 8)}
ARRANGEMENTS = [("one card", 1, []),
                ("eight cards, a row each (`dist.shard_weights: auto`)", 8, ["train.global_batch=8"]),
                ("eight cards, one row (`dist.sequence_parallel: 8`)", 8, ["dist.sequence_parallel=8"])]

# Derived by hand from the formulas of docs/memory.md (n = 4, 1024 GiB, every layer `checkpoint`, row tile 4096): peak whole, peak streamed
# in GiB (None: rows of that length are not streamed), and tok/s of save_attention at an HFU of one half on an H100 (None: not derived).
WORKED = {"7B": {8192: (18.7, None, 12930), 16384: (21.2, None, None), 32768: (26.2, 24.8, 11360), 65536: (36.2, 33.5, 9780),
                 102400: (47.5, 43.2, 8450), 131072: (56.3, 50.8, None), 262144: (96.4, 85.3, 5330), 524288: (176.6, 154.5, 3320)},
          "13B": {8192: (32.3, None, 6700), 32768: (43.5, 41.8, 6020), 65536: (58.5, 55.1, None), 102400: (75.5, 70.1, 4690),
                  131072: (88.6, 81.7, None), 262144: (148.7, 134.9, None), 524288: (268.9, 241.3, None)}}
# Longest rows on 76 GiB: without host memory whole, streamed, and with attention saved in every layer (None: not derived); with 120 GiB of
# it; thousands of tokens.
LONGEST = {"7B": (195, 226, 116, 676), "13B": (103, 117, None, 410)}
SIZES = {"7B": (6.476e9, 8.39e6, 139.7e6), "13B": (12.688e9, 13.11e6, 177.4e6), "70B": (68.451e9, 32.77e6, 296.2e6)}


class Planner:
    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        self.program, self.folder = program, folder
        for name, (layers, hidden, ffn, heads, kv_heads) in MODELS.items():
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "num_hidden_layers": layers,
                "hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
                "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}))
        # the keys that a run needs and a plan does not read
        (folder / "rows.txt").write_text("text\n")

    def table(self, model: str, device: float, *settings: str, host: float = HOST, ranks: int = 1, max_context: bool = True,
              lengths: list[int] = LENGTHS) -> list[dict]:
        """One plan a length: {"sequence_length", ...}, or {"sequence_length", "refused", ...}."""
        values = [f"model.path={self.folder / model}", f"data.train=[{{path: {self.folder / 'rows.txt'}}}]", f"output_dir={self.folder / 'out'}",
                  "data.sequence_length=8192", "train.steps=1", "train.global_batch=1", *settings]
        command = [str(self.program), "plan", "--json", "--table", ",".join(map(str, lengths)), "--device-memory", str(device), "--ranks", str(ranks),
                   "--host-memory", str(host)]
        command += ["--max-context"] if max_context else []
        for value in values:
            command += ["--set", value]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise SystemExit(f"plan_tables.py: {' '.join(command)}: {done.returncode}\n{done.stderr.strip()}")
        return json.loads(done.stdout)


def gib(count: float) -> float:
    return count / 2**30


def mix(policies: list[str]) -> str:
    """"31 save_attention + 1 save_all", layers in their order."""
    runs = []
    for policy in policies:
        if runs and runs[-1][1] == policy:
            runs[-1][0] += 1
        else:
            runs.append([1, policy])
    return " + ".join(f"{count} {policy.replace(', streamed', ' (streamed)')}" for count, policy in runs)


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def head(*cells: str) -> str:
    return line(*cells) + "|" + "---|" * len(cells) + "\n"


def length(tokens: int | None) -> str:
    return "none" if not tokens else f"{tokens:,}".replace(",", " ")


def plans(planner: Planner, model: str, title: str, ranks: int, settings: list[str]) -> str:
    page = f"\n### Llama-2 {model}, {title}\n\n"
    page += head("card", "tokens a row", "layers", "device GiB", "host GiB", "s a step", "tok/s", "MFU, HFU %")
    longest = []
    for card, usable in CARDS:
        rows = planner.table(model, usable, *settings, ranks=ranks)
        longest.append(f"{card} GB {length(rows[0]['max_context'])}")
        refused = [row for row in rows if "refused" in row]
        for row in rows:
            if "refused" in row:
                continue
            shared = f"; frozen layers in {row['weight_ranks']} parts" if row["weight_ranks"] > 1 else ""
            page += line(f"{card} GB", length(row["sequence_length"]), mix(row["layer_policy"]) + shared, f"{gib(row['device_bytes']['total']):.1f}",
                         f"{gib(row['offload_host_bytes']):.1f}", f"{row['step_seconds']['total']:.3g}", length(round(row["tokens_per_second"])),
                         f"{100 * row['mfu']:.0f}, {100 * row['hfu']:.0f}")
        if refused:
            page += line(f"{card} GB", f"from {length(refused[0]['sequence_length'])} on", "does not fit: " + refused[0]["refused"], "", "", "", "", "")
    return page + "\nLargest context: " + ", ".join(longest) + ".\n"


def anchors(planner: Planner) -> str:
    page = "\n## Beside figures derived by hand\n\n"
    page += head("model", "frozen parameters", "by hand", "LoRA", "by hand", "trained", "by hand")
    for model, by_hand in SIZES.items():
        counts = planner.table(model, 4096, max_context=False)[0]["parameters"]
        got = [counts["projections"], counts["lora"], counts["trainable"]]
        page += line(model, *(text for value, hand in zip(got, by_hand) for text in (f"{value / 1e6:.2f} M", f"{hand / 1e6:.2f} M")))
    page += ("\nPeak with every layer `checkpoint` in 1024 GiB, whole and streamed; by hand with 64 more columns on q, k, v and o, which are not allocated. "
             "Last: tok/s of `save_attention` at an HFU of one half on an H100, from the plan's own FLOPs.\n\n")
    page += head("model", "tokens", "whole GiB", "by hand", "difference", "streamed GiB", "by hand", "difference", "tok/s at half", "by hand")
    for model, rows in WORKED.items():
        whole = planned(planner, model, list(rows), "memory.policy=checkpoint", "memory.halo_streaming=off")
        streamed = planned(planner, model, [n for n in rows if rows[n][1]], "memory.policy=checkpoint", "memory.halo_streaming=on")
        saved = planned(planner, model, list(rows), "memory.policy=save_attention")
        for tokens, (by_hand, by_hand_streamed, half) in rows.items():
            rate = 0.5 * 989.4e12 / saved[tokens]["flops"]["hardware"]
            cells = [text for of, hand in ((whole, by_hand), (streamed, by_hand_streamed)) for text in peak_cells(of.get(tokens), hand)]
            page += line(model, length(tokens), *cells, f"{rate:.0f}", half or "")
    page += ("\nLongest rows on 76 GiB, thousands of tokens: without host memory in whole layers, streamed, and with attention saved in every layer; "
             f"then with {HOST} GiB of host memory. There by hand offload goes block by block and fills that memory, while this engine offloads whole "
             "layers and leaves less than one layer's input of it unused.\n\n")
    page += head("model", "whole", "by hand", "streamed", "by hand", "save_attention", "by hand", f"with {HOST} GiB", "by hand")
    for model, by_hand in LONGEST.items():
        as_it_is = planner.table(model, 76)[0]
        rows = [planner.table(model, 76, "memory.halo_streaming=off")[0], as_it_is, planner.table(model, 76, "memory.policy=save_attention")[0]]
        longest = [row["max_context_without_host"] for row in rows] + [as_it_is["max_context"]]
        page += line(model, *(text for got, hand in zip(longest, by_hand) for text in (f"{got / 1e3:.1f}", hand or "")))
    return page


def peak_cells(row: dict | None, by_hand: float | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    peak = gib(row["device_bytes"]["total"])
    return [f"{peak:.1f}", f"{by_hand}", f"{peak - by_hand:+.1f}"]


def planned(planner: Planner, model: str, lengths: list[int], *settings: str) -> dict[int, dict]:
    """With memory for everything."""
    rows = planner.table(model, 1024, *settings, host=4096, max_context=False, lengths=lengths)
    return {row["sequence_length"]: row for row in rows}


def page_of(planner: Planner) -> str:
    rates = planner.table("7B", 76, max_context=False)[0]["rates"]
    page = f"""# What a plan says of the Llama-2 family

Written by `scripts/plan_tables.py`; no figure on this page is measured. LoRA of rank 8 on q, k, v and o, embedding and norms trained, bf16,
one row a step (eight cards with a row each: eight), shifted sparse attention with groups of a quarter of the row, rates {rates['source']}
({rates['products'] / 1e12:.0f} TFLOP/s products, {rates['attention'] / 1e12:.0f} attention, {rates['elementwise'] / 1e12:.2f} TB/s memory, \
{rates['link'] / 1e9:.0f} GB/s to the host, {rates['peers'] / 1e9:.0f} GB/s between cards) for every card,
so that only memory differs. A plan may use of a card {', '.join(f'{usable} GiB of {card} GB' for card, usable in CARDS)}, and {HOST} GiB of host memory.
How it is computed, and how to measure rates of your own: [memory](../memory.md).
"""
    for title, ranks, settings in ARRANGEMENTS:
        page += f"\n## {title[0].upper()}{title[1:]}\n"
        for model in MODELS:
            page += plans(planner, model, title, ranks, settings)
    return page + anchors(planner)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", type=pathlib.Path, default=ROOT / "build/bin/longlora-train")
    arguments.add_argument("--check", action="store_true")
    chosen = arguments.parse_args()
    if not chosen.program.exists():
        print(f"plan_tables.py: {chosen.program} is not built", file=sys.stderr)
        return 66
    with tempfile.TemporaryDirectory() as name:
        page = page_of(Planner(chosen.program.resolve(), pathlib.Path(name)))
    if not chosen.check:
        PAGE.write_text(page)
        return 0
    old = PAGE.read_text() if PAGE.exists() else ""
    changed = list(difflib.unified_diff(old.splitlines(), page.splitlines(), "committed", "planned", lineterm="", n=0))
    for text in changed[:20]:
        print(text, file=sys.stderr)
    print(f"plan_tables: {page.count(chr(10))} lines, {'equal' if not changed else 'different; run scripts/plan_tables.py'}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
