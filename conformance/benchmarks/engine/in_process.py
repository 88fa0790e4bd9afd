#!/usr/bin/env python3
"""The peers that are libraries and not programs: one process, told what to do by a file, which prints what it measured.

A process of its own, so that its threads are gone when the other side has its turn. The file names the task:

    single        OpenVINO GenAI, one prompt: the time to the first token, and the mean time of those after it
    batch         OpenVINO's continuous batching, all requests at once: when each token of each came
    embeddings    onnxruntime: seconds of each pass over a batch
"""

import json
import sys
import time
from pathlib import Path


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({"single": single, "batch": batch, "embeddings": embeddings}[task.pop("task")](**task)))


def single(model, threads, prompt, warm_prompt, generate):
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    limits = {"max_new_tokens": generate, "ignore_eos": True, "do_sample": False}
    # With other words, so that nothing of the prompt is in a cache.
    pipeline.generate(tensor(warm_prompt), **limits)
    result = pipeline.generate(tensor(prompt), **limits)
    return {
        "first_token_seconds": result.perf_metrics.get_ttft().mean / 1000,
        "token_seconds": result.perf_metrics.get_tpot().mean / 1000,
        "tokens": result.tokens[0],
    }


def batch(model, threads, prompts, warm_prompt, generate, cache_gib):
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size = len(prompts), cache_gib
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = generate, True, False

    def answer(prompts):
        handles = [pipeline.add_request(number, tensor(prompt), config) for number, prompt in enumerate(prompts)]
        answers = [{"tokens": [], "seconds": []} for _ in prompts]
        started = time.perf_counter()
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter() - started
            for handle, found in zip(handles, answers):
                while handle.can_read():
                    for output in handle.read().values():
                        found["tokens"] += output.generated_ids
                        found["seconds"] += [now] * len(output.generated_ids)
        return answers

    answer([warm_prompt])
    return answer(prompts)


def embeddings(model, threads, texts, passes):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tokens = numpy.array(texts, numpy.int32)
    zeros, ones = numpy.zeros_like(tokens), numpy.ones_like(tokens)
    inputs = {"input_ids": tokens, "token_type_ids": zeros, "attention_mask": ones}

    def embed():
        means = session.run(None, inputs)[0].mean(axis=1)
        return means / numpy.linalg.norm(means, axis=1, keepdims=True)

    embed()
    seconds = []
    for _ in range(passes):
        started = time.perf_counter()
        vectors = embed()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "vectors": vectors.tolist()}


def tensor(prompt):
    import numpy
    import openvino

    return openvino.Tensor(numpy.array([prompt], numpy.int64))


if __name__ == "__main__":
    main()
