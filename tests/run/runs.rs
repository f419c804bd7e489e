//! The list of runs, and deleting old ones.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::support::{Dir, mpirun, phalanx, wait_for};

/// Makes the journal of a run look old.
fn age(dir: &Dir, run: &str, days: u64) {
    let journal = File::options().append(true).open(dir.path().join(format!("phalanx-runs/{run}/journal")));
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    journal.expect("it can be opened").set_modified(then).expect("its time can be set");
}

#[test]
fn runs_are_listed_and_old_ones_are_deleted_but_never_live_ones() {
    let dir = Dir::new("runs");
    phalanx(&dir).args(["runs"]).run().ok().says("no runs here");
    phalanx(&dir).args(["clean", "--yes"]).run().ok().says("there is no run to delete");
    dir.job("good.toml", "[[task]]\nname = 'a'\narray = '0-2'\nkernel = 'noop'\n");
    dir.job(
        "bad.toml",
        "[[task]]\nname = 'a'\ncommand = 'false'\n[[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'true'\n",
    );
    let wait = "[[task]]\nname = 'a'\ncommand = 'echo > started; while ! test -e go; do sleep 0.05; done'\n";
    dir.job("live.toml", wait);
    for _ in 0..3 {
        phalanx(&dir).args(["run", "good.toml"]).run().ok();
    }
    phalanx(&dir).args(["run", "bad.toml"]).run().code(1);
    let live = phalanx(&dir).args(["run", "live.toml"]).start();
    wait_for("the live run", 120, || dir.has("started").then_some(()));
    let listed = phalanx(&dir).args(["runs", "--json"]).run().ok().json();
    let field = |run: &str, field: &str| {
        let found = listed.as_array().expect("a list").iter().find(|listed| listed["run"] == run);
        found.unwrap_or_else(|| panic!("{run} is not in {listed}"))[field].clone()
    };
    assert_eq!((field("good-2", "state"), field("good-2", "completed")), ("COMPLETED".into(), 3.into()));
    assert_eq!((field("bad-1", "state"), field("bad-1", "failed")), ("FAILED".into(), 1.into()));
    assert_eq!((field("live-1", "state"), field("live-1", "job")), ("RUNNING".into(), "live".into()));
    let table = phalanx(&dir).args(["runs", "good"]).run().ok().says("good-3");
    assert!(!table.stdout().contains("bad-1"), "{table}");

    for line in [&["runs", "nope"][..], &["clean", "nope"]] {
        phalanx(&dir).args(line).run().code(2).says("there is no run of nope: there are runs of bad, good, live");
    }

    for run in ["good-1", "good-2", "good-3", "bad-1", "live-1"] {
        age(&dir, run, 40);
    }
    let shown = phalanx(&dir).args(["clean"]).run().ok().says("nothing was deleted");
    assert!(shown.stdout().contains("good-1") && shown.stdout().contains("good-2"), "{shown}");
    for kept in ["good-3", "bad-1", "live-1"] {
        assert!(!shown.stdout().contains(kept), "the newest of each job stays: {shown}");
    }
    phalanx(&dir).args(["clean", "--older-than", "50d", "--yes"]).run().ok().says("there is no run to delete");
    phalanx(&dir).args(["clean", "--older-than", "soon"]).run().code(2);
    phalanx(&dir).args(["clean", "--older-than", "30"]).run().code(2).says("write 30d for days");
    phalanx(&dir).args(["clean", "--yes"]).run().ok().says("2 runs with").says("deleted");
    assert!(!dir.has("phalanx-runs/good-1") && !dir.has("phalanx-runs/good-2") && dir.has("phalanx-runs/good-3"));
    phalanx(&dir).args(["clean", "--keep", "0", "--yes"]).run().ok();
    assert_eq!(
        dir.list("phalanx-runs").into_iter().filter(|name| !name.ends_with("jsonl")).collect::<Vec<_>>(),
        ["latest", "live-1"]
    );
    dir.file("go", "");
    live.wait().ok();
    phalanx(&dir).args(["report", "latest"]).run().ok().says("COMPLETED");
    phalanx(&dir).args(["clean", "live", "--keep", "0", "--yes"]).run().ok();
    assert!(!dir.has("phalanx-runs/live-1") && !dir.has("phalanx-runs/latest"));
}

#[test]
fn values_of_tasks_are_a_table_with_their_axes() {
    let dir = Dir::new("values");
    dir.file("points.csv", "label,alpha\n\"a, b\",0.5\nc,1.5\n");
    dir.job(
        "values.toml",
        "[[task]]\nname = 'fit'\nmatrix = { csv = 'points.csv', seed = [7, 8] }\n\
         command = 'echo loss {seed} > $PHALANX_METRICS; echo seed 1 >> $PHALANX_METRICS; test {seed} = 7 -o -e mended'\n\
         [[task]]\nname = 'sum'\ncommand = 'echo total 2.5 > $PHALANX_METRICS'\n[[task]]\nname = 'none'\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "values.toml"]).run().code(1);
    // What failed is in neither view.
    let statistics = || phalanx(&dir).args(["report", "latest"]).run().ok().stdout().to_owned();
    let values_of = |name: &str| {
        let shown = statistics();
        let row = shown.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default().to_owned();
        row.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let table = phalanx(&dir).args(["report", "latest", "--values"]).run().ok();
    assert_eq!(table.stdout().lines().filter(|line| line.starts_with("fit,")).count(), 2, "{}", table.stdout());
    assert_eq!(values_of("loss "), ["2", "7", "7", "7", "7"]);
    dir.file("mended", "");
    // What completed before keeps its values, and a sample in front changes the indices.
    dir.file("points.csv", "label,alpha\nnew,2\n\"a, b\",0.5\nc,1.5\n");
    phalanx(&dir).args(["run", "values.toml", "--resume"]).run().ok();
    let table = phalanx(&dir).args(["report", "latest", "--values"]).run().ok();
    let rows: Vec<&str> = table.stdout().lines().collect();
    assert_eq!(
        rows,
        [
            "name,index,label,alpha,seed,loss,metric.seed,total",
            "fit,0,new,2,7,7,1,",
            "fit,1,new,2,8,8,1,",
            "fit,2,\"a, b\",0.5,7,7,1,",
            "fit,3,\"a, b\",0.5,8,8,1,",
            "fit,4,c,1.5,7,7,1,",
            "fit,5,c,1.5,8,8,1,",
            "sum,,,,,,,2.5",
        ]
    );
}

#[test]
fn output_of_a_running_task_can_be_read_and_followed() {
    let dir = Dir::new("follow");
    dir.job(
        "talk.toml",
        "[[task]]\nname = 'talk'\nmatrix = { who = ['ann', 'bob'] }\n\
         command = 'echo {who} begins; echo {who} worries >&2; touch begun-{who}; while ! test -e go; do sleep 0.05; done; \
         echo {who} ends'\n[[task]]\nname = 'last'\nneeds = 'talk'\ncommand = 'true'\n",
    );
    let run = mpirun(&dir, 2).args(["run", "talk.toml", "--slots", "1"]).start();
    wait_for("both", 120, || (dir.has("begun-ann") && dir.has("begun-bob")).then_some(()));
    let follower = phalanx(&dir).args(["report", "talk", "--task", "talk[bob]", "--follow"]).start();
    wait_for("what was printed so far", 120, || follower.stdout_so_far().contains("bob begins").then_some(()));
    for who in ["ann", "bob"] {
        wait_for("a report with what was printed so far", 120, || {
            let shown = phalanx(&dir).args(["report", "talk", "--task", &format!("talk[{who}]")]).run().ok();
            let has = |text: &str| shown.stdout().contains(&text.replace("WHO", who));
            let texts = ["RUNNING, on ", "standard output so far\nWHO begins", "standard error so far\nWHO worries"];
            texts.into_iter().all(has).then_some(())
        });
    }
    phalanx(&dir).args(["report", "talk", "--task", "talk", "--follow"]).run().code(2).says("is 2 tasks; follow one");
    dir.file("go", "");
    let followed = follower.wait().ok();
    assert_eq!(followed.stdout(), "bob begins\nbob ends\n");
    assert!(
        followed.stderr().contains("bob worries") && followed.stderr().contains("talk[bob]: COMPLETED"),
        "{followed}"
    );
    run.wait().ok();
    let shown = phalanx(&dir).args(["report", "talk", "--task", "talk[bob]", "--follow"]).run().ok().says("bob ends");
    assert!(!shown.stdout().contains("so far"), "{shown}");
}
