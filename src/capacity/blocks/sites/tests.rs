use std::collections::BTreeMap;

use super::super::NodeGrant;
use super::*;
use crate::scale::site_health::{MAX_BACKOFF, MAX_REFUSALS};

fn second(s: u64) -> Time {
    Time(s * 1_000_000_000)
}

fn granted() -> BlockEvent {
    BlockEvent::Granted(NodeGrant { node: "n".into(), ..NodeGrant::default() })
}

/// The wait at the first site by present and recent requests alone.
fn shown(blocks: &Blocks, now: u64) -> Duration {
    blocks.expected_wait(second(now), SiteId(0), Duration::ZERO, Duration::ZERO)
}

fn blocks_of(sites: usize) -> Blocks {
    let mut blocks = Blocks::default();
    blocks.set_sites(sites);
    blocks
}

fn ask(blocks: &mut Blocks, now: u64, site: u32) -> BlockId {
    blocks.request(second(now), SiteId(site), &Wanted::default(), &[]).unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

fn patience(_: SiteId) -> Duration {
    MINUTE
}

#[test]
fn the_request_that_loses_is_withdrawn_and_shows_how_long_its_site_lets_wait() {
    let mut blocks = blocks_of(2);
    let first = ask(&mut blocks, 0, 0);
    blocks.step(second(1), first, BlockEvent::Accepted("job 1".into()));
    assert!(blocks.overdue(second(59), &patience).is_empty());
    let need = blocks.overdue(second(60), &patience).remove(0);
    assert_eq!(need.waits_at, [SiteId(0)]);
    let second_block = blocks.request_too(second(60), &need, SiteId(1), &["big".to_owned()]).unwrap();
    assert_eq!((blocks.coming().count(), blocks.rivals(first).collect::<Vec<_>>()), (1, vec![SiteId(1)]));
    assert_eq!(&*blocks.get(second_block).unwrap().labels, ["big"], "those of its site");
    blocks.step(second(70), second_block, granted());
    assert_eq!(blocks.take_orders(), [super::super::ProviderOrder::Withdraw(first)]);
    assert_eq!(blocks.get(first).unwrap().state, State::Releasing);
    assert_eq!(shown(&blocks, 71), Duration::from_secs(70));
    assert_eq!(shown(&blocks, 70 + 4 * 70), Duration::ZERO, "which may have changed since");
    assert!(blocks.overdue(second(900), &patience).is_empty());
}

#[test]
fn a_need_that_is_dropped_is_dropped_at_every_site() {
    let mut blocks = blocks_of(2);
    let first = ask(&mut blocks, 0, 0);
    let need = blocks.overdue(second(60), &patience).remove(0);
    let other = blocks.request_too(second(60), &need, SiteId(1), &[]).unwrap();
    assert_eq!(blocks.withdraw_waiting(second(61), 9), 1, "it is one node");
    assert!([first, other].iter().all(|id| blocks.get(*id).unwrap().state == State::Releasing));
    assert_eq!(blocks.take_orders().len(), 2);
    assert!(blocks.request_too(second(62), &need, SiteId(1), &[]).is_none());
}

#[test]
fn a_refusal_moves_the_need_on_and_closes_the_site_for_a_while() {
    let mut blocks = blocks_of(2);
    let mut now = 0;
    for closed in [5, 10, 20] {
        let id = ask(&mut blocks, now, 0);
        blocks.step(second(now), id, BlockEvent::Refused("no".into()));
        let need = blocks.overdue(second(now), &patience).remove(0);
        assert!(need.waits_at.is_empty());
        assert_eq!(blocks.closed_for(second(now), SiteId(0)), Some(Duration::from_secs(closed)));
        assert!(blocks.request_too(second(now), &need, SiteId(0), &[]).is_none());
        assert!(blocks.request_too(second(now), &need, SiteId(1), &[]).is_some());
        now += closed;
    }
    let id = ask(&mut blocks, now, 0);
    blocks.step(second(now), id, BlockEvent::Accepted("job".into()));
    blocks.step(second(now), id, BlockEvent::Joined);
    let id = ask(&mut blocks, now, 0);
    blocks.step(second(now), id, BlockEvent::Refused("no".into()));
    assert_eq!(blocks.closed_for(second(now), SiteId(0)), Some(Duration::from_secs(5)), "it had worked");
}

#[test]
fn requests_end_when_every_site_has_failed() {
    let mut blocks = blocks_of(2);
    let mut now = 0;
    let mut refuse = |blocks: &mut Blocks, site: u32| {
        let id = ask(blocks, now, site);
        blocks.step(second(now), id, BlockEvent::Refused("no".into()));
        now += MAX_BACKOFF.as_secs();
    };
    for _ in 0..2 * MAX_REFUSALS {
        refuse(&mut blocks, 0);
    }
    assert!(blocks.paused().is_none(), "the other one may work");
    assert!(blocks.is_given_up(SiteId(0)) && !blocks.is_given_up(SiteId(1)));
    for _ in 0..MAX_REFUSALS {
        refuse(&mut blocks, 1);
    }
    assert!(blocks.paused().is_some_and(|why| why.contains("every site")));
}

#[test]
fn the_allocation_behind_the_only_site_makes_it_not_one_of_several() {
    let mut blocks = blocks_of(1);
    let own = blocks.own(second(0), SiteId(1));
    blocks.step(second(0), own, BlockEvent::Ended { why: "it died".into(), at: None });
    for _ in 0..MAX_REFUSALS {
        let id = ask(&mut blocks, 0, 0);
        blocks.step(second(0), id, BlockEvent::Refused("no".into()));
    }
    assert!(blocks.paused().is_some_and(|why| !why.contains("every site")));
}

#[test]
fn a_site_that_let_wait_too_long_is_tried_again_after_a_while() {
    let mut blocks = blocks_of(2);
    let usual = 3 * MINUTE;
    let wait = |blocks: &Blocks, now: u64| blocks.expected_wait(second(now), SiteId(0), usual, MINUTE);
    assert_eq!((wait(&blocks, 720), wait(&blocks, 721)), (usual, MINUTE));
    let id = ask(&mut blocks, 800, 0);
    blocks.step(second(980), id, BlockEvent::Joined);
    assert_eq!((wait(&blocks, 1700), wait(&blocks, 1701)), (usual, MINUTE));
}

#[test]
fn the_next_site_is_asked_for_what_the_node_is_wanted_for() {
    let mut blocks = blocks_of(2);
    let need = NodeNeed { labels: ["gpu".to_owned()].into(), ..NodeNeed::default() };
    let wanted = Wanted { need, limit: Some(MINUTE) };
    let id = blocks.request(second(0), SiteId(0), &wanted, &[]).unwrap();
    blocks.step(second(0), id, BlockEvent::Refused("no".into()));
    assert_eq!(blocks.overdue(second(0), &patience).remove(0).wanted, wanted);
}

/// Chance that follows from a seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a site of the simulation does with requests, in a phase of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Grants,
    Full,
    Refuses,
    Dies,
}

/// Runs three sites through phases of random moods. The last phase grants everything.
fn simulate(seed: u64) {
    const LIMITS: [usize; 3] = [2, 3, 4];
    const MOST: usize = 5;
    const PHASES: u64 = 6;
    let (mut dice, mut blocks) = (Dice(seed), blocks_of(3));
    let mut wanted = MOST;
    for now in 0..PHASES * 1000 + 2000 {
        let phase = now / 1000;
        let mood = |site: u32| match phase {
            PHASES.. => Mood::Grants,
            _ => [Mood::Grants, Mood::Full, Mood::Refuses, Mood::Dies]
                [(Dice(seed ^ (phase << 8) ^ (u64::from(site) << 16)).roll(1 << 20) % 4) as usize],
        };
        let time = second(now);
        let room = |blocks: &Blocks, site: u32| {
            let of_site = blocks.iter().filter(|block| block.site == SiteId(site) && !block.state.is_over());
            LIMITS[site as usize].saturating_sub(of_site.count())
        };
        let open = |blocks: &Blocks, site: u32| {
            let can_be_asked = blocks.paused().is_none() && blocks.closed_for(time, SiteId(site)).is_none();
            can_be_asked && room(blocks, site) > 0
        };
        // The sites answer.
        let waiting: Vec<(BlockId, SiteId, State)> = blocks
            .iter()
            .filter(|block| !block.state.is_over())
            .map(|block| (block.id, block.site, block.state))
            .collect();
        for (id, site, state) in waiting {
            let event = match (mood(site.0), state) {
                (Mood::Refuses, State::Requested) => BlockEvent::Refused("no".into()),
                (_, State::Requested) => BlockEvent::Accepted(format!("job {id}")),
                (Mood::Dies, State::Pending) => BlockEvent::Ended { why: "died".into(), at: None },
                (Mood::Grants, State::Pending) if dice.roll(30) == 0 => granted(),
                (Mood::Grants, State::Granted) if dice.roll(5) == 0 => BlockEvent::Joined,
                (Mood::Dies, State::Active) if dice.roll(50) == 0 => BlockEvent::Left,
                (_, State::Releasing) if dice.roll(3) == 0 => BlockEvent::Ended { why: "gone".into(), at: None },
                _ => continue,
            };
            blocks.step(time, id, event);
        }
        blocks.tick(time, None);
        // Needs move on, and the run asks for what it lacks.
        for need in blocks.overdue(time, &patience) {
            let site = (0..3).find(|&site| !need.waits_at.contains(&SiteId(site)) && open(&blocks, site));
            match site {
                Some(site) => _ = blocks.request_too(time, &need, SiteId(site), &[]).unwrap(),
                None if need.waits_at.is_empty() => blocks.give_up(need.need),
                None => {}
            }
        }
        if now % 500 == 499 {
            wanted = 1 + dice.roll(MOST as u64) as usize;
        }
        let here = |blocks: &Blocks| blocks.iter().filter(|block| block.state == State::Active).count();
        let supply = blocks.coming().count() + here(&blocks);
        for _ in supply..wanted {
            if let Some(site) = (0..3).find(|&site| open(&blocks, site)) {
                blocks.request(time, SiteId(site), &Wanted::default(), &[]).unwrap();
            }
        }
        if supply > wanted {
            blocks.withdraw_waiting(time, supply - wanted);
        }
        // What must hold at any moment.
        let context = || format!("seed {seed}, second {now}");
        let mut kept: BTreeMap<BlockId, usize> = BTreeMap::new();
        for block in blocks.iter().filter(|block| matches!(block.state, State::Granted | State::Active)) {
            *kept.entry(block.need).or_default() += 1;
        }
        assert!(kept.values().all(|count| *count == 1), "a need has two nodes: {}", context());
        assert!(blocks.coming().count() + here(&blocks) <= MOST, "too many: {}", context());
        for (site, limit) in (0..).zip(LIMITS) {
            assert!(
                room(&blocks, site) <= limit
                    && blocks.iter().filter(|b| b.site == SiteId(site) && !b.state.is_over()).count() <= limit
            );
        }
        for (need, _) in blocks.open.iter() {
            let waits = blocks.of_need(*need).any(|block| block.is_coming());
            assert!(waits, "a need is forgotten: {}", context());
            assert!(!kept.contains_key(need), "it is met: {}", context());
        }
        for block in blocks.iter().filter(|block| block.is_coming() && kept.contains_key(&block.need)) {
            assert_eq!(kept[&block.need], 1, "{}", context());
            assert_eq!(block.state, State::Granted, "a loser waits on: {}", context());
        }
        let withdrawn = blocks.take_orders().len();
        assert!(withdrawn <= 4 * MOST, "{}", context());
    }
    if blocks.paused().is_none() {
        let active = blocks.iter().filter(|block| block.state == State::Active).count();
        assert_eq!(active + blocks.coming().count(), wanted.max(active), "seed {seed}: sites that came back are asked");
        assert!(active > 0, "seed {seed}");
    }
}

#[test]
fn no_need_is_forgotten_and_no_limit_exceeded_whatever_the_sites_do() {
    (0..15).for_each(simulate);
}
