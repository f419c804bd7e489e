//! The bridge: frames over TCP between the run's first world and ranks that join later.
//!
//! An MPI world cannot grow. Rank 0 may therefore listen on a TCP port, and each rank that joins
//! later has one *link* to it. Links carry the same frames as MPI does, and rank 0 forwards those
//! for other ranks (`routed`). The rest of the program does not know which path a frame takes.
//!
//! | file | one idea |
//! |---|---|
//! | `contact` | the run's addresses and secret, in a file that only its owner can read |
//! | `stream` | frames in a byte stream, and how to split it again |
//! | `secure` | mutual proof of the secret, then encrypted and authenticated records |
//! | `link` | an open connection: a reading thread, a writing thread, a heartbeat |
//! | `join` | the joining rank's end |
//! | `hub` | rank 0's end: accepts, authenticates, maps ranks to links |
//!
//! Trust: a peer without the secret is refused before it has cost more than a few hundred bytes and
//! a thread for some seconds. In clear text it sees only the protocol's name and version. A peer
//! with the secret is trusted as a rank of the run, within bounds: no frame is larger than
//! [`MOST`](super::wire::MOST), no memory is allocated for data that has only been announced, and a
//! peer can send only under its own rank number.
//!
//! A link on which nothing has arrived for [`MAX_SILENCE`], or on which invalid data arrives, is
//! closed. The coordinator decides what that means for the rank.

pub mod contact;
pub mod hub;
pub mod join;
pub mod link;
pub mod secure;
pub mod stream;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An idle link sends a heartbeat at this interval.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Two heartbeats are overdue if nothing has arrived for this long.
pub const TWO_BEATS_MISSING: Duration = Duration::from_millis(2500);

/// A link on which nothing has arrived for this long is closed. The limit is generous because
/// swapping or compiling may stall a machine's threads for seconds.
pub const MAX_SILENCE: Duration = Duration::from_secs(15);

/// A new connection must prove that it knows the secret and send its request within this time.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A whole world. Its first rank asks, and gets the first of the consecutive numbers.
    World {
        /// How many ranks it has.
        ranks: u32,
        /// Number of the block that it belongs to, if the run itself requested that block.
        block: Option<u64>,
        /// Name of the first rank's node.
        node: String,
    },
    /// A further rank of a world that was admitted. Its number follows from its position in that
    /// world.
    Rank {
        /// Its number.
        rank: u32,
    },
}

/// Rank 0's answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// The rank is admitted.
    Admitted {
        /// Its number.
        rank: u32,
    },
    /// The rank is refused.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
