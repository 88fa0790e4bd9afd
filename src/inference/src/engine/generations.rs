//! All open generations: what the scheduler plans is computed, what comes of it is chosen and told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::adapters::LoadedAdapter;
use crate::engine::EngineConfig;
use crate::engine::drafts::Drafts;
use crate::engine::handle::GenerationJob;
use crate::engine::monitor::Monitor;
use crate::engine::pace::Pace;
use crate::error::InferenceError;
use crate::event::{FinishReason, TokenEvent};
use crate::generation::{Generation, Progress};
use crate::packed::{Generator, SequenceStep};
use crate::proof;
use crate::scheduler::{Domain, NewSequence, Scheduler, SchedulerLimits, SequenceId, Work};
use crate::text::{SpecialTokensInOutput, TextProcessor};

/// The model and everything about open generations.
pub(crate) struct Generations {
    generator: Generator,
    text: Arc<TextProcessor>,
    context_length: usize,
    scheduler: Scheduler,
    sequences: BTreeMap<SequenceId, Sequence>,
    pace: Pace,
    next_id: u64,
    draft_tokens: usize,
    /// The block in which adapters are proved; the scheduler does not know it.
    proving: u32,
}

/// An open generation.
struct Sequence {
    adapter: Option<Arc<LoadedAdapter>>,
    /// Whether it was told that its wait is over.
    started: bool,
    /// Whether it is computed as a sequence beyond the original context (LongRoPE).
    is_long: bool,
    prompt_length: usize,
    drafts: Drafts,
    generation: Generation,
    events: UnboundedSender<TokenEvent>,
    _permit: OwnedSemaphorePermit,
}

impl Generations {
    pub(crate) fn new(
        generator: Generator,
        text: Arc<TextProcessor>,
        context_length: usize,
        config: &EngineConfig,
    ) -> Generations {
        let blocks = u32::try_from(config.blocks()).unwrap_or(u32::MAX - 1);
        let limits = SchedulerLimits { max_running: config.max_running, blocks };
        Generations {
            generator: generator.with_blocks(blocks as usize + 1),
            text,
            context_length,
            scheduler: Scheduler::new(limits),
            sequences: BTreeMap::new(),
            pace: Pace::new(config.step_tokens),
            next_id: 0,
            draft_tokens: config.draft_tokens,
            proving: blocks,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Makes sure that an adapter computes numbers.
    pub(crate) fn prove(&mut self, adapter: &LoadedAdapter) -> Result<(), InferenceError> {
        let vocabulary_size = self.generator.decoder.config().vocabulary_size;
        proof::compute_in(self.generator.alone_in(self.proving, Some(&adapter.adapter)), vocabulary_size)
    }

    pub(crate) fn open(&mut self, mut job: GenerationJob) {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let (length, tenant) = (job.request.prompt.len(), job.request.tenant);
        let room = self.context_length.min(self.scheduler.token_limit()).saturating_sub(length).max(1);
        let completion = room.min(job.request.max_tokens as usize);
        let detokenizer = self.text.tokenizer().detokenizer(SpecialTokensInOutput::Skip);
        let end = self.text.end_of_sequence();
        let adapter = job.request.adapter.take();
        let (prompt, generation) = Generation::new(job.request, completion as u64, end, detokenizer);
        let is_long = self.is_beyond(length);
        let domain = Domain {
            scope: tenant,
            adapter: adapter.as_ref().map_or(0, |adapter| adapter.number),
            variant: u32::from(is_long),
        };
        if let Err(never) = self.scheduler.enqueue(NewSequence { id, tenant, domain, prompt, completion }) {
            let error = InferenceError::NeverFits { tokens: never.tokens, limit: never.limit };
            return drop(job.events.send(TokenEvent::Failed(error)));
        }
        let (events, _permit) = (job.events, job._permit);
        let drafts = Drafts::new(self.draft_tokens);
        let sequence =
            Sequence { adapter, started: false, is_long, prompt_length: length, drafts, generation, events, _permit };
        self.sequences.insert(id, sequence);
    }

    /// A dropped ticket closes its channel: what it was for is work for nobody.
    pub(crate) fn forget_abandoned(&mut self, monitor: &Monitor) {
        let mut cancelled = 0;
        let (sequences, scheduler) = (&mut self.sequences, &mut self.scheduler);
        sequences.retain(|&id, sequence| {
            let waited_for = !sequence.events.is_closed();
            if !waited_for {
                scheduler.remove(id);
                cancelled += 1;
            }
            waited_for
        });
        if cancelled > 0 {
            monitor.update(|stats| stats.cancelled += cancelled);
        }
    }

    /// Computes one forward step and hands out what it gives.
    pub(crate) fn step(&mut self, monitor: &Monitor) {
        let began = Instant::now();
        let generating = self.propose();
        let plan = self.scheduler.plan(self.pace.tokens(generating));
        if plan.is_empty() {
            return;
        }
        self.announce_starts(&plan);
        let tokens: usize = plan.iter().map(|work| work.positions.len()).sum();
        let of_prompts: usize = plan.iter().map(|work| work.positions.len() - work.logits.len()).sum();
        let prompt_tokens: usize = plan.iter().map(|work| self.prompt_tokens(work)).sum();
        let outcome = self.compute(&plan, monitor);
        self.pace.learn(tokens, of_prompts, began.elapsed());
        monitor.update(|stats| {
            stats.steps += 1;
            stats.prompt_tokens += prompt_tokens as u64;
        });
        if let Err(error) = outcome {
            let source = Arc::new(InferenceError::from(error));
            for Work { id, .. } in plan {
                self.close(id, TokenEvent::Failed(InferenceError::StepFailed { source: Arc::clone(&source) }));
            }
        }
    }

    /// Guesses the next tokens of those that generate, and lets what has passed the original context be computed anew.
    /// Gives how many generate.
    fn propose(&mut self) -> usize {
        let generating = self.scheduler.generating_ids();
        for &id in &generating {
            let tokens = self.scheduler.tokens(id);
            let (is_beyond, length) = (self.is_beyond(tokens.len()), tokens.len());
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            if is_beyond && !sequence.is_long {
                sequence.is_long = true;
                self.scheduler.reset(id, 1);
                continue;
            }
            let mut guess = sequence.drafts.guess(tokens);
            if let Some(context) = self.generator.decoder.original_context()
                && !sequence.is_long
            {
                guess = &guess[..guess.len().min(context.saturating_sub(length))];
            }
            let guess = guess.to_vec();
            self.scheduler.draft(id, &guess);
        }
        generating.len()
    }

    fn compute(&mut self, plan: &[Work], monitor: &Monitor) -> Result<(), crate::model::ModelError> {
        let Generator { decoder, workspace } = &mut self.generator;
        let (scheduler, sequences) = (&self.scheduler, &self.sequences);
        let steps: Vec<SequenceStep<'_>> = plan
            .iter()
            .map(|Work { id, positions, logits }| SequenceStep {
                tokens: &scheduler.tokens(*id)[positions.clone()],
                position: positions.start,
                blocks: scheduler.blocks(*id),
                reach: scheduler.tokens(*id).len(),
                logits: logits.start - positions.start..logits.end - positions.start,
                adapter: sequences[id].adapter.as_ref().map(|loaded| &loaded.adapter),
            })
            .collect();
        let logits = decoder.forward(workspace, &steps)?;
        let mut rows = logits.chunks_exact_mut(decoder.config().vocabulary_size);
        for Work { id, positions, logits } in plan {
            let drafted = self.scheduler.tokens(*id)[positions.end + 1 - logits.len().max(1)..positions.end].to_vec();
            let sequence = self.sequences.get_mut(id).expect("what is planned is open");
            let mut rows = rows.by_ref().take(logits.len());
            let outcome = choose(sequence, &mut rows, &drafted);
            // What is left of the rows followed a token that was not chosen.
            rows.for_each(drop);
            monitor.update(|stats| {
                stats.completion_tokens += (outcome.chosen.len() + usize::from(outcome.ended())) as u64;
                stats.draft_tokens += drafted.len() as u64;
                stats.draft_tokens_right += outcome.right as u64;
            });
            match outcome.end {
                None => self.scheduler.advance(*id, &outcome.chosen),
                Some(last) => {
                    self.scheduler.remove(*id);
                    if let (Some(sequence), Err(error)) = (self.sequences.remove(id), last) {
                        // The ticket may be gone, which is fine.
                        let _ = sequence.events.send(TokenEvent::Failed(error));
                    }
                }
            }
        }
        Ok(())
    }

    /// How many tokens of its prompt a sequence computes.
    fn prompt_tokens(&self, Work { id, positions, .. }: &Work) -> usize {
        let length = self.sequences[id].prompt_length;
        positions.end.min(length) - positions.start.min(length)
    }

    fn is_beyond(&self, tokens: usize) -> bool {
        self.generator.decoder.original_context().is_some_and(|context| tokens > context)
    }

    /// Tells each sequence that is in a step for the first time that its wait is over.  Whoever wants to know how long it
    /// took reads a clock.
    fn announce_starts(&mut self, plan: &[Work]) {
        for Work { id, .. } in plan {
            if let Some(sequence) = self.sequences.get_mut(id)
                && !sequence.started
            {
                sequence.started = true;
                // The ticket may be gone, which is fine.
                let _ = sequence.events.send(TokenEvent::Started);
            }
        }
    }

    fn close(&mut self, id: SequenceId, last: TokenEvent) {
        self.scheduler.remove(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            // The ticket may be gone, which is fine.
            let _ = sequence.events.send(last);
        }
    }

    pub(crate) fn cancel_all(&mut self) {
        for (id, sequence) in std::mem::take(&mut self.sequences) {
            self.scheduler.remove(id);
            let usage = sequence.generation.usage();
            let _ = sequence.events.send(TokenEvent::Finished { reason: FinishReason::Cancelled, usage });
        }
    }

    /// Ends all with an error; reads nothing of the model or the scheduler.
    pub(crate) fn fail_all(&mut self, error: impl Fn() -> InferenceError) {
        for (_, sequence) in std::mem::take(&mut self.sequences) {
            let _ = sequence.events.send(TokenEvent::Failed(error()));
        }
    }

    pub(crate) fn publish(&self, monitor: &Monitor) {
        let scheduled = self.scheduler.stats();
        monitor.update(|stats| {
            stats.queued = scheduled.waiting;
            stats.running = scheduled.running;
            stats.tokens_held = scheduled.blocks_used * crate::scheduler::BLOCK_TOKENS;
            stats.prompt_tokens_found = scheduled.tokens_found;
            stats.preemptions = scheduled.preemptions;
        });
        let waiting = self.scheduler.waiting_ids().filter_map(|id| self.sequences.get(&id)?.adapter.as_ref());
        let names: BTreeSet<String> = waiting.map(|adapter| adapter.name().to_owned()).collect();
        monitor.set_waiting_adapters(names);
    }
}

/// What a sequence's logits came to.
struct Outcome {
    /// The tokens that are computed next, each of which but the last was drafted.
    chosen: Vec<u32>,
    /// How many drafted tokens were chosen.
    right: usize,
    /// Whether that was all, and how it ended.
    end: Option<Result<(), InferenceError>>,
}

impl Outcome {
    fn ended(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }
}

/// Chooses a token for each row of logits, as long as those before were the drafted ones.
fn choose<'a>(sequence: &mut Sequence, rows: &mut impl Iterator<Item = &'a mut [f32]>, drafted: &[u32]) -> Outcome {
    let mut outcome = Outcome { chosen: Vec::new(), right: 0, end: None };
    let mut drafts = drafted.iter();
    let mut events = Vec::new();
    for logits in rows {
        match sequence.generation.advance(logits, &mut events) {
            Ok(Progress::Next(token)) => {
                outcome.chosen.push(token);
                if drafts.next() != Some(&token) {
                    break;
                }
                outcome.right += 1;
            }
            Ok(Progress::Ended(_)) => {
                outcome.end = Some(Ok(()));
                break;
            }
            Err(error) => {
                outcome.end = Some(Err(error));
                break;
            }
        }
    }
    if !drafted.is_empty() {
        sequence.drafts.learn(drafted.len(), outcome.right);
    }
    for event in events {
        // Whoever dropped the ticket is noticed at the next turn.
        let _ = sequence.events.send(event);
    }
    outcome
}
