use std::path::Path;

use super::*;
use crate::exec::Kernels;
use crate::job::Scaling;
use crate::sim::{Forget, Simulation};

fn prepared(text: &str) -> PreparedJob {
    crate::job::parse(text, "t.toml", Path::new("/"), &Kernels::builtin())
        .and_then(PreparedJob::of)
        .expect("a good job")
}

fn bag() -> PreparedJob {
    prepared("[[task]]\nname = \"w\"\narray = \"1-64\"\nkernel = \"noop\"\nestimate = \"60s\"\n")
}

fn planned(prepared: &PreparedJob, cost: &Cost) -> (Plan, String) {
    let cluster = Cluster::of_job(cost, 4);
    let ranks = [1, 2, 4, 8, 16, 20];
    let question = PlanQuestion { prepared, cluster: &cluster, cost, ranks: &ranks, seed: 1, time_weight: 0.5 };
    let plan = plan(&question).unwrap();
    let picture = svg(&question, &plan);
    (plan, picture)
}

#[test]
fn a_bag_scales_until_each_task_has_a_slot() {
    let (plan, picture) = planned(&bag(), &Cost::default());
    let at = |ranks: u32| plan.candidates.iter().find(|c| c.ranks == ranks).unwrap();
    assert!((at(1).makespan_q50_s - 960.0).abs() < 60.0, "{:?}", at(1));
    assert!((at(8).makespan_q50_s - 120.0).abs() < 40.0, "{:?}", at(8));
    assert!(at(16).makespan_q50_s < 90.0 && at(16).bound != Bound::Slots, "{:?}", at(16));
    assert_eq!(at(1).bound, Bound::Slots);
    assert!(at(1).makespan_q90_s >= at(1).makespan_q50_s && at(1).pareto && !at(20).pareto);
    assert_eq!(plan.verdict, Verdict::Free);
    assert!(picture.contains("cost against makespan") && picture.ends_with("</svg>\n"));
}

#[test]
fn a_chain_is_best_on_one_rank() {
    let chain: String = (0..10)
        .map(|k| {
            let needs = if k > 0 { format!("needs = \"t{}\"\n", k - 1) } else { String::new() };
            format!("[[task]]\nname = \"t{k}\"\nkernel = \"noop\"\nestimate = \"60s\"\n{needs}\n")
        })
        .collect();
    let (plan, _) = planned(&prepared(&chain), &Cost::default());
    assert_eq!(plan.recommended, Some(1));
    assert!(plan.candidates.iter().all(|c| c.bound == Bound::CriticalPath && c.pareto == (c.ranks == 1)), "{plan:?}");
}

#[test]
fn wishes_that_cannot_be_kept_are_said_to_be_so() {
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    let (plan, _) = planned(&bag(), &Cost { deadline: minutes(5), ..Cost::default() });
    let Verdict::Feasible { ranks } = &plan.verdict else { panic!("{:?}", plan.verdict) };
    assert!(ranks[0] >= 4 && ranks.contains(&16) && plan.recommended.is_some_and(|n| ranks.contains(&n)), "{ranks:?}");

    // No task is that short.
    let (plan, _) = planned(&bag(), &Cost { deadline: Some(Duration::from_secs(10)), ..Cost::default() });
    let Verdict::Infeasible { why, .. } = &plan.verdict else { panic!("{:?}", plan.verdict) };
    assert!(why.contains("no number of ranks helps") && plan.recommended.is_none(), "{why}");

    // In time or within the budget, but not both.
    let (plan, _) = planned(&bag(), &Cost { deadline: minutes(2), budget: Some(0.25), ..Cost::default() });
    let Verdict::Infeasible { why, nearest_in_time, nearest_in_cost } = &plan.verdict else {
        panic!("{:?}", plan.verdict)
    };
    assert!(nearest_in_time > nearest_in_cost && why.contains("keeps the deadline"), "{why}");
}

#[test]
fn many_ranks_are_looked_at_in_growing_steps() {
    assert_eq!(ranks_between(3, 5), [3, 4, 5]);
    let many = ranks_between(1, 10_000);
    assert!(many.len() < 80 && many.windows(2).all(|w| w[0] < w[1]) && many.last() == Some(&10_000), "{many:?}");
}

#[test]
fn a_run_begins_on_the_kinds_that_the_cluster_gives_it() {
    let prepared = bag();
    let with = |first: u32| {
        let text = format!(
            "[[node]]\nname = \"slow\"\nslots = 4\nprice = 1.0\n\
             [[node]]\nname = \"fast\"\nslots = 8\nspeed = 2.0\nprice = 3.0\nfirst = {first}\n[tasks]\nspread = 0.0\n"
        );
        Cluster::parse(&text, "c.toml").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
    };
    let run = |cluster: &Cluster, ranks: Option<u32>| {
        let (scaling, cost) = (Scaling::default(), Cost::default());
        let first = Simulation::new(&prepared, cluster, "fixed", (&scaling, &cost));
        Simulation { ranks, ..first }.run(&mut Forget).unwrap()
    };
    // Sixty-four tasks of a minute: four rounds of half a minute on two fast nodes, eight rounds of
    // a minute on two slow ones.
    let (fast, slow, mixed) = (run(&with(2), None), run(&with(0), Some(2)), run(&with(1), Some(2)));
    let kinds = |outcome: &SimulationOutcome| outcome.ended.nodes.iter().map(|node| node.kind.0).collect::<Vec<_>>();
    assert_eq!((kinds(&fast), kinds(&slow), kinds(&mixed)), (vec![1, 1], vec![0, 0], vec![1, 0]));
    assert!((fast.makespan_s() - 120.0).abs() < 2.0 && (slow.makespan_s() - 480.0).abs() < 2.0);
    assert!(mixed.makespan_s() > 150.0 && mixed.makespan_s() < 260.0, "{}", mixed.makespan_s());
    assert!((fast.bill - 2.0 * 3.0 * 120.0 / 3600.0).abs() < 0.01, "{}", fast.bill);
    assert_eq!((with(2).first_ranks(), with(0).first_ranks()), (Some(2), None));
    assert_eq!((with(1).first_speed(2), with(1).first_price(2)), (20.0, 4.0));
}

#[test]
fn what_is_interpolated_is_what_would_have_been_simulated() {
    let phases: String = [40, 7, 60]
        .iter()
        .enumerate()
        .map(|(k, count)| {
            let needs = if k > 0 { format!("needs = \"p{}\"\n", k - 1) } else { String::new() };
            format!(
                "[[task]]\nname = \"p{k}\"\narray = \"1-{count}\"\nkernel = \"noop\"\nestimate = \"60s\"\n{needs}\n"
            )
        })
        .collect();
    let bag = "[[task]]\nname = \"w\"\narray = \"1-400\"\nkernel = \"noop\"\nestimate = \"60s\"\n";
    for text in [&phases, bag] {
        let (prepared, cost) = (prepared(text), Cost { node_hour: 1.0, ..Cost::default() });
        let (cluster, ranks) = (Cluster::of_job(&cost, 4), ranks_between(1, 16));
        let question = PlanQuestion {
            prepared: &prepared,
            cluster: &cluster,
            cost: &cost,
            ranks: &ranks,
            seed: 1,
            time_weight: 0.5,
        };
        let candidates = |is_large| refine::Simulations::new(&question, 5, is_large).candidates().unwrap();
        let (few, all) = (candidates(true), candidates(false));
        assert_eq!((few.len(), all.iter().all(|c| c.simulated)), (ranks.len(), true));
        for (few, all) in few.iter().zip(&all) {
            let off = |of: fn(&PlanCandidate) -> f64| (of(few) / of(all) - 1.0).abs();
            assert_eq!(few.ranks, all.ranks);
            // Seeds that were left out would have differed by about as much as those that were run.
            let most = if few.simulated { 0.015 } else { 0.1 };
            let values: [fn(&PlanCandidate) -> f64; 3] = [|c| c.makespan_q50_s, |c| c.cost, |c| c.billed_node_s];
            assert!(values.iter().all(|of| off(*of) < most), "{few:?} {all:?}");
        }
        let simulated = few.iter().filter(|c| c.simulated).count();
        assert!(text != bag || simulated < ranks.len(), "{simulated} of {}", ranks.len());
    }
}

#[test]
fn limits_and_priorities_are_changes_with_a_simulated_saving() {
    let text = "[[task]]\nname = \"prep\"\narray = \"0-39\"\nkernel = \"noop\"\nestimate = \"400s\"\n\n\
        [[task]]\nname = \"solve\"\narray = \"0-39%2\"\nneeds = [\"prep[{index}]\"]\nkernel = \"noop\"\nestimate = \"100s\"\n";
    let prepared = prepared(text);
    let cluster = Cluster::of_job(&Cost::default(), 8);
    let cost = Cost::default();
    let question =
        PlanQuestion { prepared: &prepared, cluster: &cluster, cost: &cost, ranks: &[1], seed: 1, time_weight: 0.5 };
    let plan = plan(&question).unwrap();
    assert_eq!(plan.candidates[0].bound, Bound::Limit);
    let priority = plan.levers.iter().find(|lever| matches!(lever.change, LeverChange::Priorities { .. })).unwrap();
    let LeverChange::Priorities { tables } = &priority.change else { unreachable!() };
    assert_eq!(tables[..], [(1, "solve".to_owned(), 1)]);
    let limit = plan.levers.iter().find(|lever| matches!(lever.change, LeverChange::NoLimit { .. })).unwrap();
    let planned = plan.candidates[0].makespan_q50_s;
    for lever in [priority, limit] {
        assert!(lever.makespan_q50_s < 0.8 * planned, "{lever:?} {planned}");
    }
    // Nothing is claimed for a job whose slots are busy.
    let bag = bag();
    let plan = super::plan(&PlanQuestion { prepared: &bag, ..question }).unwrap();
    assert_eq!(plan.levers, Vec::new());
}
