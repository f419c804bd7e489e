use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::scale::site_health::{MAX_FAILED_STARTS, MAX_REFUSALS};

fn all(blocks: &mut Blocks, id: BlockId, events: &[BlockEvent]) -> State {
    for (at, event) in (1..).zip(events) {
        blocks.step(Time(at * 1_000_000_000), id, event.clone());
    }
    blocks.get(id).unwrap().state
}

fn accepted() -> BlockEvent {
    BlockEvent::Accepted("job 7".into())
}

fn granted() -> BlockEvent {
    BlockEvent::Granted(NodeGrant { node: "n1".into(), ..NodeGrant::default() })
}

fn ended() -> BlockEvent {
    BlockEvent::Ended { why: "exit 0".into(), at: None }
}

fn second(s: u64) -> Time {
    Time(s * 1_000_000_000)
}

#[test]
fn a_block_is_billed_from_its_grant_to_its_end() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    let life = [accepted(), granted(), BlockEvent::Joined, BlockEvent::Drain, BlockEvent::Left, ended()];
    assert_eq!(all(&mut blocks, id, &life), State::Released);
    let block = blocks.get(id).unwrap();
    assert_eq!((block.granted, block.ended), (Some(Time(2_000_000_000)), Some(Time(6_000_000_000))));
    assert_eq!(blocks.take_orders(), [ProviderOrder::Release(id)], "it ended by itself");
}

#[test]
fn what_waits_is_withdrawn_and_what_does_not_end_is_ended() {
    let mut blocks = Blocks::default();
    let waiting = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    assert_eq!(all(&mut blocks, waiting, &[accepted(), BlockEvent::Drain]), State::Releasing);
    assert_eq!(blocks.take_orders(), [ProviderOrder::Withdraw(waiting)]);
    let stuck = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    all(&mut blocks, stuck, &[accepted(), granted(), BlockEvent::Joined, BlockEvent::Left]);
    blocks.tick(Time(5_000_000_000), None);
    assert_eq!(blocks.take_orders(), [ProviderOrder::Release(stuck)]);
    blocks.tick(Time(60_000_000_000), None);
    blocks.tick(Time(61_000_000_000), None);
    assert_eq!(blocks.take_orders(), [ProviderOrder::Withdraw(stuck)], "told once");
}

#[test]
fn the_bill_is_that_of_the_provider_where_it_tells_when() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    let grant = NodeGrant { node: "n1".into(), since: Some(second(1)), ..NodeGrant::default() };
    let end = BlockEvent::Ended { why: String::new(), at: Some(second(4)) };
    all(
        &mut blocks,
        id,
        &[accepted(), BlockEvent::Granted(grant), BlockEvent::Joined, BlockEvent::Drain, BlockEvent::Left, end],
    );
    let block = blocks.get(id).unwrap();
    assert_eq!((block.granted, block.ended), (Some(second(1)), Some(second(4))));
}

#[test]
fn a_granted_block_that_is_wanted_no_more_does_not_come() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    assert_eq!(all(&mut blocks, id, &[accepted(), granted(), BlockEvent::Drain]), State::Releasing);
    assert_eq!(blocks.take_orders(), [ProviderOrder::Withdraw(id)]);
}

#[test]
fn a_job_that_keeps_one_node_is_asked_for_no_other() {
    let mut blocks = Blocks::default();
    let two = [blocks.own(Time(0), SiteId(0)), blocks.own(Time(0), SiteId(0))];
    let other = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    for id in two {
        all(&mut blocks, id, &[BlockEvent::Accepted("job 1".into()), granted(), BlockEvent::Joined]);
    }
    all(&mut blocks, other, &[BlockEvent::Accepted("job 2".into()), granted(), BlockEvent::Joined]);
    assert!(!blocks.is_bound(two[1]));
    let kept = BlockEvent::Kept("no shrinking here".into());
    assert_eq!(all(&mut blocks, two[0], &[BlockEvent::Drain, BlockEvent::Left, kept]), State::Held);
    assert!(blocks.is_bound(two[1]) && !blocks.is_bound(other));
    assert_eq!(blocks.get(two[0]).unwrap().ended, None, "it is billed on");
    assert_eq!(all(&mut blocks, two[0], &[ended()]), State::Released);
    assert!(!blocks.is_bound(two[1]));
}

#[test]
fn the_anchor_of_a_job_goes_last() {
    let mut blocks = Blocks::default();
    let ids = [(); 2].map(|()| blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap());
    for (id, anchor) in ids.into_iter().zip([true, false]) {
        let grant = BlockEvent::Granted(NodeGrant { node: id.to_string(), anchor, ..NodeGrant::default() });
        all(&mut blocks, id, &[accepted(), grant, BlockEvent::Joined]);
    }
    assert!(blocks.is_bound(ids[0]) && !blocks.is_bound(ids[1]));
    all(&mut blocks, ids[1], &[BlockEvent::Drain, BlockEvent::Left, ended()]);
    assert!(!blocks.is_bound(ids[0]));
}

#[test]
fn a_block_drains_before_its_time_is_up_and_is_withdrawn_then() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    blocks.limit(id, Duration::from_secs(600));
    // Its grant, without an end, is after two seconds.
    all(&mut blocks, id, &[accepted(), granted(), BlockEvent::Joined]);
    assert_eq!(blocks.get(id).unwrap().ends, Some(second(602)));
    blocks.tick(second(541), None);
    assert!(blocks.take_expiring().is_empty());
    blocks.tick(second(543), None);
    assert_eq!(blocks.take_expiring(), [id]);
    blocks.step(second(543), id, BlockEvent::Drain);
    blocks.tick(second(601), None);
    assert_eq!(blocks.take_orders(), []);
    blocks.tick(second(602), None);
    blocks.tick(second(603), None);
    assert_eq!(blocks.take_orders(), [ProviderOrder::Withdraw(id)], "once");
    // Where the provider knows an end, that counts, and its provider ends it.
    let other = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    let grant = NodeGrant { node: "n1".into(), since: Some(second(0)), ends: Some(second(900)), anchor: false };
    all(&mut blocks, other, &[accepted(), BlockEvent::Granted(grant), BlockEvent::Joined]);
    blocks.tick(second(2000), None);
    blocks.tick(second(2001), None);
    assert_eq!((blocks.take_expiring(), blocks.take_orders()), (vec![other], vec![]));
}

#[test]
fn a_block_whose_time_is_nearly_up_is_named_once() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    let grant = NodeGrant { node: "n1".into(), since: Some(second(0)), ends: Some(second(600)), anchor: false };
    all(&mut blocks, id, &[accepted(), BlockEvent::Granted(grant), BlockEvent::Joined]);
    blocks.tick(second(539), None);
    assert!(blocks.take_expiring().is_empty());
    blocks.tick(second(541), None);
    blocks.tick(second(542), None);
    assert_eq!(blocks.take_expiring(), [id]);
}

#[test]
fn short_tasks_need_less_time_before_the_end_of_their_block() {
    let mut blocks = Blocks::default();
    let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
    let grant = NodeGrant { node: "n1".into(), since: Some(second(0)), ends: Some(second(600)), anchor: false };
    all(&mut blocks, id, &[accepted(), BlockEvent::Granted(grant), BlockEvent::Joined]);
    blocks.tick(second(587), Some(Duration::from_secs(2)));
    assert!(blocks.take_expiring().is_empty());
    blocks.tick(second(588), Some(Duration::from_secs(2)));
    assert_eq!(blocks.take_expiring(), [id]);
}

#[test]
fn a_provider_that_only_fails_is_asked_no_more() {
    let mut blocks = Blocks::default();
    for _ in 0..MAX_REFUSALS {
        let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
        all(&mut blocks, id, &[BlockEvent::Refused("no".into())]);
    }
    assert!(blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).is_none() && blocks.paused().is_some());
    let mut blocks = Blocks::default();
    for turn in 0..2 * MAX_FAILED_STARTS {
        let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
        let works = turn == MAX_FAILED_STARTS - 1;
        all(&mut blocks, id, &[accepted(), granted(), if works { BlockEvent::Joined } else { ended() }]);
        if turn == 2 * MAX_FAILED_STARTS - 1 {
            assert!(blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).is_none());
        }
    }
}

#[test]
fn blocks_that_are_too_short_for_any_task_are_requested_no_more() {
    let mut blocks = Blocks::default();
    let mut requested = 0;
    while let Some(id) = blocks.request(second(0), SiteId(0), &Wanted::default(), &[]) {
        blocks.limit(id, Duration::from_secs(8));
        all(&mut blocks, id, &[accepted(), granted(), BlockEvent::Joined]);
        requested += 1;
        assert!(requested <= MAX_FAILED_STARTS);
    }
    assert!(blocks.paused().is_some_and(|why| why.contains("failed to start")));
}

proptest! {
    /// Whatever comes in whatever order: a block that is over stays so, and one with a grant ends
    /// its bill after it began.
    #[test]
    fn no_order_of_events_confuses_it(events in prop::collection::vec(0usize..8, 0..30)) {
        let (refused, kept) = (BlockEvent::Refused("no".into()), BlockEvent::Kept("no".into()));
        let kinds = [accepted(), refused, granted(), BlockEvent::Joined, BlockEvent::Drain, BlockEvent::Left, ended(), kept];
        let mut blocks = Blocks::default();
        let id = blocks.request(Time(0), SiteId(0), &Wanted::default(), &[]).unwrap();
        let mut over = None;
        for (at, kind) in (1..).zip(events) {
            blocks.step(Time(at), id, kinds[kind].clone());
            let block = blocks.get(id).unwrap();
            if let Some(state) = over {
                prop_assert_eq!(block.state, state);
            }
            over = block.state.is_over().then_some(block.state);
            prop_assert_eq!(block.ended.is_some(), over.is_some());
            prop_assert!(block.ended.is_none_or(|end| block.granted.is_none_or(|from| from <= end)));
        }
    }
}
