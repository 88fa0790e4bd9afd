//! The closed list of paths that are counted apart, so that the number of series does not follow what clients ask for.

/// The paths that are counted apart.  Everything else is `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/models` and `/v1/models/{id}`
    Models,
    /// `/livez`, `/readyz` and `/v1/health/…`
    Health,
    /// `/v1/metadata`
    Metadata,
    /// `/` and `/v1/status`
    Status,
    /// Whatever is not served.
    Other,
}

impl Endpoint {
    /// The endpoints whose requests are work for the model: what a site promises its users is measured on these.
    pub const WORKING: [Endpoint; 3] = [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings];

    /// The endpoint that a path belongs to.
    pub fn of(path: &str) -> Endpoint {
        match path {
            "/v1/chat/completions" => Endpoint::ChatCompletions,
            "/v1/completions" => Endpoint::Completions,
            "/v1/embeddings" => Endpoint::Embeddings,
            "/livez" | "/readyz" | "/v1/health/live" | "/v1/health/ready" => Endpoint::Health,
            "/v1/metadata" => Endpoint::Metadata,
            "/" | "/v1/status" => Endpoint::Status,
            path if path == "/v1/models" || path.starts_with("/v1/models/") => Endpoint::Models,
            _ => Endpoint::Other,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "chat_completions",
            Endpoint::Completions => "completions",
            Endpoint::Embeddings => "embeddings",
            Endpoint::Models => "models",
            Endpoint::Health => "health",
            Endpoint::Metadata => "metadata",
            Endpoint::Status => "status",
            Endpoint::Other => "other",
        }
    }
}
