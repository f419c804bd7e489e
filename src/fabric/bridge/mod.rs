//! The bridge: frames between the run's own world and ranks that join it later, over TCP.
//!
//! MPI lets nobody in once a world has begun. So rank 0 may listen, and each rank that joins has one *link* to it. What is on a link is the
//! same frames as inside a world, and rank 0 passes on what is not for itself (`combined`): the rest of the program does not know which path
//! a frame takes.
//!
//! | file | one idea |
//! |---|---|
//! | `contact` | where the run can be reached, and its secret, in a file that only its owner can read |
//! | `stream` | frames in a stream of bytes, taken apart again however they are cut |
//! | `secure` | both sides prove that they know the secret; then records that nobody else can read or forge |
//! | `link` | one connection: a thread that reads, one that writes, a heartbeat |
//! | `join` | the end of a rank that joins |
//! | `hub` | rank 0's end: listens, refuses strangers, knows which rank is behind which link |
//!
//! Trust: who does not know the secret is refused before it has cost more than a few hundred bytes and a thread for some seconds, and is
//! never answered in clear but with the protocol's name and version. Who knows the secret is believed as a rank of the run, within bounds: no
//! frame is larger than [`MOST`](super::wire::MOST), no memory is set aside for what has only been announced, and nobody speaks for a rank
//! that is not his own.
//!
//! A link that has been silent for [`SILENCE`] is closed, as is one that delivers nonsense. What that means is for others to say.

pub mod contact;
pub mod hub;
pub mod join;
pub mod link;
pub mod secure;
pub mod stream;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A link that has nothing to say shows at least this often that it lives.
pub const BEAT: Duration = Duration::from_secs(1);

/// Two heartbeats are missing if nothing has come for so long.
pub const TWO_BEATS_MISSING: Duration = Duration::from_millis(2500);

/// A link on which nothing has come for so long is given up. A machine that swaps or compiles may hold its threads up for seconds.
pub const SILENCE: Duration = Duration::from_secs(15);

/// A stranger must have shown that it knows the secret, and said what it wants, in this time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who wants to come, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A world of so many ranks. Asked by its first rank, which becomes the first of the numbers given out.
    World {
        /// How many ranks it has.
        ranks: u32,
        /// The block that it is part of, if the run itself asked for it.
        block: Option<u64>,
        /// Name of its node.
        node: String,
    },
    /// A further rank of a world that was let in, under the number that follows from its place there.
    Rank {
        /// Its number.
        rank: u32,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a rank of the run.
    Admitted {
        /// Its number.
        rank: u32,
    },
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
