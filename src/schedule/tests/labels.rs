//! Tasks that ask for labels which no rank has: they wait for a node.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;

use super::job::{Job, Terms, alone, labels_of_slots, mpi_task};
use super::world::World;
use super::{check_executions, random_slots, upheavals};
use crate::model::{Labels, NodeNeed, NodeOffer, Offers, Rank, Shortfalls, TaskId, Time};
use crate::schedule::coordinator::{
    Coordinator, CoordinatorAction, CoordinatorEvent, Member, ProvisioningState, StopReason, Tasks,
};
use crate::schedule::gang::Shape;
use crate::schedule::protocol::{Lease, Message};
use crate::seeds::{Named, seeds};

#[test]
fn tasks_wait_for_ranks_with_their_labels_and_run_nowhere_else() {
    let (mut gained, mut complete) = (0, 0);
    for seed in seeds(300) {
        let _named = Named(seed, "schedule::tests::labels::tasks_wait_for_ranks");
        let mut rng = Rng::with_seed(seed);
        // No rank has three slots at the start.
        let slots: Vec<u32> = random_slots(&mut rng).into_iter().map(|slots| slots.min(2)).collect();
        let job = Arc::new(Job::random(&mut rng, &slots).with_labels(&mut rng));
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        let quiet = rng.u32(0..3) == 0;
        let plan = if quiet { Vec::new() } else { upheavals(&mut rng, slots.len() as u32) };
        plan.into_iter().for_each(|(time, what)| world.at(time, what));
        world.run();
        let oracle = job.oracle();
        let finals = world.finals(&oracle);
        for run in &world.executed {
            assert!(world.slots(run.rank) >= job.needs[run.task.index()], "{run:?}");
        }
        check_executions(&world, &job.graph, &oracle, &BTreeSet::new());
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => assert_eq!(finals.len(), job.graph.task_count(), "every task has ended"),
            StopReason::Signal(_) if !quiet => {}
            why => assert!(!quiet && world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
        gained += world.gained;
        complete += u32::from(world.finished == Some(StopReason::Complete));
    }
    assert!(std::env::var_os("PHALANX_SEED").is_some() || (gained > 100 && complete > 100), "{gained} {complete}");
}

/// A coordinator of independent tasks that need these slots, on ranks with these.
fn coordinator(needs: &[u32], slots: &[u32]) -> Coordinator {
    let mut rng = Rng::with_seed(0);
    let job =
        Job { needs: needs.to_vec(), duration: vec![1; needs.len()], ..Job::bag(&mut rng, needs.len() as u32, 2_000) };
    let graph = Arc::clone(&job.graph);
    let member = |&slots: &u32| Member { slots, labels: labels_of_slots(slots), ..Member::default() };
    let tasks = Tasks {
        graph,
        home: vec![0; needs.len()],
        urgency: vec![0; needs.len()],
        advice: Box::new(Terms(Arc::new(job))),
        pools: Arc::default(),
        fair: Vec::new(),
    };
    Coordinator::new(tasks, &|_| false, slots.iter().map(member).collect(), None, Box::new(|_| alone()))
}

fn provide(coordinator: &mut Coordinator, offers: &[Labels], coming: &[Labels]) {
    let state = ProvisioningState {
        offers: Offers::of(offers.to_vec()),
        coming: coming.iter().cloned().map(NodeOffer::with_labels).collect(),
        most: 8,
    };
    coordinator.step(Time(1), CoordinatorEvent::Provisioning(state), &mut Vec::new());
}

#[test]
fn further_nodes_have_the_labels_of_the_work_that_waits() {
    let (plain, wide) = (Labels::default(), labels_of_slots(3));
    let mut coordinator = coordinator(&[3, 3, 3, 3, 3, 3, 1, 1], &[2]);
    provide(&mut coordinator, &[plain.clone(), wide.clone()], &[]);
    let next = |coordinator: &Coordinator, nodes| coordinator.labels_of_next_nodes(nodes);
    assert_eq!(next(&coordinator, 1), [(wide.clone(), 1)]);
    assert_eq!(next(&coordinator, 4), [(plain.clone(), 1), (wide.clone(), 3)]);
    provide(&mut coordinator, &[plain.clone(), wide.clone()], &[wide.clone(), wide.clone(), wide.clone()]);
    assert_eq!(next(&coordinator, 1), [(plain.clone(), 1)], "what is on its way counts");
    assert_eq!(coordinator.needed_ranks(), [], "no rank has the label");
    provide(&mut coordinator, std::slice::from_ref(&plain), &[]);
    assert_eq!(next(&coordinator, 3), [(plain, 3)], "only what there is");
}

#[test]
fn the_last_rank_with_a_label_is_needed() {
    assert_eq!(coordinator(&[3, 1], &[3, 1, 1]).needed_ranks(), [Rank(0)]);
    assert_eq!(coordinator(&[3, 1], &[3, 1, 3]).needed_ranks(), []);
    assert_eq!(coordinator(&[1, 1], &[3, 1, 1]).needed_ranks(), [], "no task asks for it");
}

/// A coordinator of one MPI task, which rank 0 reports ready.
fn with_gang(ranks: u32, labels: &Labels, slots: &[u32]) -> Coordinator {
    let member = |&slots: &u32| Member { slots, labels: labels_of_slots(slots), ..Member::default() };
    with_shape(mpi_task(ranks, Labels::clone(labels)), slots.iter().map(member).collect()).0
}

/// The same for a task of this shape on these ranks, with what the coordinator does then.
fn with_shape(shape: Shape, members: Vec<Member>) -> (Coordinator, Vec<CoordinatorAction>) {
    let mut rng = Rng::with_seed(0);
    let mut job = Job::bag(&mut rng, 1, 2_000);
    job.gangs.insert(0, shape);
    let (graph, job) = (Arc::clone(&job.graph), Arc::new(job));
    let shapes = job.gangs.clone();
    let tasks = Tasks {
        graph,
        home: vec![0],
        urgency: vec![0],
        advice: Box::new(Terms(job)),
        pools: Arc::default(),
        fair: Vec::new(),
    };
    let mut coordinator = Coordinator::new(tasks, &|_| false, members, None, Box::new(move |t| shapes[&t.0].clone()));
    provide(&mut coordinator, &[Labels::default(), labels_of_slots(3)], &[]);
    let lease =
        Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time(0), short: Shortfalls::NONE };
    let event = CoordinatorEvent::Message { from: Rank(0), message: Message::GangReady { lease } };
    let mut actions = Vec::new();
    coordinator.step(Time(2), event, &mut actions);
    (coordinator, actions)
}

#[test]
fn as_many_nodes_are_requested_as_a_gang_lacks() {
    let wide = labels_of_slots(3);
    let need = NodeNeed { labels: Labels::clone(&wide), slots: 1, ..NodeNeed::default() };
    // Seven MPI ranks: three on the rank with the label, and two nodes like it for the others.
    let mut coordinator = with_gang(7, &wide, &[2, 3, 1]);
    assert_eq!(coordinator.wanted_nodes(), [(need.clone(), 2)]);
    assert_eq!(coordinator.gang_room(TaskId(0)), Some(3));
    assert_eq!(coordinator.needed_ranks(), [Rank(1)], "it waits there");
    assert!(coordinator.is_waited_for(&NodeOffer::with_labels(Labels::clone(&wide))));
    assert!(!coordinator.is_waited_for(&NodeOffer::with_labels(Labels::default())), "it lacks the label");
    provide(&mut coordinator, std::slice::from_ref(&wide), std::slice::from_ref(&wide));
    assert_eq!(coordinator.wanted_nodes(), [(need, 1)], "one is coming");
    assert!(with_gang(3, &wide, &[2, 3]).wanted_nodes().is_empty(), "it has room");
    // Of any label, and eight ranks may take part.
    let wanted = with_gang(7, &Labels::default(), &[2, 3]).wanted_nodes();
    assert_eq!(wanted, [(NodeNeed { slots: 1, ..NodeNeed::default() }, 1)]);
    // No number of nodes that the run may have is enough: it ends.
    let mut coordinator = with_gang(7, &wide, &[1]);
    provide(&mut coordinator, &[Labels::default()], &[]);
    assert!(coordinator.is_stopping() && coordinator.wanted_nodes().is_empty());
}

#[test]
fn a_gang_is_placed_where_there_is_memory_and_gpus_for_it_or_waits_for_such_nodes() {
    let shape =
        |memory, gpus| Shape::Mpi { ranks: 4, cpus: 1, memory, gpus, per_node: None, labels: Labels::default() };
    let member = |node: &str, memory, gpus| Member { node: node.into(), slots: 4, memory, gpus, ..Member::default() };
    let ranks = || vec![member("a", 9, 0), member("b", 20, 1), member("c", 30, 2)];
    let hosts = |shape| -> Vec<(u32, u32, u32)> {
        let (coordinator, actions) = with_shape(shape, ranks());
        assert_eq!(coordinator.gang_room(TaskId(0)), None);
        let host = |action: &CoordinatorAction| match action {
            CoordinatorAction::Send { message: Message::Hold { host, .. }, .. } => {
                Some((host.rank.0, host.ranks, host.slots))
            }
            _ => None,
        };
        actions.iter().filter_map(host).collect()
    };
    // Ten bytes for each of its ranks: the first rank has less.
    assert_eq!(hosts(shape(40, 0)), [(2, 3, 3), (1, 1, 1)]);
    assert_eq!(hosts(shape(36, 0)), [(2, 3, 3), (1, 1, 1)]);
    assert_eq!(hosts(shape(30, 0)), [(2, 4, 4)], "one is enough");
    assert_eq!(hosts(shape(0, 2)), [(2, 4, 4)]);
    // Three of its ranks are with a GPU each, and the fourth needs another node.
    let (coordinator, actions) = with_shape(shape(0, 3), ranks());
    assert_eq!((coordinator.gang_room(TaskId(0)), actions), (Some(3), Vec::new()));
    let need = NodeNeed { slots: 1, gpus: 1, ..NodeNeed::default() };
    assert_eq!(coordinator.wanted_nodes(), [(need.clone(), 1)]);
    let node = |gpus| NodeOffer { gpus: Some(gpus), ..NodeOffer::default() };
    assert!(coordinator.is_waited_for(&node(1)) && !coordinator.is_waited_for(&node(0)));
    // Nodes that can be had lack them: the run ends.
    let (mut coordinator, _) = with_shape(shape(0, 3), ranks());
    let offers = Offers::of_nodes([node(0)]);
    let state = ProvisioningState { offers, coming: Vec::new(), most: 8 };
    coordinator.step(Time(3), CoordinatorEvent::Provisioning(state), &mut Vec::new());
    assert!(coordinator.is_stopping());
    // A further node hosts both that have no room.
    let (mut coordinator, _) = with_shape(shape(80, 0), ranks());
    let offer = NodeOffer { slots: Some(8), memory: Some(40), ..NodeOffer::default() };
    let state = ProvisioningState { offers: Offers::of_nodes([offer]), coming: Vec::new(), most: 8 };
    coordinator.step(Time(3), CoordinatorEvent::Provisioning(state), &mut Vec::new());
    assert_eq!(coordinator.gang_room(TaskId(0)), Some(2));
    let need = NodeNeed { slots: 1, memory: 20, ..NodeNeed::default() };
    assert_eq!(coordinator.wanted_nodes(), [(need, 1)]);
}
