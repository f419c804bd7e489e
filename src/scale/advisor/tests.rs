//! The advisor's state machine, and a scaler that asks it.

use proptest::prelude::*;

use super::*;
use crate::job::{Cost, PolicyKind, Scaling};
use crate::model::{Rank, RankState};
use crate::scale::decision::{Action, Candidate, Decision};
use crate::scale::policy::policy_by_name;
use crate::scale::scaler::Scaler;
use crate::scale::testing::{World, rank, time};

fn candidate(ranks: u32, feasible: bool) -> Candidate {
    let (finish, cost) = (time(100.0 / f64::from(ranks)), f64::from(ranks));
    let (finish_q10, finish_q50, finish_q90) = (finish, finish, finish);
    Candidate { ranks, finish_q10, finish_q50, finish_q90, cost_q10: cost, cost, cost_q90: cost, feasible }
}

/// A policy's wish for this many ranks among forecasts for 1, 2, 4, 8 and 16, of which 16 misses
/// the budget.
fn target(ranks: u32, by_forecast: bool) -> Target {
    let candidates: Vec<Candidate> = [1, 2, 4, 8, 16].map(|ranks| candidate(ranks, ranks < 16)).into();
    let chosen = candidates.iter().position(|candidate| candidate.ranks == ranks);
    Target { ranks, confidence: 0.9, candidates, chosen, by_forecast, first: None, reason: "because".into() }
}

/// Asks about a wish at a supply, at this second.
fn ask(advisor: &mut Advisor, seconds: f64, supply: u32, target: &Target) -> Option<Question> {
    let (inputs, prices) = (Inputs::default(), Prices::of_job(&Cost::default(), 4));
    let (now, bounds, wanted) = (time(seconds), (1, 10), target.ranks.clamp(1, 10));
    let matter = Matter { now, policy: "hybrid", supply, bounds, target, wanted, inputs: &inputs, prices: &prices };
    advisor.ask(&matter).then(|| advisor.question().expect("a question is sent"))
}

fn choose(candidate: Option<u32>) -> Result<Answer, String> {
    Ok(Answer { candidate, reason: "so it is".into() })
}

/// The number of ranks that an answer to a wish for 4 ranks instead of 2 leads to, and its reason.
fn settled(answer: Result<Answer, String>) -> (u32, String) {
    let mut advisor = Advisor::default();
    let question = ask(&mut advisor, 1.0, 2, &target(4, true)).unwrap();
    assert_eq!(advisor.settle(time(2.0), 2), Outcome::Waiting);
    advisor.answered(time(2.5), question.question, answer);
    match advisor.settle(time(2.5), 2) {
        Outcome::Settled(target, ranks) => (ranks, target.reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_confirms_changes_or_stops_a_decision() {
    let (ranks, reason) = settled(choose(Some(1)));
    assert_eq!((ranks, &*reason), (4, "because; the advisor agreed: so it is"));
    let (ranks, reason) = settled(choose(Some(2)));
    assert_eq!((ranks, &*reason), (8, "because; the advisor chose 8 ranks instead of 4: so it is"));
    let (ranks, reason) = settled(choose(Some(0)));
    assert_eq!((ranks, &*reason), (2, "because; the advisor chose 2 ranks instead of 4: so it is"));
    let (ranks, reason) = settled(choose(None));
    assert_eq!((ranks, &*reason), (2, "because; the advisor was against it: so it is"));
    let (ranks, reason) = settled(choose(Some(3)));
    assert_eq!(ranks, 4);
    assert!(reason.ends_with("no usable answer: it chose candidate 3 of 3, numbered from 0"), "{reason}");
    let (ranks, reason) = settled(Err("status 500\x1b[31m\nof it".into()));
    assert_eq!((ranks, reason.ends_with("no usable answer: status 500 [31m of it")), (4, true), "{reason}");
}

#[test]
fn candidates_are_what_rules_bounds_and_budget_allow() {
    let offered = |supply: u32, target: Target| {
        let question = ask(&mut Advisor::default(), 0.0, supply, &target).unwrap();
        assert_eq!(question.candidates[question.wanted as usize].ranks, target.ranks.min(10));
        assert!(question.candidates.iter().zip(0..).all(|(candidate, index)| candidate.index == index));
        question.candidates.iter().map(|candidate| candidate.ranks).collect::<Vec<u32>>()
    };
    assert_eq!(offered(2, target(4, true)), [2, 4, 8], "a forecast may be followed further");
    assert_eq!(offered(1, target(4, false)), [1, 2, 4], "the step of a rule is the most");
    assert_eq!(offered(8, target(2, true)), [2, 4, 8], "nothing below what the policy keeps");
    assert_eq!(offered(2, Target::plain(3, "a rule")), [3], "a policy without forecasts can only be stopped");
    assert_eq!(offered(2, Target::plain(30, "beyond the bounds")), [10]);
}

#[test]
fn a_late_answer_and_one_to_another_question_are_ignored() {
    let mut advisor = Advisor::default();
    let first = ask(&mut advisor, 0.0, 2, &target(4, true)).unwrap().question;
    assert_eq!(advisor.pause(time(1.0)), Some(Duration::from_secs(4)));
    let Outcome::Settled(late, ranks) = advisor.settle(time(5.0), 2) else { panic!("it is late") };
    assert_eq!((ranks, late.reason.ends_with("there was none within 5.00 s")), (4, true), "{}", late.reason);
    let second = ask(&mut advisor, 6.0, 2, &target(4, true)).unwrap().question;
    advisor.answered(time(6.5), first, choose(None));
    assert_eq!((second, advisor.settle(time(7.0), 2)), (2, Outcome::Waiting));
    // Ranks were lost meanwhile, so the question is void.
    assert_eq!((advisor.settle(time(7.5), 1), advisor.pause(time(7.5))), (Outcome::Idle, None));
    advisor.answered(time(8.0), second, choose(None));
    assert_eq!(advisor.settle(time(8.0), 2), Outcome::Idle);
}

#[test]
fn three_failures_in_a_row_silence_it_and_that_is_said_once() {
    let mut advisor = Advisor::default();
    let mut at = 0.0;
    let mut answer = |advisor: &mut Advisor, answer: Result<Answer, String>| {
        at += 100.0;
        let question = ask(advisor, at, 2, &target(4, true)).unwrap().question;
        advisor.answered(time(at), question, answer);
        advisor.settle(time(at), 2);
        advisor.take_warning()
    };
    let no = || Err("no".to_owned());
    for (what, is_last) in
        [(no(), false), (no(), false), (choose(Some(1)), false), (no(), false), (choose(Some(9)), false), (no(), true)]
    {
        let warning = answer(&mut advisor, what);
        assert_eq!(warning.is_some_and(|text| text.contains("three times in a row")), is_last);
    }
    assert!(ask(&mut advisor, 1e6, 2, &target(4, true)).is_none());
    assert_eq!((advisor.settle(time(1e6), 2), advisor.take_warning()), (Outcome::Idle, None));
}

#[test]
fn what_models_write_is_read_strictly() {
    let parsed = |text: &str| Answer::parse(text).map(|answer| (answer.candidate, answer.reason));
    assert_eq!(parsed(r#"{"candidate": 2, "reason": "a\nb"}"#), Ok((Some(2), "a b".into())));
    assert_eq!(parsed("Sure:\n```json\n{\"candidate\": null}\n```"), Ok((None, String::new())));
    for (wrong, why) in [
        ("", "no JSON object"),
        ("grow!", "no JSON object"),
        ("{}", "no `candidate`"),
        (r#"{"candidate": -1}"#, "no index"),
        (r#"{"candidate": 1.5}"#, "no index"),
        (r#"{"candidate": "1"}"#, "no index"),
        (r#"{"candidate": 99999999999}"#, "no index"),
        (r#"[{"candidate": 1}, {"candidate": 2}]"#, "no JSON object"),
    ] {
        assert!(parsed(wrong).is_err_and(|error| error.contains(why)), "{wrong}");
    }
}

fn world(ranks: u32) -> World {
    World::bag(1000, 60.0).with_ranks(ranks)
}

fn scaler(policy: &str) -> Scaler {
    let scaling = Scaling { max_ranks: 8, policy: PolicyKind::Hybrid, ..Scaling::default() };
    Scaler::new(policy_by_name(policy, &scaling).unwrap(), scaling).with_advisor(Advisor::default())
}

fn decide(scaler: &mut Scaler, world: &World) -> Vec<Decision> {
    let prices = Prices::of_job(&Cost::default(), 4);
    world.see(|seen| scaler.decide(seen, &world.estimates(60.0), &prices))
}

#[test]
fn a_scaler_waits_for_the_answer_and_follows_it_for_a_minute() {
    let (mut scaler, mut world) = (scaler("static-4"), world(2));
    assert_eq!(decide(&mut scaler, &world), []);
    let question = scaler.question().unwrap();
    assert_eq!((question.ranks, question.candidates[0].ranks, scaler.question()), (2, 4, None));
    world.now = 1.0;
    assert_eq!(decide(&mut scaler, &world), []);
    scaler.advised(time(1.0), question.question, choose(None));
    let decisions = decide(&mut scaler, &world);
    assert_eq!((decisions.len(), &decisions[0].action, decisions[0].wish), (1, &Action::Stay, 4));
    let advice = scaler.advice().unwrap();
    assert_eq!((advice.decision, advice.verdict, advice.changed()), (decisions[0].number, Verdict::Veto, true));
    assert_eq!(postcard::from_bytes::<Advice>(&postcard::to_stdvec(&advice).unwrap()).unwrap(), advice);
    world.now = 60.0;
    assert!(decide(&mut scaler, &world)[0].reason.contains("59.0 s ago the advisor was against it: so it is"));
    assert_eq!(scaler.question(), None);
    world.now = 61.0;
    assert_eq!(decide(&mut scaler, &world), []);
    assert_eq!(scaler.question().map(|question| question.question), Some(2));
    // A user's word counts at once.
    scaler.hold(Some(3));
    assert!(matches!(decide(&mut scaler, &world)[0].action, Action::Grow { nodes: 1, .. }));
    scaler.advised(time(61.0), 2, choose(None));
    assert!(matches!(decide(&mut scaler, &world)[0].action, Action::Grow { .. }));
}

/// The numbers of ranks that the policy's wishes lead to, one after the other, after a veto against
/// the first one.
fn followed<const N: usize>(supply: u32, vetoed: u32, wishes: [u32; N]) -> [u32; N] {
    let mut advisor = Advisor::default();
    let question = ask(&mut advisor, 0.0, supply, &target(vetoed, true)).unwrap().question;
    advisor.answered(time(1.0), question, choose(None));
    assert!(matches!(advisor.settle(time(1.0), supply), Outcome::Settled(_, ranks) if ranks == supply));
    wishes.map(|wish| advisor.apply_standing(time(2.0), supply, target(wish, true)).ranks)
}

#[test]
fn an_answer_does_not_stand_against_a_larger_change() {
    assert_eq!(followed(2, 4, [4, 3, 1, 5, 4]), [2, 2, 1, 5, 4]);
    assert_eq!(followed(8, 4, [4, 5, 9, 3, 4]), [8, 8, 9, 3, 4]);
    // A wish beyond the bounds is the same wish.
    assert_eq!(followed(2, 30, [30, 10, 31]), [2, 2, 31]);
}

#[test]
fn recorded_answers_are_given_again_after_the_time_that_they_took() {
    let (mut real, mut world) = (scaler("static-4"), world(2));
    assert_eq!(decide(&mut real, &world), []);
    world.now = 3.0;
    real.advised(time(3.0), 1, choose(None));
    let decided = decide(&mut real, &world);
    let recorded = [real.advice().unwrap()];
    let scaling = Scaling { max_ranks: 8, ..Scaling::default() };
    let mut again = Scaler::new(policy_by_name("static-4", &scaling).unwrap(), scaling);
    again = again.with_advisor(Advisor::replaying(&recorded));
    world.now = 0.0;
    assert_eq!(decide(&mut again, &world), []);
    assert_eq!((again.question(), again.pause(time(0.0))), (None, Duration::from_secs(3)));
    world.now = 3.0;
    assert_eq!(decide(&mut again, &world), decided);
    assert_eq!(again.advice().as_ref(), recorded.first());
    // There is no second answer, so the policy decides.
    world.now = 90.0;
    assert!(matches!(decide(&mut again, &world)[0].action, Action::Grow { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whatever is answered and whenever: the ranks stay within the bounds, the cap of the budget
    /// holds, no decision waits for longer than [`MAX_WAIT`], and nothing is asked after three
    /// failures.
    #[test]
    fn no_answer_breaks_bounds_or_budget(
        answers in prop::collection::vec((0u32..12, 0u64..8, any::<bool>()), 1..16),
        policy in prop::sample::select(vec!["hybrid", "static-3", "static-30", "cost", "reactive"]),
        budget in prop::option::of(0.5f64..20.0),
    ) {
        let cost = Cost { node_hour: 36.0, budget, ..Cost::default() };
        let prices = Prices::of_job(&cost, 4);
        let (mut scaler, mut world) = (scaler(policy), World::bag(40, 60.0).with_ranks(2).busy());
        let (mut waiting, mut failures): (Option<f64>, u32) = (None, 0);
        for (index, delay, is_usable) in answers {
            let decisions = world.see(|seen| scaler.decide(seen, &world.estimates(60.0), &prices));
            let spent = world.see(|seen| crate::scale::Account::of(seen, &prices).spent());
            for decision in &decisions {
                if let Action::Grow { nodes, .. } = decision.action {
                    prop_assert!(decision.from + nodes <= 8, "{decision:?}");
                    prop_assert!(budget.is_none_or(|budget| spent <= budget), "{spent} {decision:?}");
                    (0..nodes).for_each(|_| world.ranks.push(rank(world.ranks.len() as u32, RankState::Active, world.now)));
                }
                if let Action::Shrink { ranks } = &decision.action {
                    prop_assert!(decision.to >= 1 && !ranks.contains(&Rank(0)), "{decision:?}");
                    world.ranks.retain(|rank| !ranks.contains(&rank.rank));
                }
            }
            if let Some(advice) = scaler.advice() {
                failures = if advice.verdict == Verdict::Failure { failures + 1 } else { 0 };
                let is_listed = |index| advice.candidates.get(index as usize).is_some();
                prop_assert!(matches!(advice.verdict, Verdict::Candidate(index) if is_listed(index))
                    || !matches!(advice.verdict, Verdict::Candidate(_)));
            }
            waiting = if decisions.is_empty() { waiting.or(Some(world.now)) } else { None };
            prop_assert!(waiting.is_none_or(|since| world.now - since <= MAX_WAIT.as_secs_f64()));
            world.now += delay.min(5) as f64;
            if let Some(question) = scaler.question() {
                prop_assert!(failures < MAX_FAILURES, "asked after three failures");
                let answer = if is_usable { choose((index < 11).then_some(index)) } else { Err("no".into()) };
                if delay < 5 {
                    scaler.advised(time(world.now), question.question, answer);
                }
            }
        }
    }
}
