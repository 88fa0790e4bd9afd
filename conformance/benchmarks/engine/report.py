"""The table of a comparison: medians, ratios, fractions of the machine's limits, and each target with its verdict."""

import dataclasses

import parts

# The conversion for OpenVINO that stands beside a format.
OPENVINO_FORMAT = {"q4_k_m": "int4", "q4_0": "int4", "q8_0": "int8"}
PEERS = ["llama.cpp", "openvino", "onnxruntime"]
LESS_IS_BETTER = {"first_token_p50", "first_token_p95", "gap_p95", "gap_max", "seconds", "bytes"}
METRICS = {
    "single": ["prefill", "decode"],
    "served": ["tokens_per_second", "first_token_p50", "first_token_p95", "gap_p95", "gap_max"],
    "speculation": ["repeated", "plain"],
    "start": ["seconds"],
    "memory": ["bytes"],
    "embeddings": ["tokens_per_second", "cosine"],
}
LONGEST_GAP_SECONDS = 0.3
# How much of the bandwidth is enough where the target would be more than all of it.
NEARLY_ALL = 0.95


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound on our number divided by a peer's: at least so much, or at most where less is better."""

    part: str
    formats: tuple
    metric: str
    peer: str
    bound: float
    # Where the peer's number is another one than ours.
    peer_metric: str = ""
    clients: tuple = ()


TARGETS = [
    Target("single", ("q4_k_m", "q4_0"), "decode", "llama.cpp", 1.1),
    Target("single", ("q8_0", "bf16"), "decode", "llama.cpp", 1.0),
    Target("speculation", ("q4_k_m",), "repeated", "llama.cpp", 2.0, peer_metric="plain"),
    Target("single", ("q4_k_m", "q4_0"), "prefill", "llama.cpp", 2.0),
    Target("single", ("q4_k_m", "q4_0", "q8_0"), "prefill", "openvino", 1.3),
    Target("single", ("q8_0",), "prefill", "llama.cpp", 3.0),
    Target("single", ("bf16",), "prefill", "llama.cpp", 1.2),
    Target("served", ("q4_k_m",), "tokens_per_second", "llama.cpp", 3.0, clients=(8,)),
    Target("served", ("q4_k_m",), "tokens_per_second", "llama.cpp", 2.5, clients=(4, 16)),
    Target("served", ("q4_k_m",), "tokens_per_second", "openvino", 1.8, clients=(4, 8, 16)),
    Target("served", ("q4_k_m",), "first_token_p95", "llama.cpp", 0.4, clients=(4, 8, 16)),
    Target("served", ("q4_k_m",), "gap_p95", "llama.cpp", 0.3, clients=(4, 8, 16)),
    Target("start", ("q4_k_m",), "seconds", "llama.cpp", 1.0),
    Target("memory", ("q4_k_m",), "bytes", "llama.cpp", 1.0),
    Target("embeddings", ("f32",), "tokens_per_second", "onnxruntime", 1.3),
    Target("embeddings", ("int8",), "tokens_per_second", "onnxruntime", 1.5),
]


def summary(found, threads):
    lines = [f"Medians of rounds that took turns, threads: {threads}. Ratios are ours divided by theirs.", ""]
    for part, metrics in METRICS.items():
        if found.cases(part):
            lines += table(found, part, metrics)
    limits = peaks(found)
    if limits:
        lines += ["## Limits of the machine, measured in the same rounds", "", "| limit | median |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in limits.items()] + [""]
    return "\n".join([*lines, *verdicts(found, limits)]) + "\n"


def table(found, part, metrics):
    sides = [side for side in ["ampoule", *PEERS] if any(
        found.values(part, case, side, metric) for case in found.cases(part) for metric in metrics)]
    lines = [f"## {part}, {found.rounds(part)} rounds", "", f"| case | metric | {' | '.join(sides)} | ratio |",
             "|---" * (len(sides) + 3) + "|"]
    for case in found.cases(part):
        for metric in metrics:
            values = [found.median(part, case, side, metric) for side in sides]
            if any(values):
                # OpenVINO's formats have names of their own, so its ratios stand with the targets below.
                peers = [value for side, value in zip(sides, values) if side != "ampoule" and value]
                ours = found.median(part, case, "ampoule", metric)
                ratio = f"{ours / peers[0]:.2f}" if ours and peers else ""
                shown = ["" if value is None else f"{value:.4g}" for value in values]
                lines.append(f"| {case} | {metric} | {' | '.join(shown)} | {ratio} |")
    return [*lines, ""]


def peaks(found):
    """The medians of what our side measured of the machine beside its own work."""
    names = ["read_bytes_per_second", "int8_operations_per_second", "f32_operations_per_second"]
    medians = {}
    for name in names:
        values = sorted(row["value"] for row in found.rows if row["part"] == "single" and row["metric"] == name)
        if values:
            medians[name] = values[len(values) // 2]
    return medians


def verdicts(found, limits):
    lines = ["## Targets", "", "| part | case | number | against | ratio or fraction | target | |", "|---" * 7 + "|"]
    for target in TARGETS:
        for case in found.cases(target.part):
            if applies(target, case):
                lines += verdict(found, target, case, limits)
    for case in found.cases("single"):
        lines += fractions(found, case, limits)
    for case in found.cases("served"):
        longest = found.median("served", case, "ampoule", "gap_max")
        if longest is not None:
            met = longest <= LONGEST_GAP_SECONDS
            lines.append(row("served", case, "gap_max", "", f"{longest:.3f} s", f"≤ {LONGEST_GAP_SECONDS} s", met))
    return lines


def applies(target, case):
    model_and_format, _, clients = case.partition(", ")
    format = model_and_format.split()[-1]
    return format in target.formats and (not target.clients or int(clients.split()[0]) in target.clients)


def verdict(found, target, case, limits):
    other = case
    if target.peer == "openvino":
        for format, theirs in OPENVINO_FORMAT.items():
            other = other.replace(format, theirs)
    ours = found.median(target.part, case, "ampoule", target.metric)
    theirs = found.median(target.part, other, target.peer, target.peer_metric or target.metric)
    less = target.metric in LESS_IS_BETTER
    peer = f"{target.peer} {other}" if other != case else target.peer
    bound = f"{'≤' if less else '≥'} {target.bound}"
    if ours is None or theirs is None:
        return [row(target.part, case, target.metric, peer, "not measured", bound, None)]
    ratio = ours / theirs
    met = ratio <= target.bound if less else ratio >= target.bound
    if target.metric == "decode" and theirs * target.bound > (most := fastest_decode(found, case, limits)):
        # So much more than the peer is more than the memory gives.
        met = ours >= NEARLY_ALL * most
    return [row(target.part, case, target.metric, peer, f"{ratio:.2f}", bound, met)]


def fastest_decode(found, case, limits):
    """Tokens a second if the weights were read as fast as the memory gives them."""
    bytes_read = found.median("single", case, "model", "bytes")
    bandwidth = limits.get("read_bytes_per_second")
    return bandwidth / bytes_read if bandwidth and bytes_read else float("inf")


def fractions(found, case, limits):
    """How much of the machine's limits is used: bytes once a token, and the operations of the matrices."""
    lines = []
    for side in ["ampoule", "llama.cpp"]:
        fastest = fastest_decode(found, case, limits)
        operations = found.median("single", case, "model", "prefill_operations")
        decode, prefill = (found.median("single", case, side, metric) for metric in ["decode", "prefill"])
        if not limits or None in [operations, decode, prefill]:
            continue
        ours = side == "ampoule"
        used = decode / fastest
        lines.append(row("single", case, f"decode, {side}", "read bandwidth", f"{used:.0%}", "≥ 90%" if ours else "",
                         used >= 0.9 if ours else None))
        kind = "f32" if case.endswith("bf16") else "int8"
        used = prefill * operations / parts.PROMPT / limits[f"{kind}_operations_per_second"]
        bound = 0.55 if ours and ("q4_k_m" in case or "q4_0" in case) else None
        lines.append(row("single", case, f"prefill, {side}", f"{kind} peak", f"{used:.0%}",
                         f"≥ {bound:.0%}" if bound else "", used >= bound if bound else None))
    return lines


def row(part, case, metric, against, value, target, met):
    told = {None: "", True: "met", False: "MISSED"}[met]
    return f"| {part} | {case} | {metric} | {against} | {value} | {target} | {told} |"
