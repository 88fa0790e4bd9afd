//! The same request gives the same tokens and the same logits, to the bit, whatever happens around it: alone and in a crowd,
//! on any number of threads, its prompt in any pieces, found computed or not, guessed ahead or not, put off for lack of
//! memory, and after a restart.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;

use ampoule_inference::{
    EngineConfig, EngineHandle, GenerationRequest, LoadOptions, LoadedModel, Sampling, Ticket, TokenLogprobs,
};
use common::generation::{Completion, collect, forced};

/// A Llama large enough that its products are split over threads.
fn larger_llama(folder: &Path) {
    let small = common::fixture("engine/llama");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(small.join(file), folder.join(file)).unwrap();
    }
    let text = std::fs::read(small.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for (field, value) in [("hidden_size", 128), ("head_dim", 32), ("intermediate_size", 384)] {
        config[field] = value.into();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![264, 128])];
    shapes.push(("model.norm.weight".to_owned(), vec![128]));
    for layer in 0..2 {
        let parts = [
            ("input_layernorm", vec![128]),
            ("post_attention_layernorm", vec![128]),
            ("self_attn.q_proj", vec![128, 128]),
            ("self_attn.k_proj", vec![64, 128]),
            ("self_attn.v_proj", vec![64, 128]),
            ("self_attn.o_proj", vec![128, 128]),
            ("mlp.gate_proj", vec![384, 128]),
            ("mlp.up_proj", vec![384, 128]),
            ("mlp.down_proj", vec![128, 384]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        // xorshift64: any fixed noise will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let scale = if shape.len() == 1 { 0.2 } else { 4.0 / (shape[1] as f32).sqrt() };
            let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
            let values = (0..shape.iter().product()).flat_map(|_| (offset + scale * random()).to_le_bytes()).collect();
            (name, (shape, values))
        })
        .collect();
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// Six requests of different lengths and ways of sampling.
fn requests() -> Vec<GenerationRequest> {
    let request = |prompt: Vec<u32>, seed, temperature, top_p| GenerationRequest {
        sampling: Sampling { temperature, top_p, seed, frequency_penalty: 0.2, ..Sampling::default() },
        logprobs: Some(5),
        ..forced(&prompt, 120)
    };
    vec![
        request((0..200).map(|n| n * 7 % 256).collect(), 1, 1.0, 1.0),
        request(vec![5], 2, 0.7, 0.9),
        request((0..33).map(|n| n * 5 % 256).collect(), 3, 1.3, 0.95),
        request((0..300).map(|n| n * 3 % 256).collect(), 4, 0.0, 1.0),
        request((0..129).map(|n| n * 11 % 256).collect(), 5, 1.0, 0.8),
        // Of two tokens and greedy: it soon repeats itself, so that much can be guessed.
        GenerationRequest {
            sampling: Sampling { logit_bias: [(8, 90.0), (9, 90.0)].into(), ..Sampling::greedy() },
            logprobs: Some(2),
            ..forced(&[9, 8, 8, 9, 9, 9, 8, 9], 80)
        },
    ]
}

/// Everything that a completion consists of, floating-point numbers by their bits.
fn bits(completion: &Completion) -> String {
    let of = |logprobs: &TokenLogprobs| {
        let top: Vec<(u32, u32)> = logprobs.top.iter().map(|(token, value)| (*token, value.to_bits())).collect();
        format!("{:x} {top:x?}", logprobs.logprob.to_bits())
    };
    let logprobs: Vec<String> = completion.logprobs.iter().map(of).collect();
    format!("{:?} {:?} {logprobs:?}", completion.tokens, completion.text)
}

fn spawn(folder: &Path, threads: usize, config: EngineConfig) -> EngineHandle {
    let options = LoadOptions { threads: NonZero::new(threads), ..LoadOptions::default() };
    let model = LoadedModel::load(common::admitted(folder, |_| ()), &options).unwrap();
    model.prove().unwrap().spawn(config).unwrap()
}

fn alone(engine: &EngineHandle) -> Vec<String> {
    requests().into_iter().map(|request| bits(&collect(engine.submit(request).unwrap()))).collect()
}

/// All requests at once, among as many others as make up a crowd of sixteen.
fn crowded(engine: &EngineHandle, tenant: u64) -> Vec<String> {
    let others = (0..10u32).map(|n| GenerationRequest {
        sampling: Sampling { seed: 100 + u64::from(n), ..Sampling::default() },
        tenant: u64::from(n % 3),
        ..forced(&(0..1 + 29 * n).map(|at| (at * 13 + n) % 256).collect::<Vec<_>>(), 5 + 3 * n)
    });
    let others: Vec<Ticket> = others.map(|request| engine.submit(request).unwrap()).collect();
    let own = requests().into_iter().map(|request| GenerationRequest { tenant, ..request });
    let own: Vec<Ticket> = own.map(|request| engine.submit(request).unwrap()).collect();
    let found = own.into_iter().map(|ticket| bits(&collect(ticket))).collect();
    for other in others {
        assert!(collect(other).error.is_none());
    }
    found
}

#[test]
fn nothing_around_a_request_changes_a_bit_of_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    larger_llama(folder.path());
    let folder = folder.path();
    let plain = EngineConfig { max_running: 16, draft_tokens: 0, ..EngineConfig::default() };
    let expected = alone(&spawn(folder, 1, plain));

    for threads in [1, 2, 4] {
        let engine = spawn(folder, threads, plain);
        assert_eq!(crowded(&engine, 1), expected, "a crowd on {threads} threads");
        let before = engine.stats();
        assert_eq!(alone(&engine), expected, "after a crowd of another tenant");
        assert_eq!(crowded(&engine, 1), expected, "with all prompts computed before");
        let found = engine.stats().prompt_tokens_found - before.prompt_tokens_found;
        assert!(found > 500, "{found} tokens were found computed");
    }

    let guessing = EngineConfig { draft_tokens: 15, ..plain };
    let engine = spawn(folder, 2, guessing);
    assert_eq!(alone(&engine), expected, "guessing ahead");
    assert_eq!(crowded(&engine, 7), expected, "guessing ahead in a crowd");
    let stats = engine.stats();
    assert!(stats.draft_tokens_right > 10 && stats.draft_tokens > stats.draft_tokens_right, "{stats:?}");

    let pieces = EngineConfig { step_tokens: 1, max_running: 2, ..guessing };
    assert_eq!(crowded(&spawn(folder, 2, pieces), 0), expected, "prompts in small pieces");

    let crammed = EngineConfig { token_budget: 448, ..guessing };
    let engine = spawn(folder, 2, crammed);
    assert_eq!(crowded(&engine, 0), expected, "with little memory");
    assert!(engine.stats().preemptions > 0, "somebody had to wait again");
}
