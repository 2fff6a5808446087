"""Several ranks of a real training run as processes on this machine: every launcher, every number of ranks, one hash chain."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from support import PROGRAM, Workplace, check_error_line, main, metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
TORCHRUN = [ROOT / ".deps/venv/bin/python", "-m", "torch.distributed.run"]  # what torchrun is
EXACT = ("step", "loss", "grad_norm", "lr", "tokens", "hash")
QUIET = {"OMP_WAIT_POLICY": "passive"}       # waiting threads sleep: more ranks than cores here
SETTINGS = {"train": {"steps": 6, "global_batch": 8, "micro_batch": 1}, "checkpoint": {"every": 2, "keep": 2}, "evaluate": {"every": 3},
            "tuning": {"mode": "lora"}}


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_", "LONGLORA_", "TORCHELASTIC_"))}
    return kept | QUIET | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | extra


def train_line(config, output, *more):
    return [PROGRAM, "train", "-c", str(config), "--output-dir", str(output), "--threads", "1", "--progress", "none", *more]


def settings(place, **changes):
    data = {"validation": [{"path": str(place.path / "validation.txt")}]}
    return place.config(**(SETTINGS | {"data": data} | changes))


def execute(command, expect=0, timeout=240, **options):
    options.setdefault("env", environment())
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == expect, f"{command}: exit {done.returncode}, expected {expect}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


def launch(ranks, *more):
    return [PROGRAM, "launch", "--nproc-per-node", str(ranks), *more, "--"]


def exact(folder):
    return [tuple(line[key] for key in EXACT) for line in metrics(folder)]


def reference(place, config):
    execute(train_line(config, place.path / "alone"))
    return exact(place.path / "alone"), (place.path / "alone" / "evaluation.jsonl").read_text()


def every_number_of_ranks():
    with Workplace() as place:
        config = settings(place)
        chain, evaluation = reference(place, config)
        for ranks in (2, 4, 8):
            out = place.path / f"ranks{ranks}"
            execute([*launch(ranks), *train_line(config, out)])
            assert exact(out) == chain, ranks
            assert (out / "evaluation.jsonl").read_text() == evaluation, ranks
        for key, value in (("dist.shard_state", "off"), ("dist.shard_weights", "frozen")):
            out = place.path / value
            execute([*launch(2), *train_line(config, out, "--set", f"{key}={value}")])
            assert exact(out) == chain, key
        six = settings(place, train={"steps": 3, "global_batch": 6, "micro_batch": 1}, tuning={"mode": "full"})
        execute(train_line(six, place.path / "six"))
        execute([*launch(3), *train_line(six, place.path / "three")])
        assert exact(place.path / "six") == exact(place.path / "three")
        weights = [(place.path / run / "model" / "model.safetensors").read_bytes() for run in ("six", "three")]
        assert weights[0] == weights[1]
        return f"one chain on 1, 2, 4, 8 ranks: {chain[-1][-1][:16]}"


def every_launcher():
    """OpenMPI, MPICH, torchrun, SLURM's variables, our own: 2 and 4 ranks each."""
    with Workplace() as place:
        config = settings(place)
        chain, _ = reference(place, config)
        lines = {"openmpi": ["mpirun.openmpi", "--oversubscribe", "-np"], "mpich": ["mpiexec.mpich", "-n"],
                 "torchrun": [*TORCHRUN, "--no-python", "--nproc-per-node"], "own": [PROGRAM, "launch", "--nproc-per-node"]}
        for name, start in lines.items():
            for ranks in (2, 4):
                out = place.path / f"{name}{ranks}"
                separator = ["--"] if name == "own" else []
                execute([*start, str(ranks), *separator, *train_line(config, out)])
                assert exact(out) == chain, (name, ranks)
        for ranks in (2, 4):
            out = place.path / f"slurm{ranks}"
            slurm = {"SLURM_NTASKS": str(ranks), "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4711", "SLURM_NTASKS_PER_NODE": str(ranks),
                     "SLURM_NODEID": "0", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "localhost"}
            children = [subprocess.Popen(train_line(config, out), env=environment(**slurm, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)),
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for r in range(ranks)]
            for child in children:
                _, errors = child.communicate(timeout=240)
                assert child.returncode == 0, errors[-2000:]
            assert exact(out) == chain, ("slurm", ranks)
        return "openmpi, mpich, torchrun, slurm, own launcher: one chain"


def shared_rows():
    """dist.sequence_parallel 2 and 4: losses of one rank to 1e-5; for one number of parts one chain on any number of row groups."""
    with Workplace() as place:
        config = settings(place, evaluate={"every": 3, "attention": "as_trained"}, train={"steps": 5, "global_batch": 4, "micro_batch": 1})
        execute(train_line(config, place.path / "alone"))
        alone = [line["loss"] for line in metrics(place.path / "alone")]
        for parts, ranks in ((2, 2), (4, 4), (2, 4), (2, 8)):
            out = place.path / f"parts{parts}ranks{ranks}"
            execute([*launch(ranks), *train_line(config, out, "--set", f"dist.sequence_parallel={parts}")])
            for mine, right in zip([line["loss"] for line in metrics(out)], alone, strict=True):
                assert abs(mine - right) <= 1e-5 * right, (parts, ranks, mine, right)
        chains = {exact(place.path / f"parts2ranks{ranks}")[-1][-1] for ranks in (2, 4, 8)}
        assert len(chains) == 1, chains
        done = execute([*launch(3), *train_line(config, place.path / "three", "--set", "dist.sequence_parallel=2")], expect=78)
        assert "dist.sequence_parallel" in done.stderr
        return "2 and 4 parts agree with one rank to 1e-5"


def living(out):
    """Process ids of the ranks whose command line names this output folder."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(out).encode() in words and words[1:2] == [b"train"]:
            found.append(int(entry.name))
    return found


def wait_until_gone(out, seconds):
    until = time.monotonic() + seconds
    while living(out):
        assert time.monotonic() < until, f"{len(living(out))} ranks are alive after {seconds} s"
        time.sleep(0.05)


def walk_over_ranks_with_kills():
    """4 -> 2 -> 1 -> 4 ... ranks, a random rank killed at a random moment each time, until 30 kills have hit; then to the end."""
    with Workplace() as place:
        config = settings(place, train={"steps": 60, "global_batch": 4, "micro_batch": 1}, checkpoint={"every": 1, "keep": 2},
                          evaluate={"every": 0})
        chain, _ = reference_without_evaluation(place, config)
        out, rng, kills, starts = place.path / "walk", random.Random(20230921), 0, 0
        wanted = int(os.environ.get("LONGLORA_KILLS", "30"))
        while True:
            ranks = (4, 2, 1, 4)[starts % 4]
            starts += 1
            assert starts < 8 * wanted, "the run does not get on"
            run = subprocess.Popen([*launch(ranks, "--max-restarts", "0"), *train_line(config, out)], env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if kills < wanted:
                time.sleep(rng.uniform(0.3, 2.0))
                victims = living(out)
                if victims and run.poll() is None:
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    kills += 1
            _, errors = run.communicate(timeout=240)
            wait_until_gone(out, 5)
            if run.returncode == 0:
                if kills >= wanted or exact(out) == chain:
                    break
            else:
                assert run.returncode in (128 + signal.SIGKILL, 76), f"exit {run.returncode}\n{errors[-2000:]}"
        if kills < wanted:
            return f"only {kills} kills"
        assert exact(out) == chain
        return f"{kills} kills in {starts} starts, one chain"


def reference_without_evaluation(place, config):
    execute(train_line(config, place.path / "alone"))
    return exact(place.path / "alone"), None


def a_stopped_rank_is_found():
    """SIGSTOP: the others end with 76 within the deadline and a second, and the same command goes on. Best of three on a busy machine."""
    seconds = []
    while not seconds or (min(seconds) >= 3 + 1 and len(seconds) < 3):
        seconds.append(stop_a_rank())
    assert min(seconds) < 3 + 1, seconds
    return f"found in {min(seconds):.1f} s, and went on"


def stop_a_rank():
    with Workplace() as place:
        config = settings(place, train={"steps": 400, "global_batch": 4, "micro_batch": 1}, evaluate={"every": 0}, dist={"timeout_seconds": 3},
                          checkpoint={"every": 50, "keep": 2})   # saves are rare: outside of steps a rank may be silent for longer
        out = place.path / "out"
        run = subprocess.Popen([*launch(2, "--max-restarts", "0", "--show-ranks", "all"), *train_line(config, out)], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while not (out / "metrics.jsonl").exists() or len(metrics_so_far(out)) < 52:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.05)
        ranks = living(out)
        stopped = max(ranks)
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        text, found = "", None
        for line in run.stdout:
            text += line
            if found is None and "error[peer" in line:
                found = time.monotonic() - began
        run.wait(timeout=60)
        assert run.returncode in (76, 128 + signal.SIGKILL), (run.returncode, text[-2000:])
        assert found is not None, text[-2000:]
        wait_until_gone(out, 5)
        again = settings(place, train={"steps": len(metrics_so_far(out)) + 1, "global_batch": 4, "micro_batch": 1}, evaluate={"every": 0})
        execute([*launch(2), *train_line(again, out, "--set", f"train.steps={len(metrics_so_far(out)) + 1}")])
        return found


def metrics_so_far(out):
    lines = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def evaluation_by_several_ranks():
    """eval perplexity: the windows are shared, the numbers are those of one rank, only the root prints."""
    with Workplace() as place:
        config = settings(place, train={"steps": 2, "global_batch": 2, "micro_batch": 1}, tuning={"mode": "full"})
        execute(train_line(config, place.path / "out"))
        line = [PROGRAM, "--threads", "1", "eval", "perplexity", "--model", place.path / "out" / "model", "--data", place.path / "validation.txt",
                "--context", "16,48", "--json"]
        alone = execute(line).stdout
        for ranks in (2, 3):
            shared = execute([*launch(ranks), *line]).stdout
            assert shared == alone, (ranks, shared, alone)
        return f"the same line from 1, 2 and 3 ranks: {json.loads(alone)['contexts'][0]['perplexity']:.4f}"


def survivors_say_what_they_saw():
    """kill -9 of rank 0: the others end within 5 s, and the lowest of them leaves its end beside the logs."""
    with Workplace() as place:
        config = settings(place, train={"steps": 2000, "global_batch": 4, "micro_batch": 1}, evaluate={"every": 0})
        out = place.path / "out"
        run = subprocess.Popen([*launch(2, "--max-restarts", "0"), *train_line(config, out)], env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
        while not (out / "metrics.jsonl").exists() or len(metrics_so_far(out)) < 3:
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.05)
        root = [pid for pid in living(out) if b"RANK=0" in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
        assert len(root) == 1
        os.kill(root[0], signal.SIGKILL)
        run.communicate(timeout=30)
        assert run.returncode == 128 + signal.SIGKILL, run.returncode
        wait_until_gone(out, 5)
        end = json.loads((out / "logs" / "exit_rank_1.json").read_text())
        assert end["code"] == 76 and end["rank"] == 1 and "rank 0" in end["what"], end
        return end["what"]


def wrong_worlds():
    with Workplace() as place:
        config = settings(place, train={"steps": 2, "global_batch": 4, "micro_batch": 1})
        done = execute([*launch(3), *train_line(config, place.path / "out")], expect=78)
        assert "1, 2, 4" in done.stderr, done.stderr
        done = execute(train_line(config, place.path / "out"), expect=78, env=environment(RANK="0", WORLD_SIZE="x", LOCAL_RANK="0"))
        assert "WORLD_SIZE" in done.stderr
        check_error_line(done.stderr)
        done = execute([*launch(2), *train_line(config, place.path / "out", "--set", "dist.backend=single")], expect=78)
        assert "dist.backend" in done.stderr
        return "refused by name"


def a_stop_signal_saves_on_all_ranks():
    with Workplace() as place:
        config = settings(place, train={"steps": 2000, "global_batch": 4, "micro_batch": 1}, evaluate={"every": 0})
        out = place.path / "out"
        run = subprocess.Popen([*launch(4), *train_line(config, out)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
        while not (out / "metrics.jsonl").exists() or len(metrics_so_far(out)) < 3:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        text, _ = run.communicate(timeout=120)
        assert run.returncode == 75, (run.returncode, text[-2000:])
        steps = len(metrics_so_far(out))
        assert (out / "checkpoints" / f"step-{steps:010d}").is_dir()
        wait_until_gone(out, 5)
        return f"saved step {steps}, 75"


class Hosts:
    """Two network namespaces joined by a pair of interfaces: two hosts with addresses of their own."""

    def __init__(self):
        self.names = [f"longlora{os.getpid()}{letter}" for letter in "ab"]
        self.addresses = ["10.231.7.1", "10.231.7.2"]

    def __enter__(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = [f"ll{os.getpid() % 100000}{letter}" for letter in "ab"]
        subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
        for name, end, address in zip(self.names, ends, self.addresses):
            subprocess.run(["ip", "link", "set", end, "netns", name], check=True)
            for line in (["addr", "add", f"{address}/24", "dev", end], ["link", "set", end, "up"], ["link", "set", "lo", "up"]):
                subprocess.run(["ip", "-n", name, *line], check=True)
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def agent(self, folder):
        """What mpirun and mpiexec start in place of ssh: AGENT HOST COMMAND..."""
        file = folder / "agent.sh"
        lines = [f"  {address}) name={name} ;;" for address, name in zip(self.addresses, self.names)]
        file.write_text("#!/bin/sh\n"
                        'while [ "${1#-}" != "$1" ]; do shift; done\n'
                        'case $1 in\n' + "\n".join(lines) + "\nesac\nshift\n"
                        'exec ip netns exec "$name" /bin/sh -c "$*"\n')
        file.chmod(0o755)
        return file

    def inside(self, host, command):
        return ["ip", "netns", "exec", self.names[host], *map(str, command)]


def two_hosts():
    """Two ranks on each of two hosts, by our launcher and by torchrun: real addresses, no Unix socket."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode != 0:
        return "skipped: network namespaces need root"
    with Workplace() as place, Hosts() as hosts:
        config = settings(place)
        chain, _ = reference(place, config)
        secret = {"LONGLORA_SECRET": os.urandom(32).hex()}
        starts = {
            "own": lambda host: [PROGRAM, "launch", "--nproc-per-node", "2", "--nnodes", "2", "--node-rank", host, "--master-addr",
                                 hosts.addresses[0], "--master-port", "29517", "--"],
            "torchrun": lambda host: [*TORCHRUN, "--no-python", "--nproc-per-node", "2", "--nnodes", "2", "--node-rank", host,
                                      "--master-addr", hosts.addresses[0], "--master-port", "29518"]}
        for name, start in starts.items():
            out = place.path / name
            children = [subprocess.Popen(hosts.inside(host, [*start(host), *train_line(config, out)]), env=environment(**secret),
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for host in (0, 1)]
            for child in children:
                _, errors = child.communicate(timeout=240)
                assert child.returncode == 0, (name, errors[-3000:])
            assert exact(out) == chain, name
        agent, hosts_2 = hosts.agent(place.path), ",".join(hosts.addresses)
        variables = {"MASTER_ADDR": hosts.addresses[0], "MASTER_PORT": "29519", "OMP_WAIT_POLICY": "passive", **secret}
        exported = [word for name in variables for word in ("-x", name)]
        lines = {
            "openmpi": ["mpirun.openmpi", "--mca", "plm_rsh_agent", agent, "--mca", "btl", "self,tcp", "--map-by", "ppr:2:node", "--oversubscribe",
                        "-host", hosts_2, "-np", "4", *exported],
            "mpich": ["mpiexec.mpich", "-launcher", "ssh", "-launcher-exec", agent, "-hosts", hosts_2, "-ppn", "2", "-n", "4", "-genvlist",
                      ",".join(variables)]}
        for name, line in lines.items():
            out = place.path / name
            execute(hosts.inside(0, [*line, *train_line(config, out)]), env=environment(**variables))
            assert exact(out) == chain, name
        return "own launcher, torchrun, Open MPI and MPICH on two hosts: one chain"


if __name__ == "__main__":
    tests = [every_number_of_ranks, every_launcher, shared_rows, walk_over_ranks_with_kills, a_stopped_rank_is_found, evaluation_by_several_ranks, survivors_say_what_they_saw, wrong_worlds,
             a_stop_signal_saves_on_all_ranks, two_hosts]
    chosen = sys.argv[2:]
    main([test for test in tests if not chosen or test.__name__ in chosen])
