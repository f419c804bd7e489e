//! The accounting of a test's Slurm: `slurmdbd` over a MariaDB of its own, as nearly every
//! production cluster has it.
//!
//! Without it Slurm lets a job shrink once only, because the record that every shrink begins anew
//! never gets its number. The database lies in the Slurm's temporary directory, listens on loopback
//! only, needs no password and trades durability for speed: it lives as long as one test.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Slurm, find, free_ports, user_name};

/// The programs that accounting needs beside Slurm's others.
pub(super) const NEEDED: [&str; 4] = ["mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr"];

/// Where the two daemons listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    database: u16,
    slurmdbd: u16,
}

impl Ports {
    /// Two ports that are free now.
    pub(super) fn choose() -> Ports {
        let ports = free_ports(2);
        Ports { database: ports[0], slurmdbd: ports[1] }
    }
}

/// The lines of `slurm.conf` that name the accounting, or its absence.
pub(super) fn lines(ports: Option<Ports>, root: &std::path::Path) -> String {
    match ports {
        None => "AccountingStorageType=accounting_storage/none\n".into(),
        Some(ports) => format!(
            "AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={}
AccountingStoragePass={}/munge.sock
",
            ports.slurmdbd,
            root.display()
        ),
    }
}

impl Slurm {
    /// Starts the database and `slurmdbd` and makes the cluster known to them; `munged` must run
    /// already.
    pub(super) fn start_accounting(&mut self, ports: Ports) -> std::io::Result<()> {
        let root = self.path("").display().to_string();
        let data = self.path("database").display().to_string();
        let user = user_name()?;
        let install = Command::new(find("mariadb-install-db").unwrap_or_else(|| "mariadb-install-db".into()))
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .args([format!("--datadir={data}"), format!("--user={user}")])
            .stdin(Stdio::null())
            .output()?;
        if !install.status.success() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&install.stderr).into_owned()));
        }
        let mut database =
            vec!["--no-defaults".to_string(), "--bind-address=127.0.0.1".into(), "--skip-grant-tables".into()];
        database.extend(["--innodb-flush-log-at-trx-commit=0".into(), "--innodb-buffer-pool-size=32M".into()]);
        database.extend([format!("--port={}", ports.database), format!("--user={user}"), format!("--datadir={data}")]);
        database.extend([format!("--socket={root}/database.sock"), format!("--pid-file={root}/database.pid")]);
        self.start_daemon("mariadbd", "mariadbd", &database)?;
        wait_for_listener(ports.database)?;
        fs::write(self.path("slurmdbd.conf"), daemon_configuration(ports, &root, &user))?;
        fs::set_permissions(self.path("slurmdbd.conf"), Permissions::from_mode(0o600))?;
        self.start_daemon("slurmdbd", "slurmdbd", &["-D".into()])?;
        wait_for_listener(ports.slurmdbd)?;
        let added = self.command("sacctmgr").args(["--immediate", "add", "cluster", "phalanx"]).run();
        if added.exit() != 0 {
            return Err(std::io::Error::other(added.to_string()));
        }
        Ok(())
    }
}

fn daemon_configuration(ports: Ports, root: &str, user: &str) -> String {
    format!(
        "AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={}
SlurmUser={user}
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={}
StorageUser={user}
StorageLoc=slurm
",
        ports.slurmdbd, ports.database
    )
}

fn wait_for_listener(port: u16) -> std::io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = TcpStream::connect(("127.0.0.1", port)) {
        if Instant::now() > deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
