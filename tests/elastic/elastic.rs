//! Ranks that join a run under way, are drained, and are lost: with real processes, without Slurm.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::checker::Trace;
use crate::support::{self, Dir, Running, TestCommand, mpirun, phalanx, wait_for};

/// Waves of tasks, each of which needs all of the wave before.
fn waves(waves: u32, width: u32, seconds: f64) -> String {
    let mut job = String::from("[job]\nname = \"waves\"\n");
    for wave in 0..waves {
        let needs = if wave > 0 { format!("needs = [\"w{}\"]\n", wave - 1) } else { String::new() };
        job += &format!(
            "[[task]]\nname = \"w{wave}\"\narray = \"1-{width}\"\nkernel = \"sleep\"\nargs = {{ seconds = {seconds} }}\n{needs}"
        );
    }
    job
}

fn names(waves: u32, width: u32) -> Vec<String> {
    (0..waves).flat_map(|wave| (1..=width).map(move |index| format!("w{wave}[{index}]"))).collect()
}

/// Tasks that wait for one another: each holds the only slot of a rank until so many ranks have
/// one.
fn meeting(ranks: u32) -> String {
    format!(
        "[[task]]\nname = \"meet\"\npriority = 1\nestimate = \"1s\"\narray = \"1-{ranks}\"\n\
         command = \"echo {{index}} >> met; until [ $(wc -l < met) -ge {ranks} ]; do sleep 0.05; done\"\n"
    )
}

/// The same waves, which begin when this number of ranks has met.
fn met_waves(ranks: u32, count: u32, width: u32, seconds: f64) -> String {
    let first = "name = \"w0\"\n";
    waves(count, width, seconds).replace(first, &format!("{first}needs = [\"meet\"]\n")) + &meeting(ranks)
}

fn met_names(ranks: u32, waves: u32, width: u32) -> Vec<String> {
    (1..=ranks).map(|index| format!("meet[{index}]")).chain(names(waves, width)).collect()
}

/// Tasks that come last and go on until the test says that they may end ([`release`]): the run is
/// not over before.
fn held(count: u32, needs: &str) -> String {
    format!(
        "[[task]]\nname = \"held\"\nestimate = \"1s\"\narray = \"1-{count}\"\n{needs}\n\
         command = \"until test -e end; do sleep 0.05; done\"\n"
    )
}

/// Connections to a run that can be joined which say nothing.
fn idle_connections(dir: &Dir, count: usize) -> Vec<TcpStream> {
    let contact: serde_json::Value = serde_json::from_str(&dir.read("run/contact")).expect("a contact is JSON");
    let address = contact["addresses"][0].as_str().expect("it has an address");
    (0..count).map(|_| TcpStream::connect(address).expect("the run listens")).collect()
}

#[test]
fn connections_that_say_nothing_shut_nobody_out() {
    let dir = Dir::new("idle");
    let run = open_run(&dir, phalanx(&dir), &(meeting(2) + &held(2, "needs = [\"meet\"]")));
    let idle = idle_connections(&dir, 200);
    let joined = join(phalanx(&dir));
    wait_for("both to work", 120, || (dir.has("met") && dir.read("met").lines().count() >= 2).then_some(()));
    drop(idle);
    release(&dir);
    run.wait().ok();
    joined.wait().ok();
}

#[test]
fn the_name_of_this_machine_means_an_address_that_others_reach() {
    let dir = Dir::new("address");
    dir.job("job.toml", &held(1, ""));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a machine has a name");
    let args = ["-v", "run", "job.toml", "--slots", "1", "--run-dir", "run", "--join-on", host.trim()];
    let mut run = phalanx(&dir).args(args).start();
    wait_for("the contact file, or a refusal", 120, || (dir.has("run/contact") || !run.is_running()).then_some(()));
    if !dir.has("run/contact") {
        // There is no network here.
        run.wait().code(2).says("--join-on").says("loopback");
        return;
    }
    let contact: serde_json::Value = serde_json::from_str(&dir.read("run/contact")).expect("a contact is JSON");
    let addresses = contact["addresses"].as_array().expect("addresses");
    let is_loopback = |address: &serde_json::Value| {
        address
            .as_str()
            .and_then(|text| text.parse::<SocketAddr>().ok())
            .is_none_or(|address| address.ip().is_loopback())
    };
    assert!(!addresses.is_empty() && !addresses.iter().any(is_loopback), "{contact}");
    let joined = join(phalanx(&dir));
    wait_for("it to join", 120, || run.stderr_so_far().contains("takes part").then_some(()));
    release(&dir);
    run.wait().ok();
    joined.wait().ok();
}

fn release(dir: &Dir) {
    dir.file("end", "");
}

/// Starts a run that can be joined, and waits until it can.
fn open_run(dir: &Dir, command: TestCommand, job: &str) -> Running {
    open_run_with(dir, command, job, 1)
}

fn open_run_with(dir: &Dir, command: TestCommand, job: &str, slots: u32) -> Running {
    dir.job("job.toml", job);
    let slots = slots.to_string();
    let args = ["-v", "run", "job.toml", "--slots", &slots, "--run-dir", "run", "--join-on", "127.0.0.1"];
    let run = command.args(args).patience(300).start();
    wait_for("the contact file", 120, || dir.has("run/contact").then_some(()));
    run
}

fn join(command: TestCommand) -> Running {
    command.args(["join", "run", "--slots", "1"]).patience(300).start()
}

/// `PHALANX_SEED`, or one that is always the same.
fn seed() -> u64 {
    std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11)
}

/// The ranks that completed tasks.
fn ranks(trace: &Trace) -> HashSet<u32> {
    trace.0.iter().filter(|row| row.state == "COMPLETED").filter_map(|row| row.rank).collect()
}

/// Waits until a rank has completed a task.
fn wait_for_work(dir: &Dir, rank: u32) {
    wait_for("work of the rank that joined", 120, || ranks(&Trace::of(dir, "run")).contains(&rank).then_some(()));
}

#[test]
fn a_process_joins_a_run_and_works() {
    let dir = Dir::new("join");
    let run = open_run(&dir, phalanx(&dir), &met_waves(2, 3, 10, 0.3));
    let joined = join(phalanx(&dir));
    run.wait().ok();
    joined.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(met_names(2, 3, 10).iter().map(String::as_str));
    assert_eq!(ranks(&trace), HashSet::from([0, 1]));
    assert!(!dir.has("run/contact"), "nobody can join a run that is over");
    phalanx(&dir).args(["join", "run"]).run().code(2).says("nobody can join run: it has ended");
    phalanx(&dir).args(["join", "--contact", "run/contact"]).run().code(2);
}

#[test]
fn worlds_join_a_world() {
    let dir = Dir::new("worlds");
    let run = open_run(&dir, mpirun(&dir, 2), &met_waves(5, 12, 16, 0.3));
    let joined = [join(mpirun(&dir, 2)), join(phalanx(&dir))];
    run.wait().ok();
    joined.into_iter().for_each(|joined| drop(joined.wait_clean().ok()));
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(met_names(5, 12, 16).iter().map(String::as_str));
    assert_eq!(ranks(&trace), HashSet::from([0, 1, 2, 3, 4]));
}

#[test]
fn a_killed_rank_costs_only_what_it_ran() {
    let dir = Dir::new("killed");
    let run = open_run(&dir, phalanx(&dir), &met_waves(2, 4, 8, 0.4));
    let mut joined = join(phalanx(&dir));
    wait_for_work(&dir, 1);
    joined.kill_all();
    run.wait().ok();
    let trace = Trace::of(&dir, "run");
    for task in met_names(2, 4, 8) {
        let times = trace.attempts(&task).iter().filter(|row| row.state == "COMPLETED").count();
        assert_eq!(times, 1, "{task}");
    }
    for wave in 1..4 {
        trace.respects([(&*format!("w{}[1]", wave - 1), &*format!("w{wave}[1]"))]);
    }
}

/// What an operation on a graph has printed.
fn line_of(dir: &Dir, task: &str) -> serde_json::Value {
    let said = phalanx(dir).args(["report", "run", "--task", task]).run().ok();
    let line = said.stdout().lines().find(|line| line.starts_with("{\"operation\"")).expect("it prints a line");
    serde_json::from_str(line).expect("it is JSON")
}

#[test]
fn a_divided_graph_follows_the_ranks_that_join_and_die() {
    let dir = Dir::new("divided");
    let operation = |name: &str, operation: &str, args: &str, needs: &str| {
        format!(
            "[[task]]\nname = \"{name}\"\ngraph = \"web\"\noperation = \"{operation}\"\n\
             args = {{ {args} }}\nneeds = {{ task = \"{needs}\", when = \"afterany\" }}\n"
        )
    };
    let job = String::from("[[graph]]\nname = \"web\"\ngenerate = { kind = \"kron\", scale = 9 }\ndivide = true\n")
        + &meeting(1)
        + &operation("alone", "components", "", "meet")
        + &operation("change", "insert_edges", "edges = [[1, 2], [3, 400]]", "alone")
        + &held(1, "needs = \"change\"")
        + &operation("both", "components", "", "held")
        + &operation("endless", "pagerank", "tolerance = 0, iterations = 1000000000", "both")
        + &operation("again", "components", "", "endless");
    let run = open_run(&dir, phalanx(&dir), &job);
    wait_for("the first operations", 120, || Trace::of(&dir, "run").completed().contains("change").then_some(()));
    let mut joined = join(phalanx(&dir));
    wait_for("two ranks", 120, || (count(&status(&dir), "active") == 2).then_some(()));
    release(&dir);
    let runs = || phalanx(&dir).args(["status", "run"]).run().stdout().contains("endless");
    wait_for("the long operation", 120, || runs().then_some(()));
    joined.kill_all();
    let is_lost = || Trace::of(&dir, "run").attempts("endless").iter().any(|row| row.state == "NODE_FAIL");
    wait_for("the end of the attempt that lost a rank", 120, || is_lost().then_some(()));
    phalanx(&dir).args(["cancel", "run", "endless"]).run().ok();
    run.wait().code(1);
    let lines = ["alone", "both", "again"].map(|task| line_of(&dir, task));
    assert_eq!([0, 1, 2].map(|at| lines[at]["ranks"].as_u64()), [1, 2, 1].map(Some), "{lines:?}");
    assert_eq!([0, 1, 2].map(|at| lines[at]["version"].as_u64()), [1, 2, 2].map(Some), "{lines:?}");
    assert_eq!(lines[1]["components"], lines[2]["components"]);
    let parts = |at: usize| lines[at]["part_bytes"].as_array().expect("a list").iter().filter_map(|part| part.as_u64());
    assert!(parts(1).all(|part| part < parts(2).sum()), "a part is less than the whole: {lines:?}");
    assert_eq!(Trace::of(&dir, "run").state("endless"), "CANCELLED");
}

#[test]
fn a_rank_whose_coordinator_is_gone_leaves() {
    let dir = Dir::new("orphan");
    // No rank that waited for its task to end would have left in time.
    let mut run = open_run(&dir, phalanx(&dir), &waves(1, 40, 3600.0));
    let joined = join(phalanx(&dir));
    wait_for("the rank to take part", 120, || run.stderr_so_far().contains("takes part").then_some(()));
    run.kill_all();
    joined.wait_clean().code(1).says("coordinator is gone");
}

#[test]
fn a_wrong_secret_does_not_disturb_a_run() {
    let dir = Dir::new("secret");
    let run = open_run(&dir, phalanx(&dir), &(waves(2, 6, 0.5) + &held(1, "needs = [\"w1\"]")));
    let contact = dir.read("run/contact");
    let at = contact.find("secret").expect("a contact has a secret") + 9;
    let forged = format!("{}{}{}", &contact[..at], "0".repeat(64), &contact[at + 64..]);
    dir.file("forged", &forged);
    // Others can read it.
    phalanx(&dir).args(["join", "--contact", "forged"]).run().code(2).says("chmod 600");
    support::shell(&dir, "chmod 600 forged").run().ok();
    phalanx(&dir).args(["join", "--contact", "forged"]).run().code(1).says("secret");
    let stale = ["join", "--contact", "run/contact", "--session", "1", "--block", "1"];
    phalanx(&dir).args(stale).run().code(2).says("an earlier session");
    release(&dir);
    let output = run.wait().ok();
    assert!(output.stderr().contains("refused a connection"), "{output}");
    let names = names(2, 6);
    Trace::of(&dir, "run").exactly_once(names.iter().map(String::as_str).chain(["held[1]"]));
}

fn status(dir: &Dir) -> serde_json::Value {
    phalanx(dir).args(["status", "run", "--json"]).run().ok().json()
}

/// Ranks by state.
fn count(status: &serde_json::Value, state: &str) -> usize {
    status["ranks"].as_array().expect("a list").iter().filter(|rank| rank["state"] == state).count()
}

#[test]
fn a_run_is_asked_scaled_drained_and_cancelled() {
    let dir = Dir::new("steer");
    // More than the test takes: it is cancelled.
    let run = open_run(&dir, mpirun(&dir, 2), &waves(40, 12, 2.0));
    let joined = join(phalanx(&dir));
    wait_for("three ranks", 120, || (count(&status(&dir), "active") == 3).then_some(()));
    phalanx(&dir).args(["status", "run"]).run().ok().says("rank 2").says("running for");
    phalanx(&dir).args(["rebalance", "run"]).run().ok().says("shared out");
    phalanx(&dir).args(["drain", "run", "2"]).run().ok().says("1 rank is drained");
    joined.wait_clean().ok();
    wait_for("the rank to have left", 120, || (count(&status(&dir), "left") == 1).then_some(()));
    phalanx(&dir).args(["scale", "run", "-1"]).run().ok().says("1 own rank is parked");
    wait_for("one to be parked", 120, || (count(&status(&dir), "parked") == 1).then_some(()));
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok().says("1 parked rank is woken");
    phalanx(&dir).args(["scale", "run", "5"]).run().code(1).says("no [capacity]");
    phalanx(&dir).args(["drain", "run", "nowhere"]).run().code(1).says("nowhere");
    phalanx(&dir).args(["drain", "run", "0"]).run().code(1).says("coordinates");
    phalanx(&dir).args(["cancel", "run", "w39[1-9,11]"]).run().ok().says("10 tasks are cancelled");
    phalanx(&dir).args(["cancel", "run", "w39"]).run().ok();
    phalanx(&dir).args(["cancel", "run", "w39[5-99]"]).run().code(1).says("refused: `w39` has no such index: 13");
    phalanx(&dir).args(["cancel", "run", "w93"]).run().code(1).says("refused: the job has no task `w93`");
    phalanx(&dir).args(["cancel", "run"]).run().ok();
    run.wait_clean().code(143);
    phalanx(&dir).args(["status", "run"]).run().ok().says("run CANCELLED");
    let over = phalanx(&dir).args(["status", "run", "--json"]).run().ok().json();
    assert_eq!((&over["state"], &over["exit_code"]), (&"cancelled".into(), &143.into()), "{over}");
    // What programs are told under the same names, whoever tells.
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().json();
    for name in ["run_name", "job", "run_state", "session", "exit_code", "elapsed_s", "counts", "cost", "budget"] {
        assert!(!report[name].is_null() || ["cost", "budget"].contains(&name), "{name} is not in {report}");
        assert_eq!(report[name], over[name], "{name}");
    }
    phalanx(&dir).args(["report", "run"]).run().says("asked by the user: scale 5: refused");
}

/// A job with nodes from this machine.
fn local(policy: &str, body: &str) -> String {
    format!("[capacity]\nprovider = \"local\"\n{policy}\n{body}")
}

#[test]
fn a_number_by_hand_is_bounded_by_the_job_file_and_by_what_the_provider_holds() {
    let dir = Dir::new("bounded");
    let scaling = "[scaling]\npolicy = \"fixed\"\nmax_ranks = 2\n";
    let run = open_run(&dir, phalanx(&dir), &format!("{}\n{}", held(9, ""), local(scaling, "")));
    let scale = |words: &[&str]| phalanx(&dir).args(["scale", "run"]).args(words.to_vec()).run();
    let ranks = || status(&dir)["ranks"].as_array().map(Vec::len);
    for words in [&["99"], &["+98"], &["3"]] {
        scale(words).code(1).says("refused:").says("max_ranks = 2").says("--force");
    }
    scale(&["9999", "--force"]).code(1).says("refused: the provider `local` cannot hold 9,998 more nodes");
    assert_eq!(ranks(), Some(1), "a refusal changes nothing");
    scale(&["2"]).ok();
    wait_for("two ranks", 120, || (count(&status(&dir), "active") == 2).then_some(()));
    scale(&["+1"]).code(1).says("refused:");
    scale(&["+1", "--force"]).ok().says("1 node is requested");
    wait_for("three ranks", 120, || (count(&status(&dir), "active") == 3).then_some(()));
    release(&dir);
    run.wait_clean().ok();
    phalanx(&dir).args(["report", "run", "--html", "r.html"]).run();
    assert!(dir.read("r.html").contains("scale 9999 --force: refused"));
}

#[test]
fn what_a_user_set_for_mpi_reaches_tasks_everywhere_and_what_a_launcher_set_does_not() {
    let dir = Dir::new("user-env");
    // Each rank that has a task waits until both have one.
    let meet = "env | grep -E '^(OMPI|PMIX|PMI|PRTE|HYDRA|HFI)_' | sort > env.$PHALANX_RANK; \
                until [ $(ls env.* | wc -l) = 3 ]; do sleep 0.05; done";
    let job = format!("[[task]]\nname = \"env\"\narray = \"0-2\"\ncommand = \"{meet}\"\n{}", local("", ""));
    dir.job("job.toml", &job);
    let users = [
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_btl_base_verbose", "0"),
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_UNKNOWN", "x"),
        ("PMIX_MCA_base_verbose", "0"),
        ("PRTE_MCA_base_verbose", "0"),
    ];
    let command = mpirun(&dir, 2).args(["run", "job.toml", "-q", "--slots", "1", "--run-dir", "run"]);
    let run = users.into_iter().fold(command, |command, (name, value)| command.env(name, value)).start();
    wait_for("the run to begin", 120, || dir.has("run/control/socket").then_some(()));
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    run.wait_clean().ok();
    // The harness may set some of its own.
    let said = |rank: u32| dir.read(&format!("env.{rank}"));
    assert_eq!((said(0), said(0)), (said(1), said(2)), "all ranks agree");
    for (name, value) in users {
        assert!(said(2).lines().any(|line| line == format!("{name}={value}")), "{name} is not in {}", said(2));
    }
    for theirs in ["OMPI_COMM_WORLD", "OMPI_MCA_orte", "OMPI_MCA_ess", "PMIX_RANK", "PMIX_MCA_psec", "HFI_NO"] {
        assert!(!said(0).contains(theirs), "{theirs} is in {}", said(0));
    }
}

#[test]
fn nodes_come_from_this_machine_and_go_again_by_hand() {
    let dir = Dir::new("local");
    // The last tasks hold a slot each: one is left to the node that comes last.
    let job = met_waves(3, 20, 12, 0.25) + &held(2, "needs = [\"w19\"]");
    let run = open_run(&dir, phalanx(&dir), &format!("{job}\n{}", local("", "")));
    phalanx(&dir).args(["scale", "run", "+2"]).run().ok().says("2 nodes are requested");
    wait_for("three ranks", 120, || (count(&status(&dir), "active") == 3).then_some(()));
    [1, 2].into_iter().for_each(|rank| wait_for_work(&dir, rank));
    phalanx(&dir).args(["scale", "run", "1"]).run().ok().says("2 joined ranks are drained");
    let blocks = wait_for("both blocks to be given back", 120, || {
        let blocks = status(&dir)["blocks"].clone();
        let released = blocks.as_array()?.iter().filter(|block| block["state"] == "released").count();
        (released == 2).then_some(blocks)
    });
    assert!(blocks[0]["billed_node_s"].as_f64().is_some_and(|billed| billed > 0.0), "{blocks}");
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    wait_for("the node that comes last to run something", 120, || {
        let status = status(&dir);
        let ranks = status["ranks"].as_array()?;
        ranks.iter().any(|rank| rank["rank"] == 3 && rank["running"] == 1).then_some(())
    });
    release(&dir);
    run.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    let names = met_names(3, 20, 12);
    trace.exactly_once(names.iter().map(String::as_str).chain(["held[1]", "held[2]"]));
    assert_eq!(ranks(&trace), HashSet::from([0, 1, 2, 3]));
}

#[test]
fn a_job_grows_when_it_is_wide_and_shrinks_when_it_is_narrow() {
    let dir = Dir::new("phases");
    let mut job = local(
        "[scaling]\npolicy = \"hybrid\"\nmax_ranks = 4\ninterval = \"1s\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"",
        "[job]\nname = \"phases\"\n",
    );
    let mut task = |name: &str, more: &str| {
        job += &format!(
            "[[task]]\nname = \"{name}\"\nkernel = \"sleep\"\nargs = {{ seconds = 1 }}\nestimate = \"1s\"\n{more}"
        );
    };
    task("wide", "array = \"1-40\"\n");
    task("n0", "needs = [\"wide\", \"meet\"]\n");
    (1..10).for_each(|k| task(&format!("n{k}"), &format!("needs = [\"n{}\"]\n", k - 1)));
    // It is wide until all four have come, and narrow until two have left.
    job += &(meeting(4) + &held(1, "needs = [\"n9\"]"));
    let run = open_run(&dir, phalanx(&dir), &job);
    wait_for("the run to grow", 120, || (count(&status(&dir), "active") > 2).then_some(()));
    wait_for("the run to shrink", 120, || (count(&status(&dir), "left") > 1).then_some(()));
    release(&dir);
    run.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 4 + 50 + 1);
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    assert!(report["billed_node_s"].as_f64().is_some_and(|billed| billed > 0.0), "{report:#}");
    // Every second of every node that came is accounted for.
    let nodes = report["nodes_held"].as_array().expect("a list");
    assert!(nodes.len() > 3, "{report:#}");
    for node in nodes {
        let seconds = |key: &str| node[key].as_f64().expect("a number");
        let parts = ["starting_s", "working_s", "starving_s", "leaving_s"].map(seconds);
        assert!(parts.iter().all(|part| *part > -1e-6) && seconds("working_s") > 0.0, "{node}");
        assert!((parts.iter().sum::<f64>() - seconds("held_s")).abs() < 1e-6, "{node}");
    }
    phalanx(&dir).args(["report", "run", "--html", "r.html"]).run().ok().says("starving");
    let html = dir.read("r.html");
    assert!(html.contains("Where the time of nodes went") && html.contains("<td>block 1</td>"));
}

/// On a login node the run's own process may not work: nodes are requested at once, and again when
/// the only one dies.
#[test]
fn a_coordinator_that_does_not_work_lives_on_the_nodes_that_it_is_given() {
    let dir = Dir::new("alone");
    dir.job("none.toml", "[job]\nname = \"none\"\n[[task]]\nname = \"t\"\ncommand = \"true\"\n");
    phalanx(&dir).args(["run", "none.toml", "--coordinator-only"]).run().code(2).says("name a [capacity]");
    let job = waves(2, 10, 0.5) + &held(1, "needs = [\"w1\"]");
    dir.job("job.toml", &format!("{job}\n{}", local("", "")));
    let args = ["-v", "run", "job.toml", "--slots", "1", "--run-dir", "run", "--coordinator-only"];
    let run = phalanx(&dir).args(args).start();
    let pid = wait_for("the only rank with slots to work", 120, || {
        let status = dir.has("run/control/socket").then(|| status(&dir))?;
        (status["tasks"]["completed"].as_u64()? > 2).then_some(())?;
        status["blocks"][0]["name"].as_str()?.strip_prefix("process ")?.parse::<i32>().ok()
    });
    // SAFETY: a signal to a process that the run has started and not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    release(&dir);
    let output = run.wait_clean().ok();
    assert!(output.stderr().contains("a node is requested"), "{output}");
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 21);
    assert_eq!(ranks(&trace), HashSet::from([1, 2]));
}

/// Nobody has a task that no rank can run: whoever cancels it does not wait for a node that never
/// comes.
#[test]
fn tasks_that_no_rank_can_run_can_be_cancelled() {
    let dir = Dir::new("nobody");
    // The connection to the only host hangs.
    let ssh = dir.file("bin/ssh", "#!/bin/sh\nexec sleep 1000\n");
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    dir.file("hosts", "far.invalid slots=1\n");
    let capacity = "[capacity]\nprovider = \"local\"\nhostfile = \"hosts\"\nlisten = \"127.0.0.1\"\n";
    let tasks = "[[task]]\nname = \"a\"\ncommand = \"true\"\n[[task]]\nname = \"b\"\nneeds = \"a\"\ncommand = \"true\"\n[[task]]\nname = \"c\"\ncommand = \"true\"\n";
    dir.job("job.toml", &format!("[job]\nname = \"nobody\"\n{capacity}{tasks}"));
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").expect("a path"));
    let run = phalanx(&dir).env("PATH", path);
    let run = run.args(["run", "job.toml", "--run-dir", "run", "--coordinator-only"]).start();
    wait_for("a request for a node", 120, || {
        let status = dir.has("run/control/socket").then(|| status(&dir))?;
        status["blocks"][0].is_object().then_some(())
    });
    phalanx(&dir).args(["cancel", "run", "a"]).run().ok().says("1 task is cancelled");
    wait_for("what needs it to be skipped", 120, || {
        let tasks = status(&dir)["tasks"].clone();
        (tasks["cancelled"] == 1 && tasks["skipped"] == 1).then_some(())
    });
    phalanx(&dir).args(["cancel", "run", "c"]).run().ok();
    run.wait_clean().code(1);
}

/// A user's number of ranks stays, whatever the policy wants, until it may decide again.
#[test]
fn a_policy_leaves_what_was_scaled_by_hand() {
    let dir = Dir::new("held");
    let policy = "[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\ninterval = \"200ms\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"\nbudget = 1000.0";
    // A chain: the policy would give everything back.
    let job = waves(20, 1, 0.25) + &held(1, "needs = [\"w19\"]");
    let run = open_run(&dir, phalanx(&dir), &format!("{job}\n{}", local(policy, "")));
    phalanx(&dir).args(["scale", "run", "3", "--force"]).run().ok().says("leaves it at 3");
    wait_for("three ranks", 120, || (count(&status(&dir), "active") == 3).then_some(()));
    let decided = status(&dir)["time_s"].as_f64().expect("a number") + 2.0;
    let later = wait_for("ten further decisions", 120, || {
        Some(status(&dir)).filter(|now| now["time_s"].as_f64() > Some(decided))
    });
    assert_eq!((count(&later, "active"), &later["scaling"]["held"]), (3, &3.into()), "{later:#}");
    phalanx(&dir).args(["status", "run"]).run().ok().says("ranks by `phalanx scale`").says("of 1000.00");
    phalanx(&dir).args(["scale", "run", "auto"]).run().ok().says("decides again");
    wait_for("the policy to give back what is beyond its bounds", 120, || {
        (count(&status(&dir), "left") > 0).then_some(())
    });
    release(&dir);
    run.wait_clean().ok();
    let names = names(20, 1);
    Trace::of(&dir, "run").exactly_once(names.iter().map(String::as_str).chain(["held[1]"]));
}

#[test]
fn single_tasks_are_cancelled_wherever_they_are() {
    let dir = Dir::new("cancel-task");
    let job = "[job]\nname = \"cancels\"\n\
               [[task]]\nname = \"long\"\narray = \"1-2\"\ncommand = \"sleep 600\"\n\
               [[task]]\nname = \"later\"\ncommand = \"true\"\nneeds = [\"long[1]\"]\n\
               [[task]]\nname = \"short\"\narray = \"1-3\"\ncommand = \"true\"\nneeds = [\"afterany:long\"]\n";
    let run = open_run(&dir, mpirun(&dir, 2), job);
    let cancel = |task: &str| phalanx(&dir).args(["cancel", "run", task]).run();
    wait_for("both to run", 120, || (status(&dir)["tasks"]["running"] == 2).then_some(()));
    cancel("short[2]").ok().says("1 task is cancelled");
    cancel("shorts").code(1).says("no task `shorts`");
    cancel("long").ok().says("2 tasks are cancelled");
    run.wait().code(1);
    let trace = Trace::of(&dir, "run");
    let state = |task: &str| trace.last(task).state.clone();
    for task in ["long[1]", "long[2]", "short[2]"] {
        assert_eq!(state(task), "CANCELLED", "{task}");
    }
    assert_eq!((&*state("later"), &*state("short[1]"), &*state("short[3]")), ("SKIPPED", "COMPLETED", "COMPLETED"));
    phalanx(&dir).args(["report", "run"]).run().ok().says("3 cancelled");
}

/// Who waits for a slot, for a further attempt or for slots on several ranks does not wait for them
/// to be cancelled.
#[test]
fn tasks_that_wait_are_cancelled_at_once() {
    let dir = Dir::new("cancel-waiting");
    let job = "[job]\nname = \"waits\"\n\
               [[task]]\nname = \"flaky\"\ncommand = \"touch tried; false\"\nretries = { count = 3, backoff = \"1h\" }\n\
               [[task]]\nname = \"gate\"\ncommand = \"while ! test -e tried; do sleep 0.05; done\"\n\
               [[task]]\nname = \"long\"\nneeds = \"gate\"\narray = \"1-2\"\npriority = 1\ncommand = \"sleep 600\"\n\
               [[task]]\nname = \"queued\"\nneeds = \"gate\"\narray = \"1-50\"\ncommand = \"sleep 600\"\n\
               [[task]]\nname = \"wide\"\nneeds = \"gate\"\narray = \"1-2\"\nmpi = { ranks = 2 }\ncommand = \"sleep 600\"\n";
    let run = open_run(&dir, mpirun(&dir, 2), job);
    let cancelled = |task: &str, all: u32| {
        phalanx(&dir).args(["cancel", "run", task]).run().ok();
        let what = format!("{task} to be cancelled");
        wait_for(&what, 120, || (status(&dir)["tasks"]["cancelled"] == all).then_some(()));
    };
    // Whichever of them have the two slots by then, or gather them: each array has one that waits.
    wait_for("all others to be ready", 120, || {
        let tasks = status(&dir)["tasks"].clone();
        (tasks["running"].as_u64() > Some(0) && tasks["completed"] == 1).then_some(())
    });
    cancelled("queued[7]", 1);
    cancelled("wide[1]", 2);
    cancelled("wide", 3);
    cancelled("flaky", 4);
    cancelled("queued", 53);
    cancelled("long", 55);
    run.wait().code(1);
}

/// People scale, drain and rebalance a run of many short tasks without a pause: none is lost, none
/// completes twice.
#[test]
fn many_short_tasks_are_scaled_by_hand() {
    let dir = Dir::new("many");
    let job = "[job]\nname = \"many\"\n[capacity]\nprovider = \"local\"\n\
               [[task]]\nname = \"t\"\npattern = \"stencil_1d\"\nwidth = 100\nsteps = 200\n\
               kernel = \"busy\"\nargs = { seconds = 0.0001 }\n";
    let mut run = open_run(&dir, mpirun(&dir, 2), &(job.to_owned() + &held(1, "")));
    let mut rng = fastrand::Rng::with_seed(seed());
    let (mut changes, mut turns) = (0, 0);
    while run.is_running() {
        turns += 1;
        // A machine that is slow to start commands has time for some of them.
        if changes > 3 || turns == 100 {
            release(&dir);
        }
        let words: &[&str] = match rng.u32(0..6) {
            0 | 1 => &["scale", "run", "+1"],
            2 => &["scale", "run", "-1"],
            3 => &["scale", "run", "3"],
            4 => &["drain", "run", "2"],
            _ => &["rebalance", "run"],
        };
        changes += u32::from(phalanx(&dir).args(words).run().exit() == 0);
        std::thread::sleep(Duration::from_millis(rng.u64(0..1000)));
    }
    run.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    let short = trace.0.iter().filter(|row| row.state == "COMPLETED" && !row.name.starts_with("held"));
    let completed: Vec<Option<u64>> = short.map(|row| row.index).collect();
    assert_eq!(completed.len(), 20_000, "after {changes} changes");
    assert_eq!(completed.iter().collect::<HashSet<_>>().len(), 20_000, "after {changes} changes");
    assert!(changes > 3, "{changes} changes were carried out");
    eprintln!("{changes} changes, ranks {:?}", ranks(&trace).len());
}

#[test]
fn a_rank_on_which_tasks_keep_failing_is_quarantined_and_a_slow_one_gets_less() {
    let dir = Dir::new("health");
    // Rank 1 takes four times as long, and fails what the last array asks: seldom enough that
    // nothing is added before it is noticed.
    let job = "[job]\nname = \"health\"\n\
               [[task]]\nname = \"slow\"\narray = \"1-120\"\n\
               command = \"if [ $PHALANX_RANK = 1 ]; then sleep 0.8; else sleep 0.2; fi\"\n\
               [[task]]\nname = \"sick\"\narray = \"1-200\"\nneeds = [\"slow\"]\nretries = { count = 3, elsewhere = true }\n\
               command = \"sleep 0.2; [ $PHALANX_RANK != 1 ] || { sleep 0.5; exit 1; }\"\n";
    let run = open_run(&dir, mpirun(&dir, 3), &(job.to_owned() + &held(1, "needs = [\"sick\"]")));
    wait_for("the slow rank to be found", 120, || run.stderr_so_far().contains("times as long").then_some(()));
    phalanx(&dir).args(["status", "run"]).run().ok().says("slower than the other ranks");
    wait_for("the sick rank to be found", 120, || (count(&status(&dir), "quarantined") == 1).then_some(()));
    phalanx(&dir).args(["status", "run"]).run().ok().says("failures");
    release(&dir);
    run.wait().ok();
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 321);
    let failed = trace.0.iter().filter(|row| row.state == "FAILED").count();
    assert!((5..20).contains(&failed), "{failed} attempts failed");
    phalanx(&dir).args(["report", "run"]).run().ok().says("rank 1 is quarantined");
}

#[test]
fn what_a_lost_rank_ran_is_marked_and_runs_again() {
    let dir = Dir::new("marked");
    // Neither the rank that is lost nor the other ends what it runs before.
    let job = "[job]\nname = \"marked\"\n[[task]]\nname = \"w\"\narray = \"1-6\"\n\
               command = \"touch by-$PHALANX_RANK; until test -e end && [ $PHALANX_RANK = 0 ]; do sleep 0.05; done\"\n";
    let run = open_run(&dir, phalanx(&dir), job);
    let mut joined = join(phalanx(&dir));
    wait_for("the rank to run something", 120, || {
        let status = status(&dir);
        (status["ranks"][1]["running"] == 1 && dir.has("by-1")).then_some(())
    });
    // A rank tells of a task that has run for half a second; that it has told cannot be seen from
    // here.
    std::thread::sleep(Duration::from_secs(5));
    joined.kill_all();
    release(&dir);
    run.wait().ok();
    let trace = Trace::of(&dir, "run");
    let lost: Vec<_> = trace.0.iter().filter(|row| row.state == "NODE_FAIL").collect();
    assert_eq!(lost.len(), 1, "{:?}", trace.0);
    let again = trace.last(&lost[0].task());
    assert_eq!((again.state.as_str(), again.attempt, again.rank), ("COMPLETED", lost[0].attempt + 1, Some(0)));
    assert_eq!(trace.completed().len(), 6);
}

#[test]
fn a_rank_that_is_told_to_go_ends_what_it_runs_first() {
    let dir = Dir::new("leave");
    let run = open_run(&dir, phalanx(&dir), &met_waves(2, 3, 10, 0.5));
    let joined = join(phalanx(&dir));
    wait_for_work(&dir, 1);
    joined.signal(libc::SIGTERM);
    joined.wait_clean().ok();
    run.wait().ok();
    Trace::of(&dir, "run").exactly_once(met_names(2, 3, 10).iter().map(String::as_str));
}

/// Whenever a rank is killed, nothing is lost and nothing completes twice.
#[test]
fn ranks_killed_at_any_moment_cost_only_what_they_ran() {
    let dir = Dir::new("kills");
    let job = "[job]\nname = \"kills\"\n[[task]]\nname = \"t\"\npattern = \"stencil_1d\"\nwidth = 12\nsteps = 100\n\
               kernel = \"sleep\"\nargs = { seconds = 0.02 }\n";
    let mut run = open_run(&dir, mpirun(&dir, 2), job);
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut kills = 0;
    while run.is_running() && kills < 30 {
        let mut joined = join(phalanx(&dir));
        std::thread::sleep(Duration::from_millis(rng.u64(200..1000)));
        joined.kill_all();
        kills += 1;
    }
    run.wait().ok();
    let trace = Trace::of(&dir, "run");
    let completed: Vec<String> = trace.0.iter().filter(|row| row.state == "COMPLETED").map(|row| row.task()).collect();
    let twice = |row: &&support::checker::Row| {
        trace.attempts(&row.task()).iter().filter(|r| r.state == "COMPLETED").count() > 1
    };
    let twice: Vec<_> = trace.0.iter().filter(twice).collect();
    assert!(twice.is_empty(), "after {kills} kills: {twice:#?}");
    assert_eq!(completed.len(), 1200, "after {kills} kills");
    assert_eq!(completed.iter().collect::<HashSet<_>>().len(), 1200);
}

/// Rank 0 is stopped, so its link is silent but whole, as when a network fails for a while.
#[test]
fn a_rank_that_does_not_hear_rank_0_starts_nothing_until_it_does() {
    let dir = Dir::new("silent");
    let mut run = open_run(&dir, phalanx(&dir), &met_waves(2, 1, 200, 0.1));
    let joined = join(phalanx(&dir));
    wait_for_work(&dir, 1);
    let coordinator: Vec<u32> = run.ranks();
    coordinator.iter().for_each(|&pid| support::send(pid, libc::SIGSTOP));
    wait_for("the rank to miss rank 0", 60, || joined.stderr_so_far().contains("rank 0 is silent").then_some(()));
    // What has begun by now ends soon; nothing else may begin while rank 0 stands still.
    std::thread::sleep(Duration::from_secs(3));
    coordinator.iter().for_each(|&pid| support::send(pid, libc::SIGCONT));
    assert!(run.is_running());
    run.wait().ok();
    joined.wait_clean().ok().says("rank 0 is heard again");
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(met_names(2, 1, 200).iter().map(String::as_str));
    let mut starts: Vec<u64> = trace.0.iter().filter(|row| row.rank == Some(1)).map(|row| row.start).collect();
    starts.sort_unstable();
    let longest = starts.windows(2).map(|w| Duration::from_nanos(w[1] - w[0])).max();
    assert!(longest > Some(Duration::from_millis(2500)), "rank 1 started nothing for {longest:?}");
}

/// A run whose MPI task takes all three slots of the rank that joined, which leads it, and one of
/// rank 0. It goes on until the test says that it may end.
fn begin_gang(name: &str, more: &str) -> (Dir, Running, Running) {
    let dir = Dir::new(name);
    let job = format!(
        "[[task]]\nname = \"wait\"\ncommand = \"until test -e ready; do sleep 0.05; done\"\n\
         [[task]]\nname = \"gang\"\nneeds = \"wait\"\nmpi = {{ ranks = 4 }}\n\
         command = \"echo >> began; until test -e end; do sleep 0.05; done\"\n{more}"
    );
    let run = open_run_with(&dir, mpirun(&dir, 2), &job, 2);
    let args = ["join", "--contact", "run/contact", "--slots", "3"];
    let joined = phalanx(&dir).args(args).patience(300).start();
    wait_for("three ranks", 120, || (count(&status(&dir), "active") == 3).then_some(()));
    dir.file("ready", "");
    let began = || dir.has("began") && dir.read("began").lines().count() == 4;
    wait_for("the MPI task", 120, || began().then_some(()));
    (dir, run, joined)
}

#[test]
fn a_run_ends_that_loses_the_leader_of_an_mpi_task_while_it_stops() {
    let (dir, run, mut joined) = begin_gang("gang-lost", "");
    // It does not receive the stop, so its task runs until it is lost.
    joined.ranks().iter().for_each(|&pid| support::send(pid, libc::SIGSTOP));
    phalanx(&dir).args(["cancel", "run"]).run().ok();
    wait_for("the stop", 120, || (status(&dir)["state"] == "stopping").then_some(()));
    joined.kill_all();
    run.wait_clean().code(143);
    assert_eq!(Trace::of(&dir, "run").state("wait"), "COMPLETED");
}

#[test]
fn slots_of_an_mpi_task_are_free_when_its_leader_was_drained() {
    // They need both slots of a rank, so none of them leaves its home.
    let after = "[[task]]\nname = \"after\"\nneeds = \"gang\"\narray = \"1-8\"\ncpus = 2\ncommand = \"true\"\n";
    let (dir, run, joined) = begin_gang("gang-drained", after);
    phalanx(&dir).args(["drain", "run", "2"]).run().ok().says("1 rank is drained");
    release(&dir);
    joined.wait_clean().ok();
    run.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 10);
    assert_eq!(trace.attempts("gang")[0].rank, Some(2), "the rank that joined led it");
}

/// Stops all these processes for a while, as Ctrl-Z, a debugger or `scontrol suspend` do.
fn stand_still(processes: &[u32]) {
    processes.iter().for_each(|&pid| support::send(pid, libc::SIGSTOP));
    std::thread::sleep(Duration::from_secs(2));
    processes.iter().for_each(|&pid| support::send(pid, libc::SIGCONT));
}

/// Whoever is stopped for a moment is interrupted in all that it waits for, and must not lose a
/// link by it.
#[test]
fn processes_that_are_stopped_and_go_on_lose_nothing() {
    let dir = Dir::new("stopped");
    // It continues until all have been paused.
    let job = met_waves(6, 4, 24, 0.2) + &held(1, "needs = [\"w3\"]");
    let run = open_run(&dir, mpirun(&dir, 2), &job);
    let joined: Vec<Running> =
        [1, 1, 2].map(|ranks| if ranks == 1 { join(phalanx(&dir)) } else { join(mpirun(&dir, 2)) }).into();
    (2..6).for_each(|rank| wait_for_work(&dir, rank));
    let base = run.ranks();
    let guests: Vec<u32> = joined.iter().flat_map(Running::ranks).collect();
    // Rank 0, the other rank of its world, all that joined, and everything with its launchers.
    stand_still(&base[..1]);
    stand_still(&base[1..]);
    stand_still(&guests);
    let all: Vec<u32> = joined.iter().chain([&run]).flat_map(Running::processes).collect();
    stand_still(&all);
    release(&dir);
    run.wait().ok();
    joined.into_iter().for_each(|joined| drop(joined.wait_clean().ok()));
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(met_names(6, 4, 24).iter().map(String::as_str).chain(["held[1]"]));
    assert_eq!(ranks(&trace), (0..6).collect());
}
