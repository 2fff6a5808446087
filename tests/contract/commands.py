"""Every command of docs and code exists, explains itself with a real example, and machine forms parse."""
import json
import re
import subprocess
import sys

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
    for shell in ("bash", "zsh", "fish"):
        assert "perplexity" in run("completion", shell)


def check_exit_code_table():
    text = run("--help")
    for code in (0, 64, 65, 66, 70, 71, 73, 74, 75, 76, 77, 78, 79, 80, 81):
        assert code == 0 or re.search(rf"^\s+{code}\s", text, re.M), f"exit code {code} is not explained"


for check in (check_help, check_machine_forms, check_exit_code_table):
    check()
print(f"{len(COMMANDS)} commands")
