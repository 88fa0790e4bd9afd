"""The trainer beside PyTorch with PEFT: the same model, adapter, batches and threads, in processes that take turns.

    cargo build --release --locked --workspace --examples
    python conformance/benchmarks/trainer/compare.py --out FOLDER

The python that runs this needs torch, transformers and peft. Each round starts one process for each side and line, one
after the other; a process takes some steps to get warm and then those that count, and says how long each took and its
own peak of memory (VmHWM). Processor time is kept too: on a machine that others use it tells more than the clock does.
The model, the batches and the adapter that all begin with are made here, so the losses of both sides must agree; the
script fails when they do not, because then the sides did different work.

FOLDER gets raw.csv, one row for each process, and summary.md. Sides:

    ampoule      the trainer's own step, src/trainer/examples/steps.rs
    torch        transformers' model with labels, as it comes: logits of every position
    torch-rows   only hidden states that have a label reach the output projection, as TRL computes a loss by default
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
LINES = {
    "attention, half learnt": (ATTENTION, "half"),
    "attention, all learnt": (ATTENTION, "all"),
    "all linear, half learnt": (ALL_LINEAR, "half"),
    "all linear, all learnt": (ALL_LINEAR, "all"),
}
SIDES = ["ampoule", "torch", "torch-rows"]
ROWS, ROW_TOKENS, RANK, ALPHA, RATE, CLIP, DECAY = 4, 256, 8, 16, 1e-3, 1.0, 0.01
LOSS_TOLERANCE = 2e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder for raw.csv and summary.md")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side and line (default 5)")
    parser.add_argument("--steps", type=int, default=6, help="steps that count in a process (default 6)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES), help="what to measure")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="whom to measure")
    release = REPOSITORY / "target/x86_64-unknown-linux-gnu/release"
    parser.add_argument("--program", type=Path, default=release / "examples/steps", help="our side, built")
    parser.add_argument("--torch-process", metavar="TASK", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_process:
        return torch_process(json.loads(arguments.torch_process.read_text()))
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments, Path(folder))


def compare(arguments, folder):
    environment = dict(os.environ)
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"]:
        environment[name] = str(arguments.threads)
    # Threads that wait sleep, on both sides: on a busy machine they would take the time of those that they wait for.
    environment["OMP_WAIT_POLICY"] = "passive"
    environment["CANDLE_BARRIER_POOL_SPIN_LIMIT"] = "1"
    prepare(folder)
    samples = []
    for number in range(1, arguments.rounds + 1):
        for line in arguments.lines:
            for side in arguments.sides:
                found = run(side, line, arguments, folder, environment)
                sample = {"round": number, "line": line, "side": side, **found}
                samples.append(sample)
                print(f"round {number}  {line:24} {side:11} {sample['tokens_per_second']:8.0f} tokens/s "
                      f"{sample['processor_seconds']:6.2f} s {sample['peak_mib']:7.0f} MiB "
                      f"loss {sample['last_loss']:.6f}", flush=True)
        check_losses(samples)
        if arguments.out:
            write(arguments.out, samples, summarise(samples, arguments, number))
    print(summarise(samples, arguments, arguments.rounds))
    return 0


def write(folder, samples, summary):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "raw.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, samples[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)
    (folder / "summary.md").write_text(summary)


def run(side, line, arguments, folder, environment):
    targets, learnt = LINES[line]
    task = {
        "model": str(folder / "model"),
        "adapter": str(folder / f"{'all' if targets is ALL_LINEAR else 'attention'}.safetensors"),
        "batches": str(folder / f"batches-{learnt}.json"),
        "targets": targets,
        "rank": RANK,
        "alpha": ALPHA,
        "learning_rate": RATE,
        "clip_norm": CLIP,
        "weight_decay": DECAY,
        "warm": arguments.warm,
        "steps": arguments.steps,
        "threads": arguments.threads,
        "rows_only": side == "torch-rows",
    }
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    ours = side == "ampoule"
    command = [arguments.program, path] if ours else [sys.executable, __file__, "--torch-process", path]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    found = json.loads(output)
    return {
        "tokens_per_second": round(ROWS * ROW_TOKENS / statistics.median(found["seconds"]), 1),
        "processor_seconds": round(statistics.median(found["processor_seconds"]), 3),
        "peak_mib": round(found["peak_kib"] / 1024, 1),
        "first_loss": found["losses"][0],
        "last_loss": found["losses"][-1],
        "seconds": " ".join(f"{seconds:.4f}" for seconds in found["seconds"]),
    }


def prepare(folder):
    """Writes the model, the batches and the adapters that all sides begin with."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=1024, tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    for name, modules in {"attention": ATTENTION, "all": ALL_LINEAR}.items():
        matrices = {}
        for module, linear in model.named_modules():
            if module.rsplit(".", 1)[-1] in modules:
                bound = linear.in_features**-0.5
                matrices[f"{module}.lora_A.weight"] = torch.empty(RANK, linear.in_features).uniform_(-bound, bound)
                matrices[f"{module}.lora_B.weight"] = torch.zeros(linear.out_features, RANK)
        save_file(matrices, folder / f"{name}.safetensors")
    for learnt in ["half", "all"]:
        batches = []
        for _ in range(4):
            tokens = torch.randint(0, config.vocab_size, (ROWS, ROW_TOKENS))
            # As in a chat, a question of 32 tokens and an answer of 32 take turns.
            answered = (torch.arange(ROW_TOKENS) // 32) % 2 == 1
            labels = torch.where(answered | (learnt == "all"), tokens, -100)
            batches.append({"tokens": tokens.tolist(), "labels": labels.tolist()})
        (folder / f"batches-{learnt}.json").write_text(json.dumps(batches))


def torch_process(task):
    """The other side: one process, told what to do by a file, which prints what it measured."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)
    model.config.use_cache = False
    lora = LoraConfig(task_type="CAUSAL_LM", r=task["rank"], lora_alpha=task["alpha"], target_modules=task["targets"])
    model = get_peft_model(model, lora)
    model.train()
    parameters = dict(model.named_parameters())
    for name, matrix in load_file(task["adapter"]).items():
        name = name.replace(".weight", ".default.weight")
        parameters[f"base_model.model.{name}"].data.copy_(matrix)
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=task["learning_rate"], weight_decay=task["weight_decay"])
    batches = [(torch.tensor(batch["tokens"]), torch.tensor(batch["labels"]))
               for batch in json.loads(Path(task["batches"]).read_text())]
    llama = model.base_model.model

    def loss_of(tokens, labels):
        if not task["rows_only"]:
            return model(input_ids=tokens, labels=labels).loss
        hidden = llama.model(input_ids=tokens).last_hidden_state[:, :-1].reshape(-1, llama.config.hidden_size)
        targets = labels[:, 1:].reshape(-1)
        learnt = targets != -100
        return torch.nn.functional.cross_entropy(llama.lm_head(hidden[learnt]), targets[learnt])

    seconds, processor_seconds, losses = [], [], []
    for step in range(task["warm"] + task["steps"]):
        started, used = time.perf_counter(), time.process_time()
        loss = loss_of(*batches[step % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, task["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
        processor_seconds.append(time.process_time() - used)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])
    warm = task["warm"]
    print(json.dumps({"seconds": seconds[warm:], "processor_seconds": processor_seconds[warm:], "losses": losses,
                      "peak_kib": peak}))
    return 0


def check_losses(samples):
    for line in {sample["line"] for sample in samples}:
        for which in ["first_loss", "last_loss"]:
            losses = [sample[which] for sample in samples if sample["line"] == line]
            if max(losses) - min(losses) > LOSS_TOLERANCE:
                sys.exit(f"{line}: the sides did different work, {which} lies within {min(losses)}..{max(losses)}")


def summarise(samples, arguments, rounds):
    def median(line, side, member):
        found = [sample[member] for sample in samples if sample["line"] == line and sample["side"] == side]
        return statistics.median(found) if found else None

    others = [side for side in arguments.sides if side != "ampoule"]
    lines = [
        f"Medians of {rounds} rounds that took turns, threads: {arguments.threads}, {ROWS} x {ROW_TOKENS} tokens a "
        f"step, rank {RANK}, single precision.",
        "",
        "| line | side | tokens/s | processor seconds a step | peak MiB | speed | processor time | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in arguments.lines:
        members = ["tokens_per_second", "processor_seconds", "peak_mib"]
        ours = [median(line, "ampoule", member) for member in members]
        for side in arguments.sides:
            found = [median(line, side, member) for member in members]
            is_ratio = side in others and ours[0] is not None
            ratios = [f"{own / other:.2f}" if is_ratio else "" for own, other in zip(ours, found)]
            figures = [f"{found[0]:.0f}", f"{found[1]:.2f}", f"{found[2]:.0f}"]
            lines.append("| " + " | ".join([line, side, *figures, *ratios]) + " |")
    lines += ["", "The last three columns are ours divided by theirs."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
