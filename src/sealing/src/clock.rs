//! The one place that asks what time it is.

use ampoule_bundle::Timestamp;

use crate::error::SealingError;

/// `SOURCE_DATE_EPOCH` if it is set, as reproducible builds have it, and the system's clock otherwise.
///
/// # Errors
/// `BadSourceDateEpoch` when the variable is set to something else than whole seconds.
pub(crate) fn now() -> Result<Timestamp, SealingError> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Timestamp::new(jiff::Timestamp::now())) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let refuse = || SealingError::BadSourceDateEpoch { found: value.to_string_lossy().into_owned() };
    time.map(Timestamp::new).ok_or_else(refuse)
}

/// The same moment so many years of 365 days later.
pub(crate) fn years_after(time: Timestamp, years: i64) -> Timestamp {
    let later = time.as_second().saturating_add(years.saturating_mul(365 * 24 * 3600));
    Timestamp::new(jiff::Timestamp::from_second(later).unwrap_or(jiff::Timestamp::MAX))
}
