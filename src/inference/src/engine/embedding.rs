//! The engine's share of embedding requests: they take turns, one batch of bounded size at a time, so that a request
//! with a thousand texts does not hold up one with a single text.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::encoder::Encoder;
use crate::engine::handle::EmbeddingJob;
use crate::engine::monitor::Monitor;
use crate::error::InferenceError;
use crate::event::{Embeddings, Usage};

/// The most tokens of one batch: enough to keep the cores busy, few enough that a batch stays well
/// below a second.  A single longer text is a batch of its own.
pub(crate) const BATCH_TOKENS: usize = 1024;

/// The encoder and open embedding requests.
pub(crate) struct EmbeddingQueue {
    encoder: Encoder,
    jobs: VecDeque<Progressing>,
}

/// A request with the vectors that it has so far.
#[derive(Debug)]
struct Progressing {
    job: EmbeddingJob,
    /// The inputs that are left, shortest last.
    left: Vec<usize>,
    vectors: Vec<Vec<f32>>,
}

impl EmbeddingQueue {
    pub(crate) fn new(encoder: Encoder) -> EmbeddingQueue {
        EmbeddingQueue { encoder, jobs: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, job: EmbeddingJob) {
        let inputs = &job.request.inputs;
        let mut left: Vec<usize> = (0..inputs.len()).collect();
        left.sort_by_key(|&index| (std::cmp::Reverse(inputs[index].len()), index));
        let vectors = vec![Vec::new(); inputs.len()];
        self.jobs.push_back(Progressing { job, left, vectors });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many requests are being computed and how many wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let running = self.jobs.len().min(1);
        (running, self.jobs.len() - running)
    }

    /// Drops requests whose ticket is gone.
    pub(crate) fn forget_abandoned(&mut self, monitor: &Monitor) {
        let before = self.jobs.len();
        self.jobs.retain(|progressing| !progressing.job.result.is_closed());
        let cancelled = (before - self.jobs.len()) as u64;
        if cancelled > 0 {
            monitor.update(|stats| stats.cancelled += cancelled);
        }
    }

    /// Computes one batch of the request whose turn it is.
    pub(crate) fn step(&mut self, monitor: &Monitor) {
        let Some(mut progressing) = self.jobs.pop_front() else { return };
        let batch = progressing.take_batch();
        let inputs: Vec<&[u32]> = batch.iter().map(|&index| progressing.job.request.inputs[index].as_slice()).collect();
        let tokens: u64 = inputs.iter().map(|input| input.len() as u64).sum();
        monitor.update(|stats| stats.prompt_tokens += tokens);
        let vectors = match self.encoder.embed(&inputs) {
            Ok(vectors) => vectors,
            Err(error) => {
                let source = Arc::new(InferenceError::from(error));
                // The ticket may be gone, which is fine.
                let _ = progressing.job.result.send(Err(InferenceError::StepFailed { source }));
                return;
            }
        };
        for (index, vector) in batch.into_iter().zip(vectors) {
            progressing.vectors[index] = vector;
        }
        if progressing.left.is_empty() {
            progressing.finish();
        } else {
            self.jobs.push_back(progressing);
        }
    }

    /// Ends all requests with an error.
    pub(crate) fn fail_all(&mut self, error: impl Fn() -> InferenceError) {
        for progressing in self.jobs.drain(..) {
            let _ = progressing.job.result.send(Err(error()));
        }
    }
}

impl Progressing {
    /// The next inputs, from the shortest on, as many as fit a batch; at least one.
    fn take_batch(&mut self) -> Vec<usize> {
        let mut batch = Vec::new();
        let mut tokens = 0;
        while let Some(index) = self.left.pop() {
            tokens += self.job.request.inputs[index].len();
            if !batch.is_empty() && tokens > BATCH_TOKENS {
                self.left.push(index);
                break;
            }
            batch.push(index);
        }
        batch
    }

    fn finish(self) {
        let prompt_tokens = self.job.request.inputs.iter().map(|input| input.len() as u64).sum();
        let usage = Usage { prompt_tokens, completion_tokens: 0 };
        // The ticket may be gone, which is fine.
        let _ = self.job.result.send(Ok(Embeddings { vectors: self.vectors, usage }));
    }
}
