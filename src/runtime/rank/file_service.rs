//! What a rank does for others that ask it for files: it sends them; rank 0 also says what a task
//! finds in its directory, and fetches what attempts elsewhere have left.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::file_link::PieceWriter;
use super::shared::Shared;
use crate::exec::{FileCarrier, pack};
use crate::model::{CarriedFile, Rank, TaskId};
use crate::schedule::protocol::FileMessage;

impl Shared {
    /// Handles a message about files that is not for the coordinator.
    pub(super) fn on_file_message(self: &Arc<Self>, from: Rank, id: u32, message: FileMessage) {
        let is_rank_0 = self.me == Rank::ZERO;
        match message {
            FileMessage::Planned { .. } | FileMessage::Source { .. } | FileMessage::Taken { .. } => {
                self.files.answer(from, id, message);
            }
            FileMessage::Credit { pieces } => self.files.credit(from, id, pieces),
            FileMessage::Get { file } => {
                self.files.begin_sending(from, id);
                self.serve(move |shared| shared.send_file(from, id, &file));
            }
            FileMessage::Plan { task } if is_rank_0 => self.serve(move |shared| {
                let files = shared.runner.files_for(task);
                shared.files.post_about(from, id, FileMessage::Planned { files });
            }),
            FileMessage::Take { task, attempt, node, completed } if is_rank_0 => {
                self.serve(move |shared| {
                    let taken = shared.take_results((from, &node), (task, attempt), completed);
                    let result = taken.map_err(|error| error.to_string());
                    shared.files.post_about(from, id, FileMessage::Taken { result });
                });
            }
            _ => tracing::debug!(%from, id, "a message about files is for another rank"),
        }
    }

    /// Does what another rank waits for, in a thread of its own.
    fn serve(self: &Arc<Self>, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(self);
        if !self.files.add_work(Box::new(move || work(&shared))) {
            return;
        }
        let files = Arc::clone(&self.files);
        let run = move || {
            while let Some(work) = files.next_work() {
                // A panic has been reported; who waits for the answer gives up.
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("files".into()).spawn(run) {
            // The next request tries again.
            self.files.lacks_thread();
            tracing::error!("files for other ranks wait: the system refuses a thread: {error}");
        }
    }

    fn send_file(&self, to: Rank, id: u32, file: &CarriedFile) {
        let mut writer = PieceWriter::new(&self.files, to, id);
        let never = AtomicBool::new(false);
        let sent = match file {
            CarriedFile::Results { task, attempt, .. } => {
                let results = self.files.results((*task, *attempt));
                let results = results.filter(|_| to == Rank::ZERO).ok_or_else(|| io::ErrorKind::NotFound.into());
                results.and_then(|results| pack(&results, &mut writer, &never))
            }
            file => self.runner.send(file, &mut writer, &never),
        };
        writer.finish(sent);
    }

    /// Fetches what an attempt on another rank has left, and puts it in place.
    fn take_results(
        &self,
        (rank, node): (Rank, &str),
        attempt: (TaskId, u16),
        completed: bool,
    ) -> io::Result<(u64, u64)> {
        let (task, number) = attempt;
        let dir = self.runner.reception((rank, task, number))?;
        let file = CarriedFile::Results { rank, task, attempt: number };
        self.files.fetch(&file, &dir, &AtomicBool::new(false))?;
        self.runner.accept(task, (rank, node, completed), &dir)
    }
}
