//! What a date means for a service that runs.  It is not stopped dead by one: it says so in the log, and what happens at
//! its next start is what the vendor's policy says.  The time that is seen is kept, so that a clock that is set back while
//! nothing runs brings nothing back to life.

use std::time::Duration;

use ampoule_bundle::statement::ExpiryPolicy;
use ampoule_bundle::{HighWaterMarks, Timestamp};

use crate::state::Keeping;

/// How often the time is looked at, and said what it means.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How many looks lie between two notes of the time.
const LOOKS_A_DAY: u32 = 24;

/// When a bundle expires, and what its vendor wants to happen then.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// When, if ever.
    pub expires: Option<Timestamp>,
    /// What happens then.
    pub policy: ExpiryPolicy,
}

impl Expiry {
    /// What a service that still runs says about it, once the time has come.
    fn words(&self, now: Timestamp) -> Option<&'static str> {
        self.expires.filter(|expires| now >= *expires)?;
        Some(match self.policy {
            ExpiryPolicy::RefuseLoad => "the bundle has expired and should be replaced now: its next start is refused",
            ExpiryPolicy::ServeUntilRestart => {
                "the bundle has expired; its vendor lets it be served until the next start, which is refused"
            }
            ExpiryPolicy::Warn => "the bundle has expired; its vendor lets it be served on with this warning",
        })
    }
}

/// Looks at the time as long as the service runs; it ends with the runtime that it was spawned on.
pub async fn watch(expiry: Expiry, keeping: Keeping, clock: fn() -> jiff::Timestamp) {
    for look in 0_u32.. {
        let now = Timestamp::new(clock());
        if let (Some(words), Some(expires)) = (expiry.words(now), expiry.expires) {
            tracing::warn!(%expires, "{words}");
        }
        // The first look is that of the start, which has just noted the time.
        if look > 0 && look.is_multiple_of(LOOKS_A_DAY) {
            note(&keeping, now).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn note(keeping: &Keeping, now: Timestamp) {
    let keeping = keeping.clone();
    let mut seen = HighWaterMarks::none();
    seen.see_time(now);
    let noted = tokio::task::spawn_blocking(move || keeping.raise(&seen, "the time of a running service"));
    // A service that runs is not ended by a disk that is full; its next start is refused if the state is not usable.
    if let Ok(Err(error)) = noted.await {
        tracing::error!(%error, "the time could not be kept");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_running_service_says_what_its_next_start_will_do() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let expiry = |policy| Expiry { expires: Some(time("2027-01-01T00:00:00Z")), policy };
        let words = |policy, now| expiry(policy).words(time(now));
        assert_eq!(words(ExpiryPolicy::RefuseLoad, "2026-12-31T23:59:59Z"), None);
        for (policy, part) in [
            (ExpiryPolicy::RefuseLoad, "its next start is refused"),
            (ExpiryPolicy::ServeUntilRestart, "until the next start"),
            (ExpiryPolicy::Warn, "served on with this warning"),
        ] {
            assert!(words(policy, "2027-01-01T00:00:00Z").unwrap().contains(part), "{policy:?}");
        }
        let never = Expiry { expires: None, policy: ExpiryPolicy::RefuseLoad };
        assert_eq!(never.words(time("2099-01-01T00:00:00Z")), None);
    }
}
