//! Which sites fail, and how long requests to them wait.
//!
//! A site of several that fails is not asked again for a while, which doubles with each failure in
//! a row. The only site is asked again at once.

use std::time::Duration;

use crate::model::Time;
use crate::text::seconds;

/// A site counts as failed for good after this many refused requests in a row.
pub const MAX_REFUSALS: u32 = 10;

/// As after this many failed starts in a row.
pub const MAX_FAILED_STARTS: u32 = 3;

/// After a first failure a site of several is not asked for this long.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);

/// Upper bound of that time.
pub const MAX_BACKOFF: Duration = Duration::from_secs(900);

/// An observed wait says for this multiple of itself how long a site lets wait.
const WAIT_VALIDITY: u32 = 4;

/// What became of the requests to a site.
#[derive(Clone, Copy, Debug, Default)]
pub struct SiteHealth {
    /// Refused requests in a row.
    refusals: u32,
    /// Failed starts in a row.
    failed_starts: u32,
    /// Until when it is not asked.
    closed_until: Option<Time>,
    /// When a request lost against another site, and how long it had waited.
    outwaited: Option<(Time, Duration)>,
}

impl SiteHealth {
    /// Why it counts as failed for good, if it does.
    pub fn has_failed(&self) -> Option<String> {
        if self.refusals >= MAX_REFUSALS {
            return Some(format!("{MAX_REFUSALS} requests in a row were refused"));
        }
        (self.failed_starts >= MAX_FAILED_STARTS)
            .then(|| format!("{MAX_FAILED_STARTS} blocks in a row failed to start"))
    }

    /// A node of the site took part.
    pub fn works(&mut self) {
        *self = SiteHealth { outwaited: self.outwaited, ..SiteHealth::default() };
    }

    /// A request was refused, or a start has failed.
    pub fn fails(&mut self, now: Time, refused: bool, is_one_of_several: bool) {
        *(if refused { &mut self.refusals } else { &mut self.failed_starts }) += 1;
        if is_one_of_several {
            let doubled = (self.refusals + self.failed_starts - 1).min(16);
            self.closed_until = Some(now.after((FIRST_BACKOFF * (1 << doubled)).min(MAX_BACKOFF)));
        }
    }

    /// For how long it is not asked because it failed; `None` if it can be asked.
    pub fn closed_for(&self, now: Time) -> Option<Duration> {
        let until = self.closed_until.filter(|until| *until > now)?;
        Some(until.since(now))
    }

    /// Why it is not asked now, for people, if so.
    pub fn closed(&self, now: Time) -> Option<String> {
        let rest = self.closed_for(now)?;
        Some(format!("failed, and is asked again after {}", seconds(rest.as_secs_f64())))
    }

    /// A request that had waited this long lost against another site.
    pub fn was_outwaited(&mut self, now: Time, waited: Duration) {
        self.outwaited = Some((now, waited));
    }

    /// The time that a request has to wait, where nodes took `usual` to arrive. A site that was
    /// last `used` long ago may have changed: it counts as one that grants within its patience.
    /// `longest` is how long present requests have waited.
    pub fn expected_wait(
        &self,
        now: Time,
        used: Time,
        longest: Option<Duration>,
        (usual, patience): (Duration, Duration),
    ) -> Duration {
        let is_recent = now.since(used) <= usual.saturating_mul(WAIT_VALIDITY);
        let usual = if is_recent { usual } else { usual.min(patience) };
        let recent = self.outwaited.filter(|(at, waited)| now.since(*at) < *waited * WAIT_VALIDITY);
        longest.into_iter().chain(recent.map(|(_, waited)| waited)).fold(usual, Duration::max)
    }
}
