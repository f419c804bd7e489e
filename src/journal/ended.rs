//! Which sessions of a run have certainly ended.
//!
//! Only two things prove that a session has ended: the journal records its end; or the node of its
//! process, which sees every lock taken there, shows that the run directory's lock is free, and the
//! session began after that lock's last holder had taken it. An unreadable file, or a lock that
//! seems free from another node, proves nothing.

use super::Holder;
use super::replay::Replay;

/// The sessions that have certainly ended, by the time at which they began.
#[derive(Clone, Debug, Default)]
pub struct EndedSessions {
    /// Start times of the sessions whose end is recorded, in milliseconds since 1970.
    written: Vec<u64>,
    /// Sessions that began at or after this time have ended too, in milliseconds since 1970.
    gone_since: Option<u64>,
}

impl EndedSessions {
    /// Derives them from the run's journal, as far as it can be read, and from the last holder of
    /// its lock if that process is certainly gone.
    pub(crate) fn of(replay: Option<&Replay>, gone: Option<&Holder>) -> EndedSessions {
        let ended = replay.into_iter().flat_map(|replay| &replay.sessions).filter(|session| session.ended.is_some());
        let since = gone.map(|holder| holder.since_unix_ns / 1_000_000).filter(|&since| since > 0);
        EndedSessions { written: ended.map(|session| session.began.unix_ns / 1_000_000).collect(), gone_since: since }
    }

    /// True if the session that began at this time (in milliseconds since 1970) has certainly
    /// ended.
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
