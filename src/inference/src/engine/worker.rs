//! The engine's thread.  It owns the model and everything about open requests; only what the monitor tells and the list of
//! adapters are shared, behind locks that are held for as long as it takes to copy them.  One turn of the loop takes what
//! was sent, forgets what nobody waits for, and computes one step of bounded size.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use crate::adapters::{IfTaken, LoadedAdapter, Registry};
use crate::engine::EngineState;
use crate::engine::embedding::EmbeddingQueue;
use crate::engine::generations::Generations;
use crate::engine::handle::Command;
use crate::engine::monitor::Monitor;
use crate::error::InferenceError;
use crate::event::TokenEvent;

/// Everything that the engine's thread owns.
pub(crate) struct Worker {
    work: Work,
    channels: Channels,
}

/// What the model is for.
pub(crate) enum Work {
    Generating(Box<Generations>),
    Embedding(Box<EmbeddingQueue>),
}

/// How the thread and everybody else reach each other.
pub(crate) struct Channels {
    pub(crate) commands: Receiver<Command>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) adapters: Arc<Registry>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Next,
    Last,
}

impl Worker {
    pub(crate) fn new(work: Work, channels: Channels) -> Worker {
        Worker { work, channels }
    }

    /// The thread's body: serves until it is told to end or nobody is left to tell it.
    pub(crate) fn run(mut self) {
        // After a panic the worker is used for one thing only: telling everybody, which reads no state of the model.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        match outcome {
            Ok(()) => self.channels.monitor.advance(EngineState::Stopped),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
                self.channels.monitor.advance(EngineState::Failed);
                self.fail_all(&message.unwrap_or_else(|| "a panic without a message".to_owned()));
            }
        }
    }

    fn serve(&mut self) {
        let mut draining = false;
        loop {
            if self.receive(&mut draining) == Turn::Last {
                return self.cancel_all();
            }
            let monitor = &self.channels.monitor;
            match &mut self.work {
                Work::Generating(generations) => {
                    generations.forget_abandoned(monitor);
                    generations.step(monitor);
                }
                Work::Embedding(embeddings) => {
                    embeddings.forget_abandoned(monitor);
                    embeddings.step(monitor);
                }
            }
            self.publish();
            if draining && self.is_idle() {
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        match &self.work {
            Work::Generating(generations) => generations.is_empty(),
            Work::Embedding(embeddings) => embeddings.is_empty(),
        }
    }

    /// Takes what was sent; waits only if there is nothing else to do.
    fn receive(&mut self, draining: &mut bool) -> Turn {
        loop {
            let command = if self.is_idle() && !*draining {
                self.channels.commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                self.channels.commands.try_recv()
            };
            match command {
                Ok(Command::Generate(job)) => match &mut self.work {
                    Work::Generating(generations) => generations.open(*job),
                    Work::Embedding(_) => drop(job.events.send(TokenEvent::Failed(InferenceError::EngineStopped))),
                },
                Ok(Command::Embed(job)) => match &mut self.work {
                    Work::Embedding(embeddings) => embeddings.push(*job),
                    Work::Generating(_) => drop(job.result.send(Err(InferenceError::EngineStopped))),
                },
                // Whoever asked may be gone, which is fine.
                Ok(Command::Adopt(adapter, if_taken, answer)) => drop(answer.send(self.adopt(*adapter, if_taken))),
                Ok(Command::Release(name, answer)) => drop(answer.send(self.channels.adapters.remove(&name))),
                Ok(Command::Drain) | Err(TryRecvError::Disconnected) => {
                    *draining = true;
                    if command.is_err() {
                        return Turn::Next;
                    }
                }
                Ok(Command::Stop) => return Turn::Last,
                Err(TryRecvError::Empty) => return Turn::Next,
            }
        }
    }

    /// An adapter that computes nothing would fail each of its requests alone; it is refused before the first.
    fn adopt(&mut self, adapter: LoadedAdapter, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, InferenceError> {
        if let Work::Generating(generations) = &mut self.work {
            generations.prove(&adapter)?;
        }
        self.channels.adapters.insert(adapter, if_taken)
    }

    fn cancel_all(&mut self) {
        match &mut self.work {
            Work::Generating(generations) => generations.cancel_all(),
            Work::Embedding(embeddings) => embeddings.fail_all(|| InferenceError::EngineStopped),
        }
        self.publish();
    }

    fn fail_all(&mut self, message: &str) {
        let error = || InferenceError::EnginePanicked { message: message.to_owned() };
        match &mut self.work {
            Work::Generating(generations) => generations.fail_all(error),
            Work::Embedding(embeddings) => embeddings.fail_all(error),
        }
        while let Ok(command) = self.channels.commands.try_recv() {
            match command {
                Command::Generate(job) => drop(job.events.send(TokenEvent::Failed(error()))),
                Command::Embed(job) => drop(job.result.send(Err(error()))),
                // A dropped answer says that the engine has ended.
                Command::Adopt(..) | Command::Release(..) | Command::Drain | Command::Stop => {}
            }
        }
    }

    fn publish(&self) {
        let monitor = &self.channels.monitor;
        match &self.work {
            Work::Generating(generations) => generations.publish(monitor),
            Work::Embedding(embeddings) => {
                let (running, queued) = embeddings.counts();
                monitor.update(|stats| (stats.running, stats.queued) = (running, queued));
                monitor.set_waiting_adapters(BTreeSet::new());
            }
        }
    }
}
