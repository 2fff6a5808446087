"""Every command of docs and code exists, explains itself with a real example, and machine forms parse."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
COMMANDS = ["train", "plan", "eval", "eval perplexity", "eval passkey", "generate", "export", "import", "tokenize", "launch", "report", "config",
            "config print", "config schema", "config validate", "config presets", "doctor", "completion"]


def run(*arguments, code=0):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
    return done.stdout


def check_help():
    for command in COMMANDS:
        text = run(*command.split(), "--help")
        example = re.search(r"Example:\n  (longlora-train [^\n]+)", text)
        assert example, f"{command}: no example\n{text}"
        words = example.group(1).split(" -- ")[0].split()  # behind -- stands another command line
        known = [c for c in COMMANDS if example.group(1).startswith("longlora-train " + c)]
        assert known, f"{command}: example of an unknown command: {example.group(1)}"
        options = set(re.findall(r"--[a-z-]+", run(*max(known, key=len).split(), "--help") + run("--help")))
        for word in words:
            assert not word.startswith("--") or word in options, f"{command}: example uses unknown {word}"
    listed = re.findall(r"^  ([a-z]+) ", run("--help").split("Subcommands:")[1], re.M)
    missing = {c.split()[0] for c in COMMANDS} - set(listed)
    assert not missing, f"not listed by --help: {missing}"


def check_machine_forms():
    assert {"version", "commit", "libtorch"} <= set(json.loads(run("--version", "--json")))
    assert run("--version").startswith("longlora-train ")
    doctor = json.loads(run("doctor", "--json"))
    assert doctor["self_test"]["passed"] and doctor["threads"] >= 1
    schema = json.loads(run("config", "schema"))
    assert "draft-07" in schema["$schema"]
    assert isinstance(json.loads(run("config", "presets", "--json")), list)
    rates = json.loads(run("doctor", "--rates", "--device", "cpu"))
    assert rates["longlora_rates"] == 1 and rates["threads"] >= 1 and rates["dtype"] in ("fp32", "bf16")
    assert all(rates[key] > 0 for key in ("products", "attention", "elementwise", "link", "peak")), rates
    check_plan(rates)
    for shell in ("bash", "zsh", "fish"):
        assert "perplexity" in run("completion", shell)


PLAN_FIELDS = {"policy", "layer_policy", "sequence_length", "group", "parameters", "device_bytes", "host_bytes", "budget_bytes", "row_tile", "flops",
               "ranks", "weight_ranks", "state_ranks", "gather", "max_context", "policy_summary", "peak", "host_budget_bytes", "loss_chunk",
               "arena_bytes", "offload_host_bytes", "stream_block", "next", "tokens_per_step", "step_seconds", "tokens_per_second", "mfu", "hfu", "rates",
               "device", "dtype", "attention", "search_rates", "steps", "run_seconds"}


def check_plan(rates):
    """Fields of the machine form are never renamed; rates from a file and a table of lengths do what they say."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config.json").write_text(json.dumps({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 64,
            "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False}))
        (folder / "rows.txt").write_text("text\n")
        (folder / "rates.json").write_text(json.dumps(rates | {"peers": None}))
        values = [f"model.path={folder}", f"data.train=[{{path: {folder / 'rows.txt'}}}]", f"output_dir={folder / 'out'}", "data.sequence_length=512",
                  "train.steps=1", "train.global_batch=2"]
        question = ["plan", *(word for value in values for word in ("--set", value)), "--device-memory", "4", "--host-memory", "8"]
        assumed = json.loads(run(*question, "--json", "--max-context"))
        assert PLAN_FIELDS <= set(assumed), PLAN_FIELDS - set(assumed)
        assert "assumed" in assumed["rates"]["source"] and assumed["host_budget_bytes"] == 8 << 30 and assumed["max_context"] > 512
        seconds = assumed["step_seconds"]
        parts = ("products", "attention", "elementwise", "exposed_copies", "exchange", "optimizer")
        assert abs(sum(seconds[part] for part in parts) / seconds["total"] - 1) < 1e-9, seconds
        run(*question, "--rates", str(folder / "rates.json"), code=64)   # of a CPU, for a GPU
        (folder / "rates.json").write_text(json.dumps(rates | {"peers": None, "kind": "cuda"}))
        measured = json.loads(run(*question, "--json", "--rates", str(folder / "rates.json")))
        assert measured["rates"]["products"] == rates["products"] and measured["step_seconds"]["total"] > seconds["total"]
        text = run(*question)
        assert re.search(r"^device peak .* \(\w+.*\)   host .* of 8.0 GiB$", text, re.M) and re.search(r"^step .* tok/s .*MFU.*HFU", text, re.M), text
        rows = json.loads(run(*question, "--json", "--table", "512,1024,134217728"))
        assert [row["sequence_length"] for row in rows] == [512, 1024, 134217728]
        assert PLAN_FIELDS <= set(rows[0]) and rows[0]["step_seconds"] == seconds and "GiB" in rows[2]["refused"], rows[2]
        check_sizes(question, rows)
        (folder / "rates.json").write_text(json.dumps(rates | {"link": 0, "kind": "cuda"}))
        run(*question, "--rates", str(folder / "rates.json"), code=65)
        check_plan_targets(question[:-4], assumed)


def check_plan_targets(question, assumed):
    """What is planned for is said, follows the configuration, and needs no GPU here; the longest context is said where nothing fits too."""
    card = [*question, "--device-memory", "4"]
    wide = json.loads(run(*card, "--json", "--set", "precision.compute=fp32"))
    assert (assumed["device"], assumed["dtype"], wide["dtype"]) == ("cuda", "bf16", "fp32")
    assert wide["device_bytes"]["weights"] == 2 * assumed["device_bytes"]["weights"] and "fp32" in wide["rates"]["source"]
    assert "for        GPU, bf16, 4.0 GiB (--device-memory), host memory 0.0 GiB (--host-memory)\n" in run(*card)
    budget = run(*question, "--set", "device=auto", "--set", "memory.device_budget=3GiB")
    assert "for        GPU, bf16, 3.0 GiB (memory.device_budget)" in budget, budget
    beside = run(*question, "--set", "memory.device_budget=3GiB", "--host-memory", "8")
    assert "for        GPU, bf16, 3.0 GiB (memory.device_budget), host memory 8.0 GiB (--host-memory)" in beside, beside
    assert re.search(r"^for        CPU, \w+, 8.0 GiB \(--host-memory\)$", run(*question, "--set", "device=cuda", "--host-memory", "8"), re.M)
    huge = [*card, "--set", "data.sequence_length=134217728", "--max-context"]
    none = [*question, "--device-memory", "0.5", "--max-context"]
    assert re.fullmatch(r"largest context: \d+ tokens\n", run(*huge, code=71))
    assert run(*none, code=71) == "largest context: none\n"
    answer = json.loads(run(*huge, "--json", code=71))
    assert answer["max_context"] > 512 and "GiB" in answer["refused"], answer
    assert json.loads(run(*none, "--json", code=71))["max_context"] == 0
    streamed = [*card, "--json", "--set", "memory.halo_streaming=on"]
    rows = json.loads(run(*streamed, "--table", "8192,65536"))
    assert "row tile" in rows[0]["refused"] and rows[1]["sequence_length"] == 65536 and "peak" in rows[1], rows
    run(*streamed, "--table", "4096,8192", code=78)   # possible with no length


def check_sizes(question, rows):
    """One spelling of sizes for all flags; GiB where the flag's number is bare."""
    spelled = [{"4": "4GiB", "8": "8192MiB"}.get(word, word) for word in question]
    assert json.loads(run(*spelled, "--json", "--table", "0.5k,1k,128M")) == rows
    for flag, value, accepted in (("--device-memory", "76gib", "write 76GiB"), ("--host-memory", "0", "positive number of GiB, or like 5GB"),
                                  ("--table", "512,32K", "write 32k"), ("--table", "-4", "positive number of tokens, or like 32k")):
        refuse(*question[:-4], f"{flag}={value}", says=accepted)
    refuse("import", "--from", "a", "--to", "b", "--max-shard-size", "5 gb", says="write 5GB")
    refuse("export", "--run", "a", "--to", "b", "--max-shard-size", "0", says="positive number of bytes, or like 5GB or 2GiB")
    refuse("eval", "perplexity", "--model", "a", "--data", "b", "--context", "512,4K", says="write 4k")


def refuse(*arguments, says):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and says in done.stderr, f"{arguments}: {done.returncode}\n{done.stderr}"


def check_exit_code_table():
    text = run("--help")
    for code in (0, 64, 65, 66, 70, 71, 73, 74, 75, 76, 77, 78, 79, 80, 81):
        assert code == 0 or re.search(rf"^\s+{code}\s", text, re.M), f"exit code {code} is not explained"


for check in (check_help, check_machine_forms, check_exit_code_table):
    check()
print(f"{len(COMMANDS)} commands")
