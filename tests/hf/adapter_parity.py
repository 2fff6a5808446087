#!/usr/bin/env python3
"""Our adapter in peft, our merged folder in transformers, and an adapter of peft in our program: equal logits, tied and untied.

For tied and untied heads: transformers makes a tiny model, the program trains a few steps at twice its context, exports peft and merged;
then (a) transformers' merged logits equal peft's adapter logits, (b) merge_and_unload equals our merged weights, (c) the program's own
loss on merged and on adapter equals the one computed from transformers' logits, (d) an adapter saved by peft, with saved modules, gives
through `export --adapter` the same logits, and its re-export has the same keys.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

CONTEXT = 64
LOGITS_TOLERANCE = 1e-4        # relative to the largest logit
LOSS_TOLERANCE = 1e-3
CONFIG_YAML = """\
model: {{path: {base}, dtype: fp32}}
precision: {{compute: fp32}}
tuning: {{mode: lora, lora: {{rank: 4, alpha: 8, targets: [q_proj, k_proj, v_proj, o_proj, up_proj]}}{head}}}
attention: {{kind: s2, group_size: 32}}
data: {{train: [{{path: {root}/train.bin, format: raw_uint16}}], sequence_length: 64}}
train: {{steps: 4, global_batch: 4}}
optimizer: {{learning_rate: 0.01}}
schedule: {{warmup_steps: 1}}
output_dir: {run}
"""


def make_base(folder, tied):
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=128, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
                         num_key_value_heads=1, head_dim=16, max_position_embeddings=CONTEXT // 2, rms_norm_eps=1e-5,
                         tie_word_embeddings=tied, initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def program(binary, *arguments):
    result = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids).logits.double()


def expect_equal_logits(label, got, expected):
    difference = float((got - expected).abs().max() / expected.abs().max())
    print(f"{label}: relative logit difference {difference:.2e}")
    assert difference < LOGITS_TOLERANCE, label


def expect_moved(label, got, base):
    assert float((got - base).abs().max()) > 1e-2, f"{label}: training changed nothing"


def base_with_record(base, adapter):
    record = json.loads((adapter / "longlora_train.json").read_text())
    rope = record["rope"]
    assert record["context"] == CONTEXT and rope["max_position_embeddings"] == CONTEXT, record
    parameters = {**rope["rope_scaling"], "rope_theta": rope["rope_theta"]}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, max_position_embeddings=CONTEXT, rope_parameters=parameters)
    return model.eval()


def loss_by_program(binary, root, *model_arguments):
    text = program(binary, "eval", "perplexity", *model_arguments, "--data", root / "eval.bin", "--format", "raw_uint16",
                   "--context", CONTEXT, "--dtype", "fp32", "--json")
    (entry,) = json.loads(text)["contexts"]
    return entry["nll"], entry["tokens"]


def check_losses(binary, root, base, adapter, merged, logits, ids):
    expected = float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
    for label, arguments in (("merged", ("--model", merged)), ("adapter", ("--model", base, "--adapter", adapter))):
        nll, tokens = loss_by_program(binary, root, *arguments)
        print(f"loss of {label}: ours {nll / tokens:.6f}, transformers {expected / (CONTEXT - 1):.6f}")
        assert tokens == CONTEXT - 1 and abs(nll - expected) / expected < LOSS_TOLERANCE, label


def check_our_adapter(binary, root, base, tied, ids):
    run, merged, adapter = root / "run", root / "merged", root / "adapter"
    head = "" if tied else ", train_head: true"
    (root / "run.yaml").write_text(CONFIG_YAML.format(base=base, root=root, run=run, head=head))
    program(binary, "train", "-c", root / "run.yaml")
    program(binary, "export", "--run", run, "--to", merged, "--format", "merged", "--dtype", "fp32")
    program(binary, "export", "--run", run, "--to", adapter, "--format", "peft")
    ours = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    assert ours.config.tie_word_embeddings == tied and ours.config.max_position_embeddings == CONTEXT
    theirs = PeftModel.from_pretrained(base_with_record(base, adapter), adapter).eval()
    logits = logits_of(ours, ids)
    expect_moved("merged", logits, logits_of(base_with_record(base, adapter), ids))
    expect_equal_logits("merged in transformers, adapter in peft", logits_of(theirs, ids), logits)
    check_losses(binary, root, base, adapter, merged, logits, ids)
    unloaded = theirs.merge_and_unload().state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(unloaded[name], tensor, rtol=2e-6, atol=1e-7, msg=f"{name} of merge_and_unload differs")
    written = load_file(run / "adapter/adapter_model.safetensors")
    exported = load_file(adapter / "adapter_model.safetensors")
    assert written.keys() == exported.keys() and all(torch.equal(written[k], exported[k]) for k in written), "adapter/ of the run differs"


def check_their_adapter(binary, root, base, tied, ids):
    modules = ["embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], modules_to_save=modules, task_type="CAUSAL_LM",
                        **({"ensure_weight_tying": True} if tied else {}))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).eval()
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(root / "theirs")
    program(binary, "export", "--adapter", root / "theirs", "--base", base, "--to", root / "theirs-merged", "--dtype", "fp32")
    program(binary, "export", "--adapter", root / "theirs", "--base", base, "--to", root / "theirs-again", "--format", "peft")
    short = ids[:, : CONTEXT // 2]
    ours = AutoModelForCausalLM.from_pretrained(root / "theirs-merged", dtype=torch.float32).eval()
    expect_equal_logits("adapter of peft, merged by us", logits_of(ours, short), logits_of(model, short))
    before, after = load_file(root / "theirs/adapter_model.safetensors"), load_file(root / "theirs-again/adapter_model.safetensors")
    assert before.keys() <= after.keys(), sorted(before.keys() - after.keys())
    extra = after.keys() - before.keys()
    assert extra <= ({"base_model.model.lm_head.weight"} if tied else set()), extra
    assert all(torch.equal(before[name].float(), after[name]) for name in before), "re-exported adapter differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, type=lambda text: pathlib.Path(text).resolve())
    binary = parser.parse_args().binary
    torch.set_num_threads(2)
    draw = np.random.default_rng(5)
    for tied in (False, True):
        with tempfile.TemporaryDirectory(prefix="longlora-parity-") as folder:
            root = pathlib.Path(folder)
            base = root / "base"
            print(f"--- {'tied' if tied else 'untied'} head")
            make_base(base, tied)
            draw.integers(3, 128, 4096).astype("<u2").tofile(root / "train.bin")
            tokens = draw.integers(3, 128, CONTEXT)
            tokens.astype("<u2").tofile(root / "eval.bin")
            ids = torch.tensor(tokens[None].astype(np.int64))
            check_our_adapter(binary, root, base, tied, ids)
            check_their_adapter(binary, root, base, tied, ids)
    print("adapter parity: 2 models")


if __name__ == "__main__":
    main()
