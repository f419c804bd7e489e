//! Several hosts on this machine: network namespaces, each with an address of its own, on a bridge
//! whose ports go down. Rank 0 runs on the first host and others join from the rest, so links break
//! as between machines: nobody closes a connection.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::support::checker::Trace;
use crate::support::{self, Dir, Running, TestCommand, is_root, program, send, skip_loudly, wait_for};

/// Network namespaces: hosts from 0 on, and the switch between them.
struct Hosts {
    prefix: String,
    count: usize,
}

impl Hosts {
    /// `None`, said loudly, where namespaces cannot be made.
    fn new(count: usize) -> Option<Hosts> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            skip_loudly("only root can make network namespaces");
            return None;
        }
        let prefix = format!("phx{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hosts = Hosts { prefix, count };
        if let Err(why) = hosts.set_up() {
            skip_loudly(&format!("network namespaces cannot be made here: {why}"));
            return None;
        }
        Some(hosts)
    }

    fn set_up(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for host in 0..self.count {
            let (name, port) = (self.name(host), port(host));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "e0", "netns", &name])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &name, "addr", "add", &format!("{}/24", address(host)), "dev", "e0"])?;
            ip(&["-n", &name, "link", "set", "e0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-s", self.prefix)
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A program on a host.
    fn on(&self, host: usize, dir: &Dir, words: &[&str]) -> TestCommand {
        TestCommand::new("ip", dir.path()).args(["netns", "exec", &self.name(host)]).args(words).patience(300)
    }

    fn phalanx(&self, host: usize, dir: &Dir, args: &[&str]) -> TestCommand {
        let program = program().to_str().expect("its path is text");
        self.on(host, dir, &[&[program], args].concat())
    }

    /// Starts the run on the first host, and waits until it can be joined.
    fn run(&self, dir: &Dir, job: &str) -> Running {
        dir.job("job.toml", job);
        let at = address(0);
        let args = ["-v", "run", "job.toml", "--slots", "1", "--run-dir", "run", "--join-on", &at];
        let run = self.phalanx(0, dir, &args).start();
        wait_for("the contact file", 120, || dir.has("run/contact").then_some(()));
        run
    }

    /// Joins from a host, and waits until rank 0 has noticed it as this rank.
    fn join(&self, host: usize, dir: &Dir, run: &Running, rank: u32) -> Running {
        let joined = self.start_join(host, dir);
        wait_for_rank(run, rank);
        joined
    }

    fn start_join(&self, host: usize, dir: &Dir) -> Running {
        self.phalanx(host, dir, &["-v", "join", "--contact", "run/contact", "--slots", "1"]).start()
    }

    /// Takes the cable of a host out.
    fn cut(&self, host: usize) {
        ip(&["-n", &self.switch(), "link", "set", &port(host), "down"]).expect("a port goes down");
    }

    fn heal(&self, host: usize) {
        ip(&["-n", &self.switch(), "link", "set", &port(host), "up"]).expect("a port goes up");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (0..self.count).map(|host| self.name(host)).chain([self.switch()]) {
            // One that was never made is no concern.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn address(host: usize) -> String {
    format!("10.99.0.{}", host + 1)
}

/// Name of the port of a host on the switch.
fn port(host: usize) -> String {
    format!("p{host}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", args.join(" "))) }
}

/// Short tasks, and one that ends when the test says so: the run is not over before. It keeps rank
/// 0 or another busy, whichever gets it.
fn job(tasks: u32) -> String {
    format!(
        "[[task]]\nname = \"t\"\narray = \"1-{tasks}\"\npriority = 1\ncommand = \"sleep 0.05; echo >> ran-$PHALANX_RANK\"\n\
         [[task]]\nname = \"held\"\ncommand = \"until test -e end; do sleep 0.05; done\"\n"
    )
}

fn names(tasks: u32) -> Vec<String> {
    (1..=tasks).map(|index| format!("t[{index}]")).chain(["held".to_owned()]).collect()
}

fn ran(dir: &Dir, rank: u32) -> usize {
    let name = format!("ran-{rank}");
    if dir.has(&name) { dir.read(&name).lines().count() } else { 0 }
}

/// Waits until rank 0 has noticed that a rank takes part.
fn wait_for_rank(run: &Running, rank: u32) {
    let said = format!("rank {rank} on ");
    wait_for("it to take part", 120, || run.stderr_so_far().contains(&said).then_some(()));
}

/// Waits until a rank has run further tasks.
fn wait_for_work(dir: &Dir, rank: u32) {
    let before = ran(dir, rank);
    wait_for("work of a rank", 120, || (ran(dir, rank) > before).then_some(()));
}

/// All tasks are recorded as complete, each once, whatever attempts were lost.
fn assert_each_completed_once(dir: &Dir, tasks: u32) -> Trace {
    let trace = Trace::of(dir, "run");
    for name in names(tasks) {
        let completed = trace.attempts(&name).iter().filter(|row| row.state == "COMPLETED").count();
        assert_eq!(completed, 1, "{name}: {:?}", trace.attempts(&name));
    }
    trace
}

#[test]
fn a_link_that_is_down_for_seconds_costs_nothing() {
    let Some(hosts) = Hosts::new(3) else { return };
    let dir = Dir::new("hosts-short");
    let run = hosts.run(&dir, &job(600));
    let joined = [hosts.join(1, &dir, &run, 1), hosts.join(2, &dir, &run, 2)];
    [1, 2].into_iter().for_each(|rank| wait_for_work(&dir, rank));
    hosts.cut(1);
    sleep(Duration::from_secs(1));
    hosts.heal(1);
    // TCP sends again 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s after a loss. A cut of 2 s leaves it several
    // tries within the limit of silence of 15 s; one of 5 s leaves too few for a machine under
    // load.
    hosts.cut(2);
    sleep(Duration::from_secs(2));
    hosts.heal(2);
    dir.file("end", "");
    let run = run.wait_clean().ok();
    assert!(!run.stderr().contains("is lost"), "{run}");
    joined.into_iter().for_each(|joined| drop(joined.wait_clean().ok()));
    assert_each_completed_once(&dir, 600).exactly_once(names(600).iter().map(String::as_str));
}

#[test]
fn hosts_that_are_cut_off_are_given_up_and_may_come_back() {
    let Some(hosts) = Hosts::new(3) else { return };
    let dir = Dir::new("hosts-cut");
    let run = hosts.run(&dir, &job(400));
    let [cut, mut dead] = [hosts.join(1, &dir, &run, 1), hosts.join(2, &dir, &run, 2)];
    [1, 2].into_iter().for_each(|rank| wait_for_work(&dir, rank));
    hosts.cut(1);
    hosts.cut(2);
    // The second host loses power: nobody tells rank 0 that its connection is gone.
    dead.kill_all();
    for rank in [1, 2] {
        let said = format!("rank {rank} is lost");
        wait_for("rank 0 to give a host up", 240, || run.stderr_so_far().contains(&said).then_some(()));
    }
    // The first is as sure that rank 0 is dead, and leaves nothing behind.
    cut.wait_clean().code(1);
    // Who asks while nothing gets through gets an answer as soon as something does.
    let back = hosts.start_join(1, &dir);
    sleep(Duration::from_secs(5));
    hosts.heal(1);
    hosts.heal(2);
    wait_for_rank(&run, 3);
    dir.file("end", "");
    run.wait_clean().ok();
    back.wait_clean().ok();
    assert_each_completed_once(&dir, 400);
    support::phalanx(&dir).args(["report", "run"]).run().ok().says("rank 1 is lost").says("rank 2 is lost");
}

#[test]
fn a_frozen_host_that_thaws_after_it_was_given_up_does_no_harm() {
    let Some(hosts) = Hosts::new(2) else { return };
    let dir = Dir::new("hosts-frozen");
    let run = hosts.run(&dir, &job(200));
    let joined = hosts.join(1, &dir, &run, 1);
    wait_for_work(&dir, 1);
    let frozen = joined.processes();
    frozen.iter().for_each(|&pid| send(pid, libc::SIGSTOP));
    wait_for("rank 0 to give it up", 240, || run.stderr_so_far().contains("rank 1 is lost").then_some(()));
    // Nothing of what it does from now on is recorded: it ends what it was running, and may start
    // one task more before it reads that its link is closed.
    let recorded = |trace: &Trace| trace.0.iter().filter(|row| row.rank == Some(1)).cloned().collect::<Vec<_>>();
    let (before, ran_before) = (recorded(&Trace::of(&dir, "run")), ran(&dir, 1));
    frozen.iter().for_each(|&pid| send(pid, libc::SIGCONT));
    joined.wait_clean().code(1);
    dir.file("end", "");
    run.wait_clean().ok();
    let after = recorded(&assert_each_completed_once(&dir, 200));
    assert_eq!(after, before, "it ran {} tasks before and {} after", ran_before, ran(&dir, 1) - ran_before);
    support::phalanx(&dir).args(["report", "run"]).run().ok().says("rank 1 is lost");
}

#[test]
fn rank_0_that_thaws_goes_on_without_the_hosts_that_gave_it_up() {
    let Some(hosts) = Hosts::new(2) else { return };
    let dir = Dir::new("hosts-thaw");
    let run = hosts.run(&dir, &job(200));
    let joined = hosts.join(1, &dir, &run, 1);
    wait_for_work(&dir, 1);
    let frozen = run.processes();
    frozen.iter().for_each(|&pid| send(pid, libc::SIGSTOP));
    joined.wait_clean().code(1);
    frozen.iter().for_each(|&pid| send(pid, libc::SIGCONT));
    wait_for("rank 0 to notice", 240, || run.stderr_so_far().contains("rank 1 is lost").then_some(()));
    dir.file("end", "");
    run.wait_clean().ok();
    assert_each_completed_once(&dir, 200);
}

#[test]
fn garbage_and_a_flood_at_the_port_keep_nobody_out() {
    let Some(hosts) = Hosts::new(3) else { return };
    let dir = Dir::new("hosts-garbage");
    let run = hosts.run(&dir, &job(200));
    let contact: serde_json::Value = serde_json::from_str(&dir.read("run/contact")).expect("a contact is JSON");
    let address = contact["addresses"][0].as_str().expect("it has an address").replace(':', "/");
    // Each of many connections at once sends what is no request, and as much of it as is taken.
    let flood = format!(
        "touch flood; while ! test -e dry; do for i in $(seq 30); do \
         {{ head -c $((RANDOM * 50)) /dev/urandom > /dev/tcp/{address}; }} 2>/dev/null & done; wait; done"
    );
    let noise = hosts.on(2, &dir, &["bash", "-c", &flood]).start();
    wait_for("the flood", 120, || dir.has("flood").then_some(()));
    let joined = hosts.join(1, &dir, &run, 1);
    wait_for_work(&dir, 1);
    dir.file("end", "");
    run.wait_clean().ok();
    joined.wait_clean().ok();
    dir.file("dry", "");
    drop(noise.wait_clean());
    assert_each_completed_once(&dir, 200).exactly_once(names(200).iter().map(String::as_str));
}
