"""Compares dopl with PyTorch on one training step: same weights, batches and threads, in turn, medians.

    python compare.py [--dopl ../../build/dopl] [--debian /usr/bin/python3] [--threads 2]
                      [--rounds 7] [--only qa|qa500|dense] [--modes default tuned ...]

Needs requirements.txt and a built dopl; README.md has the two commands. Each side is one process
that answers requests, one JSON object a line on its standard input and output:

    open            config, weights, threads and AdamW's hyper-parameters -> version, threads
    batch           name, path [, layout]   ids, offsets, labels from a JSON file
    gradients       name, out               -> loss; gradients to a file, by Hugging Face names
    step            name                    -> seconds, loss: forward, backward, AdamW
    optimizer_pass                          -> seconds: AdamW alone
    head            name                    -> seconds, cross_entropy: head and loss, both ways
    memory                                  -> planned_bytes: dopl's own accounting of its peak

Every round asks all sides in turn, so a slow second of the machine hits all of them alike. A
measurement during which other processes used over a twentieth of the processors is taken again.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

import safetensors
import torch
from safetensors.torch import load_file, save_file

from llama import weight_shapes

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "num_hidden_layers": 12,
}
# The small model of the goals, and one of GPT-2 124M's size: 3 x 2048 products for its 2 x 3072.
SMALL = LLAMA | {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
GPT2_SIZED = LLAMA | {
    "vocab_size": 50257,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
}
ADAMW = {"lr": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}

MODES = ("debian", "debian-tuned", "default", "tuned", "compiled", "best")

# glibc: keep freed blocks, so that a step does not fault its pages in again.
KEEP_PAGES = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def qa_batch(vocab, samples=8, seed=1):
    """Lengths as TOFU's rows have with a tokenizer of this size, chat tags included."""
    rng = random.Random(seed)
    ids, offsets, labels = [], [0], []
    for _ in range(samples):
        prompt = rng.randint(15, 30)
        answer = min(97, max(14, round(rng.gauss(42, 16))))
        row = [rng.randrange(vocab) for _ in range(prompt + answer)]
        labels += [-1] * (prompt - 1) + row[prompt:] + [-1]
        ids += row
        offsets.append(len(ids))
    return {"ids": ids, "offsets": offsets, "labels": labels}


def dense_batch(vocab, length=256, seed=1):
    rng = random.Random(seed)
    ids = [rng.randrange(vocab) for _ in range(length)]
    return {"ids": ids, "offsets": [0, length], "labels": ids[1:] + [rng.randrange(vocab)]}


WORKLOADS = {
    # name: config, batch, layout of the padded sides, how many times faster than (mode, quantity)
    # dopl is to be; a goal against "tuned" holds for "debian-tuned" too, and so on
    "qa": (SMALL, qa_batch, "longest", {("tuned", "step"): 2.2}),
    "qa500": (SMALL, qa_batch, 500, {}),
    "dense": (
        GPT2_SIZED,
        dense_batch,
        "longest",
        {
            ("tuned", "step"): 1.5,
            ("default", "step"): 5.5,
            ("tuned", "adamw"): 3.5,
            ("tuned", "cross-entropy"): 8,
        },
    ),
}


def write_weights(config, path, seed=1):
    """Random normal, as a fresh model's; norms around 1 so that their gradients are tested."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in weight_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if len(shape) == 1 else 0.02 * noise
    save_file(tensors, path, {"format": "pt"})


def believe_in_the_processor(folder):
    """MKL, in PyTorch's wheels, keeps AVX-512 from processors that are not Intel's unless this
    function says otherwise: a tenth to a quarter of the products' time. Returns the library to
    preload, or None.
    """
    if "AuthenticAMD" not in pathlib.Path("/proc/cpuinfo").read_text() or not shutil.which("cc"):
        return None
    source, library = folder / "processor.c", folder / "processor.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def debian_environments(python, folder):
    """Environment of Debian's PyTorch as installed, and as tuned; or None, with the reason printed.

    As installed, OpenBLAS starts more threads beside OpenMP's, and may take a processor newer
    than itself for an old one. safetensors, which Debian does not have, is lent from here: its
    wheel serves any CPython.
    """
    modules = folder / "modules"
    modules.mkdir()
    (modules / "safetensors").symlink_to(pathlib.Path(safetensors.__file__).parent)
    plain = {"PYTHONPATH": str(modules)}
    asked = "import sysconfig as c, torch, safetensors.torch; print(c.get_config_var('MULTIARCH'))"
    try:
        found = subprocess.run(
            [python, "-c", asked], env=os.environ | plain, capture_output=True, text=True
        )
    except OSError as error:
        print(f"without Debian's PyTorch: {error}")
        return None
    if found.returncode:
        print(f"without Debian's PyTorch: {python}: {found.stderr.strip().splitlines()[-1]}")
        return None
    tuned = plain | KEEP_PAGES
    openmp = pathlib.Path("/usr/lib") / found.stdout.strip() / "openblas-openmp"
    if openmp.exists():
        tuned["LD_LIBRARY_PATH"] = str(openmp)
    else:
        print(f"debian-tuned without {openmp} (package libopenblas0-openmp)")
    if "avx512f" in pathlib.Path("/proc/cpuinfo").read_text():
        tuned["OPENBLAS_CORETYPE"] = "SkylakeX"
    return {"debian": plain, "debian-tuned": tuned}


class Side:
    def __init__(self, name, command, environment, threads):
        self.name = name
        self.disturbed = 0  # measurements kept although others were busy
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | environment,
        )

    def ask(self, op, **request):
        self.process.stdin.write(json.dumps({"op": op} | request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended during {op}: its message is above")
        return json.loads(line)

    def others(self):
        """Processor seconds that other processes have used, and all there were."""
        with open("/proc/stat") as file:
            ticks = [int(x) for x in file.readline().split()[1:9]]
        with open(f"/proc/{self.process.pid}/stat") as file:
            own = [int(x) for x in file.read().rsplit(")", 1)[1].split()[11:13]]
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle - sum(own), sum(ticks)

    def time(self, op, **request):
        """ask(), repeated while the machine is busy elsewhere, at most twice more."""
        for _ in range(3):
            busy, total = self.others()
            answer = self.ask(op, **request)
            busy, total = (b - a for a, b in zip((busy, total), self.others()))
            if busy <= max(1, 0.05 * total):
                return answer
        self.disturbed += 1
        return answer

    def reset_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start_sides(arguments, modes, folder):
    """dopl first, then PyTorch in every mode there is."""
    threads, step = arguments.threads, str(HERE / "step.py")
    library = believe_in_the_processor(folder)
    tuned = KEEP_PAGES | ({"LD_PRELOAD": library} if library else {})
    debian = None
    if any(mode.startswith("debian") for mode in modes):
        debian = debian_environments(arguments.debian, folder)
    sides = []
    if arguments.dopl.exists():
        command = [arguments.dopl, "--trust", "--threads", str(threads), HERE / "step.lua"]
        sides.append(Side("dopl", [str(c) for c in command], {}, threads))
    for mode in modes:
        if not mode.startswith("debian"):
            environment = {} if mode == "default" else tuned
            sides.append(Side(mode, [sys.executable, step, mode], environment, threads))
        elif debian:
            command = [arguments.debian, step, "default"]
            sides.append(Side(mode, command, debian[mode], threads))
    return sides


def gradient_difference(ours, theirs):
    """Largest |a - b| / |b| over the tensors, and its tensor."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    norms = {k: ((ours[k] - b).norm() / b.norm()).item() for k, b in theirs.items()}
    worst = max(norms, key=norms.get)
    return norms[worst], worst


def check_parity(sides, folder):
    """Loss and gradients of every side against the last PyTorch one. Also the warm-up."""
    found = {}
    for side in sides:
        path = str(folder / f"{side.name}.safetensors")
        loss = side.ask("gradients", name="batch", out=path)["loss"]
        found[side.name] = loss, path
    reference = sides[-1].name
    loss, path = found.pop(reference)
    theirs = load_file(path)
    for name, (other, path) in found.items():
        worst, tensor = gradient_difference(load_file(path), theirs)
        off = abs(other - loss) / abs(loss)
        verdict = "agree" if max(off, worst) <= 1e-4 else "DIFFER"
        print(
            f"  {name} and {reference} {verdict}: loss {off:.1e}, gradients {worst:.1e} ({tensor})"
        )
        os.remove(path)


def measure(sides, rounds):
    """{(side, quantity): median seconds} and {side: peak bytes of the steps}, sides in turn."""
    seconds = {}

    def note(side, quantity, value):
        seconds.setdefault((side.name, quantity), []).append(value)

    for side in sides:
        side.reset_peak()
    for round_ in range(rounds + 1):
        for side in sides:
            answer = side.time("step", name="batch")["seconds"]
            if round_ > 0:  # the first step makes optimizer states
                note(side, "step", answer)
    peaks = {side.name: side.peak_bytes() for side in sides}
    for _ in range(rounds):
        for side in sides:
            note(side, "adamw", side.time("optimizer_pass")["seconds"])
            head = side.time("head", name="batch")
            note(side, "head + loss", head["seconds"])
            note(side, "cross-entropy", head["cross_entropy"])
    return {key: statistics.median(values) for key, values in seconds.items()}, peaks


def report(sides, medians, peaks, goals):
    quantities = ("step", "adamw", "head + loss", "cross-entropy")
    ours = sides[0].name if sides[0].name == "dopl" else None

    def ratio(mode, quantity):
        return medians[mode, quantity] / medians[ours, quantity]

    print(f"  {'':13}" + "".join(f"{quantity:<20}" for quantity in quantities) + "peak memory")
    for side in sides:
        line = f"  {side.name:13}"
        for quantity in quantities:
            cell = f"{1e3 * medians[side.name, quantity]:.1f} ms"
            if ours and side.name != ours:
                cell += f" {ratio(side.name, quantity):.2f}x"
            line += f"{cell:<20}"
        print(line + f"{peaks[side.name] / 2**30:.2f} GiB")
    if ours:
        names = [side.name for side in sides]
        for (goal_mode, quantity), goal in goals.items():
            for mode in names:
                if mode in (goal_mode, f"debian-{goal_mode}".removesuffix("-default")):
                    reached = ratio(mode, quantity)
                    verdict = "reached" if reached >= goal else "missed"
                    print(f"  goal: {quantity} {goal}x against {mode}: {reached:.2f}x, {verdict}")
        planned = sides[0].ask("memory")["planned_bytes"]
        share = peaks[ours] / planned
        verdict = "reached" if share <= 1.15 else "missed"
        print(f"  goal: peak memory at most 1.15 of what dopl plans: {share:.2f}, {verdict}")
    disturbed = sum(side.disturbed for side in sides)
    if disturbed:
        print(f"  {disturbed} measurements were disturbed by other processes: run again when quiet")


def run(name, arguments):
    config, make_batch, layout, goals = WORKLOADS[name]
    modes = [m for m in arguments.modes if m != "best" or layout == "longest"]
    rounds = arguments.rounds if layout == "longest" else -(-arguments.rounds // 3)
    batch = make_batch(config["vocab_size"])
    n = len(batch["offsets"]) - 1
    lengths = [b - a for a, b in zip(batch["offsets"], batch["offsets"][1:])]
    rows = n * (layout if isinstance(layout, int) else max(lengths))
    labelled = sum(label >= 0 for label in batch["labels"])
    print(f"{name}: {n} sequences, {sum(lengths)} tokens ({rows} padded), {labelled} labelled")
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "batch.json").write_text(json.dumps(batch))
        write_weights(config, folder / "model.safetensors")
        sides = start_sides(arguments, modes, folder)
        for side in sides:
            side.ask(
                "open",
                config=str(folder / "config.json"),
                weights=str(folder / "model.safetensors"),
                threads=arguments.threads,
                **ADAMW,
            )
            side.ask("batch", name="batch", path=str(folder / "batch.json"), layout=layout)
        check_parity(sides, folder)
        report(sides, *measure(sides, rounds), goals)
        for side in sides:
            side.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dopl", type=pathlib.Path, default=ROOT / "build" / "dopl")
    parser.add_argument("--debian", default="/usr/bin/python3", help="Python of Debian's PyTorch")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--scratch", help="folder for weights and gradients (2 GB)")
    arguments = parser.parse_args()
    arguments.dopl = arguments.dopl.resolve()
    if not arguments.dopl.exists():
        print(f"no {arguments.dopl}: PyTorch alone")
    for name in arguments.only or WORKLOADS:
        run(name, arguments)


if __name__ == "__main__":
    main()
