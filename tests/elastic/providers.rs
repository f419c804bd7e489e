//! Nodes from batch systems that are not here: each example of docs/providers.md with programs that
//! print what the manual of that system says. Behind all of them is the same small queue, whose
//! server runs two jobs at a time.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use crate::support::checker::Trace;
use crate::support::{Dir, documented_capacity, phalanx, shell, wait_for};

/// The server of the queue, which runs outside of Phalanx as those of the real systems do. A job is
/// a file with its script and its log; `.pid` and `.done` stand beside it while and after it runs.
const SERVER: &str = r#"
cd queue
while :; do
  for job in $(ls *.job 2>/dev/null | sort -n); do
    n=${job%.job}
    [ -e $n.pid ] || [ -e $n.done ] && continue
    alive=0
    for pid in *.pid; do [ -e $pid ] && ! [ -e ${pid%.pid}.done ] && alive=$((alive + 1)); done
    [ $alive -lt 2 ] || break
    { read -r script; read -r log; } < $job
    setsid sh -c 'echo $$ > $3.pid; [ -e $3.done ] || "$1" >> "$2" 2>&1; touch $3.done' - "$script" "$log" $n &
    until [ -s $n.pid ]; do sleep 0.01; done
  done
  sleep 0.05
done
"#;

/// What the programs of a batch system have in common: `put SCRIPT LOG`, which prints a number,
/// `state N`, which prints W, R, F or nothing, and `cancel N`.
const CLIENT: &str = r#"
cd "$(dirname "$0")/../queue"
echo "${0##*/} $*" >> calls
put() {
  id=$(($(ls *.job 2>/dev/null | wc -l) + 1))
  printf '%s\n' "$1" "$2" > $id.new
  mv $id.new $id.job
  echo $id
}
state() {
  if ! [ -e $1.job ]; then :; elif [ -e $1.done ]; then echo F; elif [ -e $1.pid ]; then echo R; else echo W; fi
}
cancel() {
  touch $1.done
  if [ -s $1.pid ]; then kill -TERM -- -$(cat $1.pid) 2>/dev/null; fi
  return 0
}
last() { for last; do :; done; echo "$last"; }
"#;

/// Programs of a batch system by name, as scripts behind [`CLIENT`].
type Programs = &'static [(&'static str, &'static str)];

const PBS: Programs = &[
    (
        "qsub",
        r#"script=$(last "$@")
while [ $# -gt 0 ]; do [ "$1" = -o ] && log=$2; shift; done
echo "$(put "$script" "$log").pbs01""#,
    ),
    (
        "qstat",
        r#"id=$(last "$@"); s=$(state ${id%%.*})
case $s in
W) letter=Q;; R) letter=R;; F) letter=F;;
*) echo "qstat: Unknown Job Id $id" >&2; exit 153;;
esac
echo "Job Id: $id"
echo "    Job_Name = phalanx"
echo "    job_state = $letter"
[ $letter = R ] && echo "    exec_host = node0${id%%.*}/0*8"
echo "    Variable_List = PBS_O_HOME=/root,PBS_O_SYSTEM=Linux"
exit 0"#,
    ),
    (
        "qdel",
        r#"if [ "$(state ${1%%.*})" = F ]; then echo "qdel: Job has finished $1" >&2; exit 35; fi
cancel ${1%%.*}"#,
    ),
];

const LSF: Programs = &[
    (
        "bsub",
        r#"script=$(last "$@")
while [ $# -gt 0 ]; do [ "$1" = -o ] && log=$2; shift; done
echo "Job <$(put "$script" "$log")> is submitted to default queue <normal>.""#,
    ),
    (
        "bjobs",
        r#"id=$(last "$@")
case $(state $id) in
W) echo "PEND -";; R) echo "RUN 8*node0$id";; F) echo "DONE node0$id";;
*) echo "Job <$id> is not found" >&2; exit 255;;
esac"#,
    ),
    ("bkill", r#"cancel $1; echo "Job <$1> is being terminated""#),
];

const FLUX: Programs = &[(
    "flux",
    r#"verb=$1; shift; last=$(last "$@")
case $verb in
submit)
  for word; do case $word in --output=*) log=${word#--output=};; esac; done
  echo "ƒ$(put "$last" "$log")";;
jobs)
  case "$*" in *"--format={state} {nodelist}"*) :;; *) echo "flux-jobs: $*" >&2; exit 1;; esac
  n=${last#ƒ}
  case $(state $n) in
  W) echo "SCHED ";; R) echo "RUN node0$n";; F) echo "INACTIVE node0$n";;
  *) echo "flux-jobs: ERROR: JobID $last unknown" >&2; exit 1;;
  esac;;
cancel) cancel ${last#ƒ};;
esac"#,
)];

/// Runs a job that needs three ranks at once, of which two come from the batch system.
fn grows(name: &str, title: &str, programs: Programs, submitted: &[&str]) {
    let dir = Dir::new(name);
    dir.file("queue/calls", "");
    let _server = shell(&dir, SERVER).start();
    for (program, body) in programs {
        let file = format!("bin/{program}");
        dir.file(&file, &format!("#!/bin/sh\n{CLIENT}\n{body}\n"));
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path().join(file), executable).expect("an executable file");
    }
    let capacity = documented_capacity(title).replace("[capacity]\n", "[capacity]\nlisten = \"127.0.0.1\"\n");
    let job = format!(
        "[job]\nname = \"batch\"\n{capacity}\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 8\ninterval = \"1s\"\n\
         [cost]\nnode_hour = 36.0\nminimum = \"0s\"\n\
         [[task]]\nname = \"wide\"\nestimate = \"1s\"\narray = \"1-60\"\n\
         command = \"echo {{index}} >> met; until [ $(wc -l < met) -ge 3 ]; do sleep 0.05; done; sleep 0.5\"\n"
    );
    dir.job("job.toml", &job);
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    phalanx(&dir)
        .args(["run", "job.toml", "--slots", "1", "--run-dir", "run"])
        .env("PATH", &path)
        .patience(300)
        .run()
        .ok();
    let trace = Trace::of(&dir, "run");
    trace.exactly_once((1..=60).map(|k| format!("wide[{k}]")).collect::<Vec<_>>().iter().map(String::as_str));
    let nodes: HashSet<u32> = trace.0.iter().filter_map(|row| row.rank).collect();
    assert!(nodes.len() >= 3, "{nodes:?}");
    let calls = dir.read("queue/calls");
    for words in submitted {
        assert!(calls.lines().next().is_some_and(|line| line.contains(words)), "{words}: {calls}");
    }
    // Nothing is left: neither in the queue nor in the file of what may be.
    let jobs = std::fs::read_dir(dir.path().join("queue")).expect("the queue").flatten();
    let jobs: Vec<String> = jobs.filter_map(|file| file.file_name().into_string().ok()).collect();
    for job in jobs.iter().filter_map(|file| file.strip_suffix(".job")) {
        wait_for("a job to end", 60, || dir.has(&format!("queue/{job}.done")).then_some(()));
    }
    assert!(!dir.has("run/blocks/commands"), "{}", dir.read("run/blocks/commands"));
    let status = phalanx(&dir).args(["report", "run"]).run().ok();
    assert!(!status.stdout().contains("refused"), "{}", status.stdout());
}

#[test]
fn nodes_come_from_pbs() {
    let name = "-N phalanx-run-";
    grows("pbs", "PBS Professional and OpenPBS", PBS, &["qsub -q workq", name, "-l walltime=0", "block-1.sh"]);
}

#[test]
fn nodes_come_from_lsf() {
    grows("lsf", "LSF", LSF, &["bsub -J phalanx-run-", "-x -W ", "-o "]);
}

#[test]
fn nodes_come_from_flux() {
    grows("flux", "Flux", FLUX, &["flux submit --nodes=1", "--job-name=phalanx-run-", "--time-limit="]);
}

/// A batch system whose job waits until it is cancelled.
const WAITING: &str = "[capacity]\nprovider = \"commands\"\nlisten = \"127.0.0.1\"\n[capacity.commands]\n\
                       state = \"[ -e cancelled ] || echo waits {id}\"\nwaiting = \"waits\"\nrunning = \"runs\"\n\
                       job_id = '\\d+'\ncancel = \"echo {id} >> cancelled\"\n";

#[test]
fn what_a_submit_line_leaves_running_is_no_tasks() {
    let dir = Dir::new("daemon");
    let submit = "setsid sh -c 'echo $$ > new; mv new daemon; exec sleep 600' > /dev/null 2>&1 & echo 17 # {script}";
    // Each task is the only one that runs when it ends, and has left something itself.
    let job = format!(
        "[[task]]\nname = \"begin\"\ncommand = \"touch began; until [ -e daemon ]; do sleep 0.05; done\"\n\
         [[task]]\nname = \"leave\"\nneeds = [\"begin\"]\n\
         command = \"setsid sh -c 'echo $$ > new; mv new left; exec sleep 600' & until [ -e left ]; do sleep 0.05; done\"\n\
         [[task]]\nname = \"end\"\nneeds = [\"leave\"]\ncommand = \"true\"\n{WAITING}submit = \"{submit}\"\n"
    );
    dir.job("job.toml", &job);
    let mut run = phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).start();
    wait_for("the first task", 120, || dir.has("began").then_some(()));
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    while run.is_running() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let pid = |file: &str| dir.read(file).trim().parse::<u32>().expect("a process id");
    assert_eq!(run.processes(), [pid("daemon")], "what the task left has ended, at {}", pid("left"));
    assert!(dir.read("cancelled").starts_with("17\n"), "{}", dir.read("cancelled"));
    run.wait().ok();
}

#[test]
fn jobs_that_a_killed_run_has_left_are_cancelled() {
    let dir = Dir::new("left-jobs");
    let submit = "submit = \"echo job 17 # {script}\"\n";
    let lines = WAITING.replace("cancel = \"", "cancel = \"[ ! -e away ] && ");
    let job = format!("[[task]]\nname = \"a\"\ncommand = \"touch began; sleep 600\"\n{lines}{submit}");
    dir.job("job.toml", &job);
    let run = phalanx(&dir).args(["run", "job.toml", "-q", "--slots", "1", "--run-dir", "run"]).start();
    wait_for("the task", 120, || dir.has("began").then_some(()));
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    wait_for("the job to be in the queue", 120, || dir.has("run/blocks/commands").then_some(()));
    run.signal(libc::SIGKILL);
    drop(run);
    // While the batch system is away the job is kept.
    dir.file("away", "");
    wait_for("the run to be over", 120, || {
        phalanx(&dir).args(["cancel", "run"]).run().stderr().contains("the job 17 may still be there").then_some(())
    });
    std::fs::remove_file(dir.path().join("away")).expect("the file");
    wait_for("the job to be cancelled", 120, || {
        phalanx(&dir).args(["cancel", "run"]).run().stdout().contains("(17)").then_some(())
    });
    assert_eq!(dir.read("cancelled"), "17\n");
    phalanx(&dir).args(["cancel", "run"]).run().code(2);
}
