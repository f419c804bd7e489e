//! What a rank does for others that ask it for files: it sends them; rank 0 also says what a task
//! finds in its directory, and fetches what attempts elsewhere have left.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::file_link::{FileLink, PieceWriter, Reception, Service};
use super::shared::Shared;
use crate::exec::{FileCarrier, pack};
use crate::model::{CarriedFile, Rank};
use crate::schedule::file_messages::FileMessage;

/// Answers a request of a rank with an error.
type Refuse = fn(&FileLink, Rank, u32, io::Error);

/// A request of another rank. One that is dropped before it has been answered is refused.
struct Request {
    files: Arc<FileLink>,
    from: Rank,
    id: u32,
    /// `None` once it has been answered.
    refuse: Option<Refuse>,
}

impl Request {
    fn answered(mut self) {
        self.refuse = None;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(refuse) = self.refuse {
            let error = io::Error::other("it has failed there, see the log of that rank");
            refuse(&self.files, self.from, self.id, error);
        }
    }
}

fn answer_plan(files: &FileLink, to: Rank, id: u32, planned: Result<Vec<u8>, String>) {
    files.post_about(to, id, FileMessage::Planned { files: planned });
}

fn answer_take(files: &FileLink, to: Rank, id: u32, taken: io::Result<(u64, u64)>) {
    let result = taken.map_err(|error| error.to_string());
    files.post_about(to, id, FileMessage::Taken { result });
}

impl Shared {
    /// Handles a message about files that is not for the coordinator.
    pub(super) fn on_file_message(self: &Arc<Self>, from: Rank, id: u32, message: FileMessage) {
        let is_rank_0 = self.me == Rank::ZERO;
        match message {
            FileMessage::Planned { .. } | FileMessage::Source { .. } | FileMessage::Taken { .. } => {
                self.files.answer(from, id, message);
            }
            FileMessage::Credit { pieces } => self.files.credit(from, id, pieces),
            FileMessage::Gone { rank } if from == Rank::ZERO => self.files.lose([rank].into_iter()),
            FileMessage::GiveUp { task, attempt } => self.files.end_reception((from, task, attempt)),
            FileMessage::Get { file } => {
                self.files.begin_sending(from, id);
                let refuse = |files: &_, from, id, error| PieceWriter::new(files, from, id).finish(Err(error));
                self.serve(Service::Send, (from, id, refuse), move |shared| shared.send_file(from, id, &file));
            }
            FileMessage::Plan { task } if is_rank_0 => {
                let refuse =
                    |files: &_, from, id, error: io::Error| answer_plan(files, from, id, Err(error.to_string()));
                self.serve(Service::Send, (from, id, refuse), move |shared| {
                    answer_plan(&shared.files, from, id, shared.runner.files_for(task));
                });
            }
            FileMessage::Take { task, attempt, node, completed } if is_rank_0 => {
                let refuse = |files: &_, from, id, error| answer_take(files, from, id, Err(error));
                let reception = self.files.begin_reception((from, task, attempt));
                self.serve(Service::TakeIn, (from, id, refuse), move |shared| {
                    answer_take(&shared.files, from, id, shared.take_results(&reception, &node, completed));
                });
            }
            _ => tracing::debug!(%from, id, "a message about files is for another rank"),
        }
    }

    /// Does what another rank waits for, in a thread of its own.
    fn serve(
        self: &Arc<Self>,
        service: Service,
        (from, id, refuse): (Rank, u32, Refuse),
        work: impl FnOnce(&Shared) + Send + 'static,
    ) {
        let shared = Arc::clone(self);
        let request = Request { files: Arc::clone(&self.files), from, id, refuse: Some(refuse) };
        let answer = move || {
            work(&shared);
            request.answered();
        };
        if !self.files.services.add(service, Box::new(answer)) {
            return;
        }
        let files = Arc::clone(&self.files);
        let run = move || {
            while let Some(work) = files.services.next(service) {
                // A panic has been reported, and the request is refused.
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("files".into()).spawn(run) {
            tracing::error!("the system refuses a thread for files of other ranks: {error}");
            // What no other thread does is refused.
            drop(self.files.services.lacks_thread(service));
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
    fn take_results(&self, reception: &Reception, node: &str, completed: bool) -> io::Result<(u64, u64)> {
        let (rank, task, attempt) = reception.of;
        let dir = self.runner.reception(reception.of)?;
        let file = CarriedFile::Results { rank, task, attempt };
        self.files.fetch(&file, &dir, &reception.is_given_up)?;
        self.runner.accept(task, (rank, node, completed), &dir, &reception.is_given_up)
    }
}
