//! Which sessions of a run nobody leads any more, for certain.
//!
//! Two things prove it, and nothing else does: the journal says how the session ended; or its own
//! node, which sees every lock that is taken there, shows that nobody holds the run directory's,
//! and the session began after its last holder had taken it. That a file cannot be read, or that a
//! lock seems free from another node, is no proof.

use super::Holder;
use super::replay::Replay;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct EndedSessions {
    /// When they began whose end is written, in milliseconds since 1970.
    written: Vec<u64>,
    /// Sessions that began from then on are over, too.
    gone_since: Option<u64>,
}

impl EndedSessions {
    /// By the run's journal, as far as it can be read, and the last holder of its lock if that is
    /// gone for certain.
    pub(crate) fn of(replay: Option<&Replay>, gone: Option<&Holder>) -> EndedSessions {
        let ended = replay.into_iter().flat_map(|replay| &replay.sessions).filter(|session| session.ended.is_some());
        let since = gone.map(|holder| holder.since_unix_ns / 1_000_000).filter(|&since| since > 0);
        EndedSessions { written: ended.map(|session| session.began.unix_ns / 1_000_000).collect(), gone_since: since }
    }

    /// True if the session is among them that began then (in milliseconds since 1970).
    pub fn contains(&self, began_unix_ms: u64) -> bool {
        self.written.contains(&began_unix_ms) || self.gone_since.is_some_and(|since| began_unix_ms >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_of_the_lock_led_the_sessions_that_began_after_it_was_taken() {
        let gone = |since_unix_ns| Holder { pid: 1, host: "n".into(), since_unix_ns };
        let ended = EndedSessions::of(None, Some(&gone(5_000_900_000)));
        assert!(ended.contains(5000) && ended.contains(6000) && !ended.contains(4999));
        assert!(!EndedSessions::of(None, Some(&gone(0))).contains(5000), "its file holds nonsense");
        assert!(!EndedSessions::of(None, None).contains(5000));
    }
}
