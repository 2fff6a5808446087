#!/usr/bin/env python3
"""SmolLM2-135M: the whole chain (GGUF import, tokenizer, forward) against transformers on real text.

  smollm2_loss.py PROGRAM DEPS     PROGRAM is longlora-train, DEPS holds models/ and texts/

Every imported tensor must equal the reference dequantisation. Ids of the first 2,048 tokens of Emma must be equal, the next-token loss must agree within 1e-3, and the folder that `import` wrote is what
transformers loads. Perplexity by our `eval` at two contexts must equal the one computed from transformers' logits to 1e-3 (relative).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf_parity
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS = 2048


def our_perplexity(program: str, folder: pathlib.Path, text: pathlib.Path, context: int, stride: int) -> dict:
    out = subprocess.run([program, "-q", "eval", "perplexity", "--model", str(folder), "--data", str(text), "--format", "text", "--context",
                          str(context), "--stride", str(stride), "--max-tokens", str(TOKENS), "--dtype", "fp32", "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["contexts"][0]


def windows_nll(model, ids: torch.Tensor, context: int, stride: int) -> tuple[float, int]:
    """Sum and count over windows: the first scores all its targets, later ones only what is new."""
    total, count, scored, begin = 0.0, 0, 0, 0
    while scored < len(ids) - 1:
        end = min(begin + context, len(ids))
        with torch.no_grad():
            logp = torch.log_softmax(model(ids[None, begin:end]).logits[0].double(), -1)
        nll = -logp[:-1].gather(1, ids[begin + 1:end, None])[:, 0]
        new = nll[max(scored - begin, 0):]
        total, count, scored = total + float(new.sum()), count + len(new), end - 1
        begin += stride
    return total, count


def main() -> None:
    program, deps = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "smollm2"
        gguf = deps / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
        subprocess.run([program, "-q", "import", "--from", str(gguf), "--to", str(folder)], check=True)
        print(f"import: {gguf_parity.check_tensors(gguf, folder)} tensors equal to gguf-py's, bit for bit")
        text = (deps / "texts/emma.txt").read_text()
        ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:TOKENS])
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        worst = 0.0
        for context, stride in ((TOKENS, TOKENS // 2), (512, 256)):
            ours = our_perplexity(program, folder, deps / "texts/emma.txt", context, stride)
            total, count = windows_nll(model, ids, context, stride)
            assert ours["tokens"] == count, f"context {context}: scored {ours['tokens']} tokens, transformers {count}"
            difference = abs(ours["nll"] / count - total / count)
            worst = max(worst, difference)
            print(f"context {context}: loss {ours['nll'] / count:.6f}, transformers {total / count:.6f}, difference {difference:.1e}")
        assert worst < 1e-3, f"loss differs by {worst}"


main()
