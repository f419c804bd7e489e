//! `[advisor]` of the job file: who is asked about changes of the number of ranks.

/// How the advisor is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdvisorAddress {
    /// An OpenAI-compatible endpoint.
    Endpoint {
        /// `url`: its address.
        url: String,
        /// `model`: the model that it runs.
        model: String,
    },
    /// `command`: these words, run as a command.
    Command(Vec<String>),
}
