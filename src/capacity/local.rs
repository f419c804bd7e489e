//! Blocks on this machine: each is one more process. For development, and for tests of everything but the scheduler.

use std::collections::HashMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::blocks::{BlockId, Event};
use super::provider::{Order, Provider, alone};

/// A block that is told to end does so in this time, or is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// See the module's text.
pub struct Local {
    order: Order,
    children: HashMap<BlockId, Child>,
    happened: Vec<(BlockId, Event)>,
}

impl Local {
    /// Starts blocks so.
    pub fn new(order: Order) -> Local {
        Local { order, children: HashMap::new(), happened: Vec::new() }
    }

    fn spawn(&self, id: BlockId) -> std::io::Result<Child> {
        let log = File::create(self.order.log(id))?;
        let [program, words @ ..] = self.order.words(id);
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        alone(&mut command).spawn()
    }
}

impl Provider for Local {
    fn request(&mut self, id: BlockId) {
        let event = match self.spawn(id) {
            Ok(child) => {
                let name = format!("process {}", child.id());
                self.children.insert(id, child);
                self.happened.push((id, Event::Accepted(name)));
                Event::Granted(sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into()))
            }
            Err(error) => Event::Refused(format!("cannot start {}: {error}", self.order.program.display())),
        };
        self.happened.push((id, event));
    }

    fn withdraw(&mut self, id: BlockId) {
        if let Some(child) = self.children.get_mut(&id) {
            // One that has ended is what is wanted.
            let _ = child.kill();
        }
    }

    fn poll(&mut self) -> Vec<(BlockId, Event)> {
        let mut happened = std::mem::take(&mut self.happened);
        self.children.retain(|&id, child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                happened.push((id, Event::Ended(status.to_string())));
                false
            }
            Err(error) => {
                happened.push((id, Event::Ended(error.to_string())));
                false
            }
        });
        happened
    }

    fn close(&mut self) {
        let end = Instant::now() + GRACE;
        while !self.children.is_empty() && Instant::now() < end {
            let happened = self.poll();
            self.happened.extend(happened);
            thread::sleep(LOOK);
        }
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
