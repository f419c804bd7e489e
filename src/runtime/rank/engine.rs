//! A rank's engine: it moves frames, feeds the state machines and carries out what they decide.
//!
//! One thread at a time has it (it lives in a mutex): the main thread, or a slot between two tasks. A *turn* takes what has come from slots and
//! from other ranks, in an order that matters: the load is read before the outboxes, so a rank that calls itself idle has reported
//! all that it did. An *exchange* is the part of a turn that fine-grained work lives on: ends go out, counts come in, and what they make ready
//! goes straight to the slot that looks. Anything else that it meets makes it a turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::executor::{Executor, Outbox};
use crate::exec::Stop as StopTasks;
use crate::fabric::near::NearLane;
use crate::fabric::{Fabric, FabricError, wire};
use crate::model::{Rank, Time};
use crate::pool::Slot;
use crate::runtime::coordinator::driver::CoordinatorDriver;
use crate::schedule::ledger::Ripple;
use crate::schedule::long_tasks::{GUEST_LOOK_INTERVAL, LOOK_INTERVAL, LongTaskWatch};
use crate::schedule::protocol::{Load, Message, Stop};
use crate::schedule::worker::{Action, Event, Worker};

/// Frames taken in one turn, so that slots are heard in between.
const FRAMES: usize = 64;

/// What is due may be so late while slots are awake: they look around themselves, and calling the main thread costs more than it is worth.
const SLACK: Duration = Duration::from_millis(10);

/// See the module's text.
pub(in crate::runtime) struct Engine {
    fabric: Box<dyn Fabric>,
    worker: Worker,
    /// Rank 0's other half.
    head: Option<CoordinatorDriver>,
    outbox: Outbox,
    /// The frame that has come, and the one that is being sent; kept for their memory.
    came: Vec<u8>,
    leaves: Vec<u8>,
    /// What counts from other ranks set off; kept for its memory.
    ripple: Ripple,
    special: Vec<u32>,
    actions: Vec<Action>,
    /// Messages of this rank to itself.
    loopback: VecDeque<Message>,
    over: bool,
    /// When the main thread looks around by itself; zero if it has been called.
    pilot_until: Time,
    /// How often a slot has looked around.
    looks: u64,
    /// The last look ended before all frames that had come were taken.
    has_more: bool,
    broken: Option<String>,
    /// Rank 0 cannot be reached any more.
    orphaned: bool,
    /// This rank joined a run that others began, and may leave it; how often it has been told to go.
    guest: Option<u32>,
    /// Rank 0 is silent.
    cut_off: bool,
    watch: LongTaskWatch,
    /// What rank 0 is told of this rank's part in the traffic: messages sent, bytes in them, tasks taken from others.
    traffic: [u64; 3],
    /// A reference to the crew for threads that outlive a turn; set before the first turn.
    crew: std::sync::Weak<Executor>,
}

impl Engine {
    pub(in crate::runtime) fn new(fabric: Box<dyn Fabric>, worker: Worker, head: Option<CoordinatorDriver>) -> Engine {
        Engine {
            fabric,
            worker,
            head,
            outbox: Outbox::default(),
            came: Vec::new(),
            leaves: Vec::new(),
            ripple: Ripple::default(),
            special: Vec::new(),
            actions: Vec::new(),
            loopback: VecDeque::new(),
            over: false,
            pilot_until: Time::ZERO,
            looks: 0,
            has_more: false,
            broken: None,
            orphaned: false,
            guest: None,
            cut_off: false,
            watch: LongTaskWatch::new(LOOK_INTERVAL),
            traffic: [0; 3],
            crew: std::sync::Weak::new(),
        }
    }

    pub(in crate::runtime) fn set_crew(&mut self, crew: &Arc<Executor>) {
        self.crew = Arc::downgrade(crew);
    }

    /// True if the run ends after a number of failures.
    pub(in crate::runtime) fn stops_by_failures(&self) -> bool {
        self.worker.stops_by_failures()
    }

    /// True if there is no other rank.
    pub(in crate::runtime) fn is_alone(&self) -> bool {
        self.fabric.size() == 1
    }

    /// True once the rank may leave.
    pub(in crate::runtime) fn is_over(&self) -> bool {
        self.over
    }

    /// Why this rank cannot go on, if it cannot.
    pub(in crate::runtime) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// This rank joined a run that others began.
    pub(in crate::runtime) fn set_guest(&mut self) {
        self.guest = Some(0);
        self.watch = LongTaskWatch::new(GUEST_LOOK_INTERVAL);
    }

    /// A signal has come. Launchers pass signals on to every rank, and rank 0 answers for all; a rank that joined asks to be drained, and does not
    /// wait for that if it is told again.
    pub(in crate::runtime) fn signal(&mut self, crew: &Executor, signal: i32) {
        crew.runner.signalled(signal);
        if let Some(head) = &mut self.head {
            let messages = head.signal(crew.clock.now(), signal);
            return self.post(crew, messages);
        }
        let Some(told) = &mut self.guest else { return };
        *told += 1;
        match told {
            1 => self.send(Rank::ZERO, Message::Leaving),
            _ => (self.orphaned, self.over) = (true, true),
        }
    }

    /// True if rank 0 is gone: then this rank has nothing to stay for.
    pub(in crate::runtime) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// True while a stop waits for what still runs.
    pub(in crate::runtime) fn is_stopping(&self) -> bool {
        self.worker.is_stopping()
    }

    /// Gives the fabric and rank 0's half back, when all is over.
    pub(in crate::runtime) fn take_apart(&mut self) -> (Box<dyn Fabric>, Option<CoordinatorDriver>) {
        let fabric = std::mem::replace(&mut self.fabric, Box::new(crate::fabric::Alone));
        (fabric, self.head.take())
    }

    /// How often slots have looked around so far.
    pub(in crate::runtime) fn looks(&self) -> u64 {
        self.looks
    }

    /// True if frames may have come that nobody has taken: nothing tells of them again.
    pub(in crate::runtime) fn has_more(&self) -> bool {
        self.has_more
    }

    /// The way to wait for frames, if the fabric has one.
    pub(in crate::runtime) fn fabric(&mut self) -> &mut dyn Fabric {
        self.fabric.as_mut()
    }

    /// The way for ends between ranks of this node that needs no engine, if there is one.
    pub(in crate::runtime) fn near(&self) -> Option<NearLane> {
        self.fabric.near()
    }

    /// The main thread will sleep until then.
    pub(in crate::runtime) fn pilot_sleeps(&mut self, until: Time) {
        self.pilot_until = until;
    }

    /// When the machines next want to be called.
    pub(in crate::runtime) fn next_tick(&self) -> Option<Time> {
        let head = self.head.as_ref().map(CoordinatorDriver::next_tick);
        [self.worker.next_tick(), head].into_iter().flatten().min()
    }

    /// A turn driven by a slot without work, which sleeps afterwards unless it is `patient`. True if the slot should look for work again.
    pub(in crate::runtime) fn turn_from_slot(&mut self, crew: &Executor, patient: bool) -> bool {
        self.looks += 1;
        if !patient {
            self.fabric.doze();
        }
        let moved = self.turn(crew);
        self.call_pilot(crew, if patient { SLACK } else { Duration::ZERO });
        moved && crew.pool().is_some_and(|pool| pool.load().ready > 0)
    }

    /// The main thread sleeps until what it knew to be next: it must hear of anything that is due
    /// sooner by more than `slack`, and of frames that nobody has taken.
    fn call_pilot(&mut self, crew: &Executor, slack: Duration) {
        if self.over || self.has_more || self.next_tick().is_some_and(|due| due.after(slack) < self.pilot_until) {
            self.pilot_until = Time::ZERO;
            crew.wake.notify();
        }
    }

    /// Passes on what a slot (with `all`: every slot) did and takes what has come. True if the slot has been given work.
    /// `busy`: the slot has more to do by itself.
    pub(in crate::runtime) fn exchange(&mut self, crew: &Executor, slot: &mut Slot<'_>, all: bool, busy: bool) -> bool {
        if self.over {
            return false;
        }
        self.looks += 1;
        let moved = match () {
            // Or this rank would go on stealing although it works again.
            () if busy && self.worker.load().idle > 0 => self.hear_load(crew),
            () if all => self.hear_slots(crew),
            () => self.hear_outbox(crew, slot.index()),
        };
        let mut given = false;
        for _ in 0..FRAMES {
            let Some(from) = self.receive() else { break };
            if self.count(crew, slot) {
                given = true;
                // A slot with work to do comes back soon.
                if busy { break } else { continue }
            }
            // What is not a count may ask how busy this rank is.
            self.hear_load(crew);
            self.hear_frame(crew, from);
        }
        if given && !busy {
            let load = self.worker.load();
            let load = Load { idle: load.idle.saturating_sub(1), running: load.running + 1, ..load };
            self.step(crew, Event::Load(load));
        }
        // In a world the main thread never sleeps for longer than that.
        if (moved || self.has_more) && self.is_alone() {
            self.call_pilot(crew, SLACK);
        }
        given
    }

    /// Counts the ends that the frame at hand tells of, if that is what it is for.
    fn count(&mut self, crew: &Executor, slot: &mut Slot<'_>) -> bool {
        let Some((epoch, ended)) = wire::counts(&self.came) else { return false };
        if !self.worker.is_counting(epoch) {
            return false;
        }
        let Some(ledger) = self.worker.ledger() else { return false };
        let now = crew.clock.now();
        crew.served(slot.index(), now);
        for (node, end) in ended {
            ledger.import(node, end, now, &mut self.ripple);
        }
        crew.release((crew.current_page(), ledger), &mut self.ripple.ready, Some(slot), &mut self.special);
        if !self.ripple.is_empty() {
            let mut ripple = std::mem::take(&mut self.ripple);
            self.with_worker(crew, |worker, actions| worker.completed(now, &mut Vec::new(), &mut ripple, actions));
            self.ripple = ripple;
        }
        if !self.special.is_empty() {
            let special = std::mem::take(&mut self.special);
            self.step(crew, Event::Special(special));
        }
        true
    }

    /// Takes what has come. True if anything had.
    pub(in crate::runtime) fn turn(&mut self, crew: &Executor) -> bool {
        if self.over {
            return false;
        }
        self.post_mail(crew);
        if self.guest.is_some() {
            self.heed_silence(crew);
        }
        let quiet = self.worker.is_stopping() && crew.is_quiet();
        let mut moved = self.hear_load(crew);
        moved |= self.hear_ranks(crew);
        if quiet {
            self.step(crew, Event::Quiet);
        }
        let now = crew.clock.now();
        if self.worker.next_tick().is_some_and(|due| due <= now) {
            self.step(crew, Event::Tick);
        }
        if self.watch.is_due(now) {
            let started = self.watch.look(now, crew.runner.running(), |task| self.worker.attempt_at(task));
            if !started.is_empty() {
                self.step(crew, Event::Started(started));
            }
        }
        if let Some(head) = self.head.as_mut().filter(|head| head.next_tick() <= now) {
            let messages = head.tick(now);
            self.send_all(messages);
        }
        self.run_loopback(crew);
        moved
    }

    /// Tells the worker when rank 0 falls silent, and when it is heard again.
    fn heed_silence(&mut self, crew: &Executor) {
        let cut_off = self.fabric.is_cut_off();
        if cut_off != self.cut_off {
            self.cut_off = cut_off;
            match cut_off {
                true => tracing::warn!("rank 0 is silent: nothing is started until it is heard again"),
                false => tracing::warn!("rank 0 is heard again"),
            }
            self.step(crew, Event::CutOff(cut_off));
        }
    }

    /// Hears of the slots, and then how busy they were *before* that: what counts as idle has told all that it did.
    fn hear_load(&mut self, crew: &Executor) -> bool {
        if crew.was_fed() {
            // Between then and now it has not starved without a break.
            let load = self.worker.load();
            self.step(crew, Event::Load(Load { idle: 0, ..load }));
        }
        let load = crew.load();
        let moved = self.hear_slots(crew);
        let changed = load != self.worker.load();
        if changed {
            self.step(crew, Event::Load(load));
        }
        moved || changed
    }

    fn hear_slots(&mut self, crew: &Executor) -> bool {
        let mut moved = false;
        for slot in 0..crew.outboxes() {
            moved |= self.hear_outbox(crew, slot);
        }
        moved
    }

    fn hear_outbox(&mut self, crew: &Executor, slot: usize) -> bool {
        if !crew.take_outbox(slot, &mut self.outbox) {
            return false;
        }
        let sent = std::mem::take(&mut self.outbox.sent);
        self.traffic[0] += sent.messages;
        self.traffic[1] += sent.bytes;
        if !(self.outbox.attempts.is_empty() && self.outbox.ripple.is_empty()) {
            let now = self.outbox.attempts.last().map_or_else(|| crew.clock.now(), |last| last.end);
            let mut attempts = std::mem::take(&mut self.outbox.attempts);
            let mut ripple = std::mem::take(&mut self.outbox.ripple);
            self.with_worker(crew, |worker, actions| worker.completed(now, &mut attempts, &mut ripple, actions));
            (self.outbox.attempts, self.outbox.ripple) = (attempts, ripple);
        }
        if !self.outbox.is_plain() {
            self.hear_rest(crew);
        }
        true
    }

    /// What a slot leaves beside what completed.
    #[cold]
    fn hear_rest(&mut self, crew: &Executor) {
        let mut outbox = std::mem::take(&mut self.outbox);
        if !outbox.special.is_empty() {
            self.step(crew, Event::Special(std::mem::take(&mut outbox.special)));
        }
        for attempt in outbox.ended.drain(..) {
            self.step(crew, Event::Ended { attempt });
        }
        for (gang, cpus) in outbox.held.drain(..) {
            self.step(crew, Event::Held { gang, cpus });
        }
        for (gang, attempt) in outbox.gang_ended.drain(..) {
            self.step(crew, Event::GangEnded { gang, attempt });
        }
        self.run_loopback(crew);
        self.outbox = outbox;
    }

    /// The sender of the next frame, which then lies in `came`.
    fn receive(&mut self) -> Option<Rank> {
        let received = self.fabric.receive(&mut self.came);
        self.has_more = matches!(received, Ok(Some(_)));
        received.unwrap_or_else(|error| {
            match error {
                FabricError::Gone(Rank::ZERO) if self.fabric.me() != Rank::ZERO => {
                    // Who was told to leave expects nothing else.
                    self.orphaned = !self.over;
                    self.over = true;
                }
                _ => self.fail(error.to_string()),
            }
            None
        })
    }

    fn hear_ranks(&mut self, crew: &Executor) -> bool {
        for taken in 0..FRAMES {
            let Some(from) = self.receive() else { return taken > 0 };
            self.hear_frame(crew, from);
        }
        true
    }

    fn hear_frame(&mut self, crew: &Executor, from: Rank) {
        match wire::decode(&self.came) {
            Ok(message) => {
                if let Message::Loot { leases, .. } = &message {
                    self.traffic[2] += leases.len() as u64;
                }
                self.deliver(crew, from, message);
            }
            // Inside a world all ranks run the same program: this can only be another build of it.
            Err(error) => self.fail(format!("a message from {from} cannot be read: {error}")),
        }
    }

    fn deliver(&mut self, crew: &Executor, from: Rank, message: Message) {
        if message.is_for_coordinator() {
            if let Some(head) = &mut self.head {
                let messages = head.on_message(crew.clock.now(), from, message);
                self.send_all(messages);
            }
        } else {
            self.step(crew, Event::Message { from, message });
        }
        self.run_loopback(crew);
    }

    fn run_loopback(&mut self, crew: &Executor) {
        while let Some(message) = self.loopback.pop_front() {
            let me = self.fabric.me();
            self.deliver(crew, me, message);
        }
    }

    fn step(&mut self, crew: &Executor, event: Event) {
        let opened = match &event {
            Event::Message { message: Message::HandOut(hand_out), .. } => {
                Some((hand_out.epoch, hand_out.limits.clone()))
            }
            _ => None,
        };
        let now = crew.clock.now();
        self.with_worker(crew, |worker, actions| {
            worker.step(now, event, actions);
            if let (Some((epoch, limits)), Some(ledger)) = (&opened, worker.ledger()) {
                crew.open(*epoch, ledger, limits);
            }
        });
    }

    /// Lets the worker do something and carries out what follows from it.
    fn with_worker(&mut self, crew: &Executor, event: impl FnOnce(&mut Worker, &mut Vec<Action>)) {
        let mut actions = std::mem::take(&mut self.actions);
        event(&mut self.worker, &mut actions);
        for action in actions.drain(..) {
            if let Some(answer) = self.act(crew, action) {
                self.step(crew, answer);
            }
        }
        self.actions = actions;
    }

    /// Carries one action out; some are answered by an event.
    fn act(&mut self, crew: &Executor, action: Action) -> Option<Event> {
        match action {
            Action::Send { to, message } => {
                if matches!(message, Message::Report { .. } | Message::Stopped) {
                    self.post_mail(crew);
                }
                self.send(to, message);
            }
            Action::Start(locals) => crew.start(&locals),
            Action::StartLease(lease) => crew.start_lease(lease),
            Action::Surrender { to, max } => {
                return Some(Event::Surrendered { to, leases: crew.surrender(max) });
            }
            Action::Freeze { keep } => {
                crew.turn_page();
                self.hear_slots(crew);
                return Some(Event::Frozen { waiting: crew.take_back(keep) });
            }
            Action::Hold { gang, slots, lead } => {
                if let Err(reason) = crew.hold(gang, slots, lead) {
                    self.fail(reason);
                }
            }
            Action::Launch { gang, hosts, cpus } => {
                if let Some(crew) = self.crew.upgrade() {
                    crew.launch(gang, hosts, cpus);
                }
            }
            Action::Release { gang } => crew.release_gang(gang),
            Action::Suspend | Action::Halt => crew.pause(),
            Action::Resume => crew.resume(),
            Action::Stop(how) => {
                crew.pause();
                match how {
                    Stop::Drain => {}
                    Stop::Terminate => crew.runner.stop_all(StopTasks::Terminate),
                    Stop::Kill => crew.runner.stop_all(StopTasks::Kill),
                }
            }
            Action::Cancel(tasks) => {
                for &(from, to) in &tasks {
                    crew.runner.cancel(from..to);
                }
                crew.call_off(&tasks);
                self.hear_slots(crew);
            }
            Action::Exit => self.over = true,
        }
        None
    }

    fn send_all(&mut self, messages: Vec<(Rank, Message)>) {
        for (to, message) in messages {
            self.send(to, message);
        }
    }

    /// Sends rank 0 what lies in the mailbox.
    fn post_mail(&mut self, crew: &Executor) {
        for mut message in crew.mailbox.take() {
            if let Message::Vitals(vitals) = &mut message {
                [vitals.messages, vitals.message_bytes, vitals.stolen] = self.traffic;
            }
            self.send(Rank::ZERO, message);
        }
    }

    fn send(&mut self, to: Rank, message: Message) {
        if to == self.fabric.me() {
            return self.loopback.push_back(message);
        }
        if let Err(error) = wire::encode(&message, &mut self.leaves) {
            return self.fail(format!("{to} cannot be sent what concerns it: {error}"));
        }
        self.traffic[0] += 1;
        self.traffic[1] += self.leaves.len() as u64;
        if let Err(error) = self.fabric.send(to, &mut self.leaves) {
            match error {
                // Who has left needs no more messages.
                FabricError::Gone(_) if self.over => {}
                _ => self.fail(error.to_string()),
            }
        }
    }

    /// This rank cannot go on: tells rank 0, which stops the run.
    fn fail(&mut self, reason: String) {
        if self.broken.is_some() {
            return;
        }
        tracing::error!("{reason}");
        self.broken = Some(reason.clone());
        self.send(Rank::ZERO, Message::Broken { reason });
    }

    /// Rank 0's half.
    pub(in crate::runtime) fn head(&mut self) -> Option<&mut CoordinatorDriver> {
        self.head.as_mut()
    }

    /// Messages that rank 0's half wants sent outside a turn.
    pub(in crate::runtime) fn post(&mut self, crew: &Executor, messages: Vec<(Rank, Message)>) {
        self.send_all(messages);
        self.run_loopback(crew);
    }
}
