//! Lets the launcher of an MPI task reach nodes of other Slurm jobs.
//!
//! Inside a Slurm job a launcher knows the nodes of that job only, and each block that a run has
//! gained is a job of its own. Where the ranks of a task are in several jobs, the launcher starts
//! its daemons with a script in place of `ssh`, which lets `srun` start them in the job of the
//! node.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use super::Fault;
use crate::model::GangNode;

/// The script that starts a daemon on one of these nodes; `None` if all of them are in the job
/// `own` of this rank, or no Slurm job is known. `place`: the directory for scripts.
pub(super) fn agent(hosts: &[GangNode], own: Option<&str>, place: &Path) -> Result<Option<TempPath>, Fault> {
    if hosts.iter().all(|host| host.allocation.is_none() || host.allocation.as_deref() == own) {
        return Ok(None);
    }
    let fault =
        |error| Fault::refused(format!("cannot write the script of the MPI launcher to {}", place.display()), &error);
    // A task does not see it, and `srun` finds its cluster by it.
    let conf = std::env::var("SLURM_CONF").ok();
    let mut file = NamedTempFile::with_prefix_in("phalanx-agent-", place).map_err(fault)?;
    file.write_all(text(hosts, conf.as_deref()).as_bytes()).and_then(|()| file.flush()).map_err(fault)?;
    file.as_file().set_permissions(Permissions::from_mode(0o700)).map_err(fault)?;
    Ok(Some(file.into_temp_path()))
}

/// The script, which is called as `ssh` is: with a node, and the words of a line of shell.
fn text(hosts: &[GangNode], conf: Option<&str>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let is_number = |job: &&String| !job.is_empty() && job.bytes().all(|byte| byte.is_ascii_digit());
    let line = |host: &GangNode| {
        let job = host.allocation.as_ref().filter(is_number)?;
        Some(format!("{}) job={job};;\n", quoted(&host.node)))
    };
    let cases: String = hosts.iter().filter_map(line).collect();
    let conf = conf.map_or_else(String::new, |conf| format!("export SLURM_CONF={}\n", quoted(conf)));
    format!(
        "#!/bin/sh\n{conf}node=$1; shift\ncase $node in\n{cases}*) exec ssh \"$node\" \"$@\";;\nesac\n\
         exec srun --jobid=\"$job\" --overlap --nodes=1 --ntasks=1 --nodelist=\"$node\" --mpi=none --quiet sh -c \"$*\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_another_job_is_reached_through_that_job() {
        let host = |node: &str, job: &str| GangNode {
            node: node.to_owned(),
            allocation: Some(job.to_owned()),
            ..GangNode::default()
        };
        let place = tempfile::tempdir().unwrap();
        let made = |hosts: &[GangNode]| agent(hosts, Some("7"), place.path()).unwrap().is_some();
        assert!(
            !made(&[]) && !made(&[host("n1", "7"), GangNode::default()]) && made(&[host("n1", "7"), host("n2", "8")])
        );
        let hosts = [host("n1", "7"), host("n'2", "8"), host("n3", "9; rm x")];
        let text = text(&hosts, Some("/etc/x y"));
        assert!(text.contains("export SLURM_CONF='/etc/x y'\n"), "{text}");
        assert!(text.contains("'n1') job=7;;\n'n'\\''2') job=8;;\n*) exec ssh"), "{text}");
        let tools = place.path().join("bin");
        std::fs::create_dir(&tools).unwrap();
        for tool in ["srun", "ssh"] {
            let tool = tools.join(tool);
            std::fs::write(&tool, "#!/bin/sh\necho \"${0##*/}\" \"$@\"\n").unwrap();
            std::fs::set_permissions(&tool, Permissions::from_mode(0o700)).unwrap();
        }
        let script = place.path().join("agent");
        std::fs::write(&script, &text).unwrap();
        let said = |node: &str| {
            let mut command = std::process::Command::new("/bin/sh");
            command.env("PATH", &tools).arg(&script).args([node, "orted", "--x 1"]);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let options = "--overlap --nodes=1 --ntasks=1";
        assert_eq!(
            said("n'2"),
            format!("srun --jobid=8 {options} --nodelist=n'2 --mpi=none --quiet sh -c orted --x 1\n")
        );
        assert_eq!(said("n3"), "ssh n3 orted --x 1\n");
    }
}
